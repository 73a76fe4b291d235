package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
)

// boot decides which version this boot runs and makes the links say so. It is
// run before the services start, so it restarts nothing. It never stops a boot:
// whatever its error is, the links name what they named before, and the
// services start from them.
func (g *guardian) boot(ctx context.Context, last LastBoot) error {
	unlock, err := g.store.Lock(ctx, lockWait)
	if err != nil {
		return fmt.Errorf("nothing is decided, the boot goes on with the links as they are: %w", err)
	}
	defer unlock()

	active, err := g.active()
	switch {
	case err != nil && inconclusive(ctx, err):
		return fmt.Errorf("nothing is decided, the boot goes on with the links as they are: %w", err)
	case err != nil:
		g.logf("%v", err)
		if active, err = g.adopt(ctx, "every record is lost"); err != nil {
			return err
		}
	case active == nil:
		names, err := g.store.VersionNames()
		if err != nil {
			return err
		}
		if len(names) == 0 {
			g.logf("no version is installed, there is nothing to decide")
			return nil
		}
		if active, err = g.adopt(ctx, "nothing says which version is current"); err != nil {
			return err
		}
	}
	record := active.Record
	if active.Damage != "" {
		g.logf("%s", active.Damage)
	}

	if last == "" {
		last = g.lastBoot(record)
	}
	boot := Boot{ID: g.bootID, Last: last, Budget: g.cfg.Trial.Hard}
	d, err := g.settle(ctx, g.look(ctx, record), func(disk Disk) Decision { return Decide(record, disk, boot) })
	if err != nil {
		return fmt.Errorf("nothing is decided, the boot goes on with the links as they are: %w", err)
	}
	g.logf("%s: %s", d.Action, d.Why)

	next := d.Next
	if next == nil && active.Damage != "" {
		next = record.Clone() // the same again, whole
	}
	if next != nil {
		if err := g.store.Commit(next); err != nil {
			return fmt.Errorf("cannot %s, the boot goes on with the links as they are: %w", d.Action, err)
		}
		record = next
	}
	if record.Phase == bootcheck.PhaseHold {
		return holdError(record)
	}
	return nil
}

// holdError is what a program ends with on a device that is on hold.
func holdError(r *bootcheck.Record) error {
	text := "nothing that works is left to fall back to"
	if r.HoldReason == bootcheck.HoldEnvironment {
		text = "two versions fail the same check, so it is something else"
	}
	return bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "on hold with version %s: %s", r.Current, text).
		WithAdvice("`ota-guardian status` shows the evidence; install a version or use `ota-guardian rollback` to end the hold")
}

// adopt makes a record for a store that has lost every one, or whose first install
// was ended before its switch: the newest version that is whole runs, on trial
// since nobody knows whether it ever was good; the newest that is read-only is factory. The newest one is by name, as no clock is
// trusted. Nothing is written; the error has ExitHeld when nothing verifies.
func (g *guardian) adopt(ctx context.Context, why string) (*bootcheck.Active, error) {
	names, err := g.store.VersionNames()
	if err != nil {
		return nil, err
	}
	var whole []*bootcheck.Ref // newest first
	var factory *bootcheck.Ref
	for _, version := range slices.Backward(names) {
		snapshot, err := g.store.Snapshot(version)
		if err == nil {
			err = bootcheck.CheckTree(ctx, snapshot.Dir, snapshot.Manifest, bootcheck.Content)
		}
		if err != nil {
			g.logf("version %s is not a candidate: %v", version, err)
			continue
		}
		if info, err := os.Stat(snapshot.Dir); err == nil && info.Mode().Perm()&0o222 == 0 {
			if factory == nil {
				factory = &snapshot.Ref
			}
		}
		whole = append(whole, &snapshot.Ref)
	}
	record := &bootcheck.Record{Schema: bootcheck.Schema, Factory: factory}
	switch {
	case len(whole) > 0:
		record.Phase, record.Trial = bootcheck.PhaseTrial, &bootcheck.Trial{BootID: g.bootID}
		record.Current = whole[0]
		if len(whole) > 1 {
			record.Previous = whole[1]
		}
	case factory != nil:
		record.Phase, record.Current = bootcheck.PhaseFactory, factory
	default:
		return nil, bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "no version in %s is whole", g.store.Dir()).
			WithAdvice("install a version with `ota-apply install`")
	}
	return &bootcheck.Active{Record: record, Damage: fmt.Sprintf("%s; going on with %s", why, record.Current)}, nil
}

// errNothing is what a command ends with that needs a version where there is none.
var errNothing = (&bootcheck.Error{Err: errors.New("no version is installed")}).
	WithAdvice("install one with `ota-apply install`")
