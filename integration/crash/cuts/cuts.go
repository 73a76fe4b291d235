// Package cuts takes the power away from a whole device, in QEMU, and judges what
// is left: while a good version is installed, put on trial and confirmed, and while
// a bad one is installed and taken back.
//
// QEMU need not be killed for that. A process that is killed leaves its files as
// they are, so the disk of a machine that is stopped for a moment is the one that a
// power cut at that moment leaves (vm.Freeze; a test compares the two): one run
// gives dozens of cuts. Each is judged on the host at once, by package invariants
// and by what the programs said before; then it is booted in a machine of its own,
// where nobody touches it and it must come to a confirmed version by itself, and
// take the next update.
//
//	story.go   what is cut, the stages of it, and what may be found
//	run.go     one run and its cuts
//	delta.go   the disk of a cut, in few bytes
//	judge.go   what a disk says, on the host
//	boot.go    what a device makes of it
//	blocks.go  the same for every write that a guest made, in any order
//
// What this finds: a missing fsync, since the page cache of the guest is lost. What
// it does not: a disk that loses or reorders what it has taken and not flushed; that
// is for blocks.go.
package cuts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/debian"
	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/vm"
)

// limits of the devices. What is stable is so for a second: a device that proves
// itself longer is cut no other way. A run takes half a minute, and 5 were seen on a
// host that had ten times to do what it can.
var limits = device.Limits{Stable: time.Second, Deadline: 2 * time.Minute, Wait: 15 * time.Minute}

// A World is what all runs begin with: a device that runs 1.1.0 over factory 1.0.0,
// with the bundles of all stories at hand, saved while it was running.
type World struct {
	dir     string
	options vm.Options
	flows   *flows.World // for what happens next on the host

	base    *Disk  // as it was saved
	factory string // invariants.Fingerprint of factory, then
}

// NewWorld makes one below dir, which must exist. It takes half a minute. The
// caller closes it.
func NewWorld(ctx context.Context, dir string) (*World, error) {
	overlay, err := device.Overlay(ctx)
	if err != nil {
		return nil, err
	}
	w := &World{dir: dir, options: vm.Options{Overlay: overlay, DataSize: 192 << 20}}
	if err := os.Mkdir(filepath.Join(dir, "flows"), 0o755); err != nil {
		return nil, err
	}
	if w.flows, err = flows.NewWorld(ctx, filepath.Join(dir, "flows")); err != nil {
		return nil, err
	}
	if err := w.save(ctx); err != nil {
		return nil, fmt.Errorf("cannot prepare the device: %w", err)
	}
	if w.base, err = w.Look(ctx, w.disk()); err != nil {
		return nil, err
	}
	if len(w.base.Found.Problems) > 0 || w.base.Found.State != before {
		return nil, fmt.Errorf("the device that was prepared is %v, %v, want %v", w.base.Found.State, w.base.Found.Problems, before)
	}
	w.factory = w.base.Factory
	return w, nil
}

// Close ends what NewWorld started. The files stay.
func (w *World) Close() { w.flows.Close() }

func (w *World) saved() string { return filepath.Join(w.dir, "saved") }

// disk is that of the device as it was saved.
func (w *World) disk() string { return filepath.Join(w.saved(), "data.img") }

// save makes the device.
func (w *World) save(ctx context.Context) error {
	m, err := vm.Start(ctx, w.options)
	if err != nil {
		return err
	}
	defer m.Stop()
	d, err := device.New(ctx, m, limits)
	if err != nil {
		return err
	}
	if err := d.Factory(ctx, device.Version{Name: "1.0.0", Release: 1}); err != nil {
		return err
	}
	r, err := d.Install(ctx, device.Version{Name: "1.1.0", Release: 2})
	if err == nil && r.Code != 0 {
		err = errors.New(r.String())
	}
	if err != nil {
		return fmt.Errorf("installing 1.1.0: %w", err)
	}
	if err := d.Reach(ctx, device.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: "confirmed", Told: "success"}); err != nil {
		return err
	}
	for _, v := range []device.Version{good, bad, next} {
		if _, err := d.Offer(ctx, v); err != nil {
			return err
		}
	}
	// So that the disk alone is what the stories begin with.
	if _, err := d.Must(ctx, "sync"); err != nil {
		return err
	}
	return m.Save(ctx, w.saved())
}

// resume is a machine that goes on where the prepared device is.
func (w *World) resume(ctx context.Context, dir, blockLog string) (*vm.VM, *device.Device, error) {
	o := w.options
	o.From, o.Dir, o.BlockLog = w.saved(), dir, blockLog
	m, err := vm.Start(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	return m, &device.Device{Machine: m, Limits: limits}, nil
}

// before is the device that was prepared.
var before = invariants.State{Phase: "confirmed", Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0"}

// The versions. next is the good install that every device must be able to take in
// the end.
var (
	good = device.Version{Name: "1.2.0", Release: 3, Payload: 6 << 20}
	bad  = device.Version{Name: "1.3.0", Release: 4, Payload: 1 << 20, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
	next = device.Version{Name: "1.4.0", Release: 5}
)

// Missing lists what the host lacks; empty when nothing is missing.
func Missing() []string {
	missing := vm.Missing()
	if os.Geteuid() != 0 {
		missing = append(missing, "root, to mount a disk from a file")
	}
	for _, tool := range []string{"mount", "umount"} {
		if _, err := debian.LookTool(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	return missing
}
