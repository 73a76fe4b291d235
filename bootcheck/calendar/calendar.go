// Package calendar says by which date certificates and bundles are checked on a device
// that may have no clock: many begin each boot in 1970 and never reach a time server.
package calendar

import (
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// FileName is a file in the spool directory: the newest date that a signature has
// proved here, in the form of RFC 3339.
const FileName = "newest-date"

// madeFile is in the same form the newest date of a signed channel.
const madeFile = "newest-channel-date"

// maxAhead is how far beyond the date of the program a kept date, and the clock beyond
// what is certain, are trusted: a damaged one must not make everything expired for ever.
const maxAhead = 10 * 365 * 24 * time.Hour

// A Calendar is the latest of the system's clock, the date of this program, and the
// newest first day of a server's certificate that was found good here, in any boot.
// (Manifests hold no date of their making, so that a build can be repeated.) Unless
// the clock was set ahead, that is never later than the true date, so nothing good is
// taken for expired. What expired between the two is seen when the clock is set.
//
// A channel that was verified has a date, too, of a key that is online. It counts for
// bundles and channels, and not for certificates: a thief of that key could make all of
// them expired, and cut the devices off from what ends it.
type Calendar struct {
	Clock func() time.Time // the system's
	mu    sync.Mutex
	floor date // the latest of what is not the clock
	made  date // of channels
}

// A date is one that is kept.
type date struct {
	time.Time
	name  string // of the file; empty: nothing is kept
	newer bool   // it is later than the file says
}

// Open reads the dates that are kept in dir and writes nothing. No file, or one that
// others can have written, says nothing. clock nil is the real one.
func Open(dir string, clock func() time.Time) *Calendar {
	c := &Calendar{Clock: clock, floor: open(filepath.Join(dir, FileName)), made: open(filepath.Join(dir, madeFile))}
	if clock == nil {
		c.Clock = time.Now
	}
	return c
}

func open(name string) date {
	d := date{Time: bootcheck.BuildDate(), name: name}
	if text, err := bootcheck.ReadRegular(name, 100); err == nil && bootcheck.CheckOwner(name) == nil {
		t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
		if err == nil && t.After(d.Time) && t.Before(d.Add(maxAhead)) {
			d.Time = t
		}
	}
	return d
}

// Today is the date to check bundles and channels by. A clock that is too far ahead of what
// is certain says nothing: with it all of them would be expired.
func (c *Calendar) Today() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.floor.Time
	if c.made.After(known) {
		known = c.made.Time
	}
	if now := c.Clock(); now.After(known) && now.Before(known.Add(maxAhead)) {
		return now
	}
	return known
}

// Certificates is the date to check certificates by.
func (c *Calendar) Certificates() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.Clock(); now.After(c.floor.Time) {
		return now
	}
	return c.floor.Time
}

// Unset reports whether the system's clock shows less than what is certain.
func (c *Calendar) Unset() bool { return c.Clock().Before(c.Certificates()) }

// Learn takes the date of a trusted certificate: today is that day, or later.
func (c *Calendar) Learn(t time.Time) { c.learn(&c.floor, t) }

// LearnChannel takes the date of a verified channel.
func (c *Calendar) LearnChannel(t time.Time) { c.learn(&c.made, t) }

func (c *Calendar) learn(d *date, t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(d.Time) {
		d.Time, d.newer = t, true
	}
}

// Volatile makes Save keep nothing, for a dry run.
func (c *Calendar) Volatile() { c.floor.name, c.made.name = "", "" }

// Save keeps what was learned for a later boot. An error is ignored: the date is
// learned again. Certificates change a few times a year, and so does their file; that of
// channels changes with their serial.
func (c *Calendar) Save() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range []*date{&c.floor, &c.made} {
		if d.newer && d.name != "" {
			err := bootcheck.ReplaceFile(d.name, []byte(d.UTC().Format(time.RFC3339)+"\n"), 0o600, true)
			d.newer = err != nil
		}
	}
}
