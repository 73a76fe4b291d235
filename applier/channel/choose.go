package channel

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
)

// A Device is what Choose knows of one.
type Device struct {
	ID      string // never changes, and no other device has it
	Model   string // empty: releases for every model are taken
	Empty   bool   // no version was ever installed
	Release int64  // of the current version; 0: not counted
	Floor   int64  // the lowest accepted release
	Blocked func(*Release) bool
}

// Choose returns the release that d should run next; nil: none, it keeps what it runs. It
// reads no clock. It is the highest release of which all this is true:
//
//	it is for the model, above the current one, and not below the lowest accepted one
//	it is not stopped, and not blocked on the device
//	the device is in its wave, see InWave
//	the current release is at least from_release
//	no barrier lies between: it is run first. A barrier that is stopped is passed only
//	by a later barrier, which takes its place
//
// An empty device needs no from_release and passes barriers: it has no data to migrate.
func (c *Channel) Choose(d *Device) *Release {
	mine := func(r *Release) bool {
		return (d.Model == "" || slices.Contains(r.Models, d.Model)) && r.Release > d.Release
	}
	stopped := func(r *Release) bool { return slices.Contains(c.Stop, r.Manifest) }
	var best *Release
	for i := range c.Releases {
		r := &c.Releases[i]
		if !mine(r) || stopped(r) || r.Release < d.Floor || d.Blocked(r) || !r.InWave(d.ID) {
			continue
		}
		if best != nil && best.Release > r.Release {
			continue
		}
		if !d.Empty && (r.FromRelease > d.Release || slices.ContainsFunc(c.Releases, func(b Release) bool {
			return b.Barrier && mine(&b) && b.Release < r.Release && !(stopped(&b) && r.Barrier)
		})) {
			continue
		}
		best = r
	}
	return best
}

// InWave reports whether the device is among the first Percent of all that take r. A device that is
// in stays in when Percent grows, and the first devices of one version are others than those of
// the next.
func (r *Release) InWave(device string) bool { return r.bucket(device) < r.Percent }

// bucket is in which of a hundred equal parts of all devices this one is for r, from 0.
func (r *Release) bucket(device string) int {
	sum := sha256.Sum256([]byte(r.Manifest + device))
	part, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:]), 100)
	return int(part)
}
