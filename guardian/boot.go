package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/metrics"
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
	case bootcheck.Inconclusive(err):
		return fmt.Errorf("nothing is decided, the boot goes on with the links as they are: %w", err)
	case (active == nil || err != nil) && g.store.Foreign():
		// Nothing is decided for a program that keeps these links and may still run.
		g.logf("the links of %s are those of another program and stay as they are; `ota-guardian adopt` takes them over", g.store.Dir())
		return nil
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
		g.announce(eventRecordDamaged, fieldsOf(record), "%s", active.Damage)
	}

	end := g.lastBoot(record)
	if last != "" {
		end.last, end.why = last, "so it was said"
	}
	seen := bootcheck.BootSeen(g.cfg.Run)
	g.noteLastBoot(record, end.last, last != "", seen)
	if end.last == LastHard {
		g.announce(eventHardEnd, fieldsOf(record), "the last boot ended hard: %s", end.why)
	}
	if end.always && !record.WatchdogAlways {
		g.logf("the hardware watchdog says after an orderly shutdown that it reset the machine: its bit is no evidence from now on")
	}
	disk := g.look(ctx, record)
	if why := disk.Damaged[record.Current.Version]; why != "" && g.heal(ctx, record.Current, why) {
		delete(disk.Damaged, record.Current.Version)
	}
	boot := Boot{ID: g.bootID, New: !seen, Last: end.last, Budget: Budget{
		Hard: g.cfg.Trial.Hard, Unclean: g.cfg.Trial.Unclean, Clean: g.cfg.Trial.Clean, Streak: hardStreak}}
	d, err := g.settle(ctx, disk, func(disk Disk) Decision { return Decide(record, disk, boot) })
	if err != nil {
		return fmt.Errorf("nothing is decided, the boot goes on with the links as they are: %w", err)
	}
	if d.Next != nil {
		end.remember(d.Next)
	}
	addEvidence := func() {
		if d.Action == FallBack && len(d.Next.LastRollback.BootIDs) > 0 {
			// It never came to a verdict, so what it said stands in the boots that ended.
			evidence := d.Next.LastRollback
			evidence.Journal = g.journalTail(ctx, first(g.cfg.Services), endedBoot(record))
			if text := panicText(maxEvidence - len(evidence.Output) - 64); end.newPanic(record) && text != "" {
				evidence.Output += "; the kernel said last:\n" + text
			}
		}
	}
	addEvidence()
	err = g.carryOut(ctx, d)
	tooMany := false
	if d.Action == Count && bootcheck.IsNoSpace(err) {
		var noteErr error
		if tooMany, noteErr = g.tooManyUncounted(record); noteErr != nil {
			err = fmt.Errorf("%v; nor can it be noted that it is not counted: %w", err, noteErr)
		}
	}
	if tooMany {
		counted := d.Next
		counted.Trial.Unclean += bootcheck.SpareBoots
		f := Failure{Cause: bootcheck.CauseBoots, Output: "no verdict yet, and no room on the disk to count the boots"}
		back, settleErr := g.settle(ctx, disk, func(disk Disk) Decision { return Condemn(counted, disk, g.bootID, f) })
		if settleErr == nil && back.Action == FallBack {
			d = back
			addEvidence()
			err = g.carryOut(ctx, d)
		}
	}
	if err != nil {
		err = fmt.Errorf("the boot goes on with the links as they are: %w", err)
		if d.Action == Hold && !bootcheck.Switched(err) {
			// Not even its folder is there, or the disk takes nothing: that does not
			// make it any better.
			return (&bootcheck.Error{Exit: bootcheck.ExitHeld, Code: bootcheck.CodeRollbackFailed, Err: err}).
				WithAdvice("install a version with `ota-apply install`")
		}
		return err
	}
	if d.Next == nil && (active.Damage != "" || end.isNews(record)) {
		next := record.Clone() // the same again, whole
		end.remember(next)
		if err := g.commit(ctx, next); err != nil {
			return fmt.Errorf("cannot write the record anew, the boot goes on with the links as they are: %w", err)
		}
	}
	switch {
	case d.Unjudged:
		return errUnjudged // why is in the journal
	case d.Next != nil && d.Next.Phase == bootcheck.PhaseHold:
		return holdError(d.Next)
	case d.Next == nil && record.Phase == bootcheck.PhaseHold:
		g.announce(eventHold, fieldsOf(record), "%s", d.Why)
		return holdError(record)
	}
	return nil
}

// tooManyUncounted reports whether a boot that a full disk cannot count is to fall back:
// without counting nothing would ever end the trial of a version that crashes the device
// and fills the disk. A few boots go uncounted.
func (g *guardian) tooManyUncounted(record *bootcheck.Record) (bool, error) {
	if !record.Phase.Counted() {
		return false, nil
	}
	spared, err := g.store.SpareBoot(g.bootID)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // nothing is prepared to fall back to
	}
	return err == nil && !spared, err
}

// noteLastBoot keeps for the fleet's figures how the boot before this one ended. An
// orderly end leaves its mark only while that matters (see marks): else nobody knows,
// unless it was said.
func (g *guardian) noteLastBoot(record *bootcheck.Record, last LastBoot, said, seen bool) {
	class := string(last)
	if last == LastUnclean && !said && !marks(record) {
		class = metrics.BootUnknown
	}
	if err := g.desk().Booted(g.bootID, class, seen); err != nil {
		g.logf("cannot keep for the metrics how the last boot ended: %v", err)
	}
}

// endedBoot is the boot before this one, as far as the record counted it; empty: it did not.
func endedBoot(record *bootcheck.Record) string {
	if record.Trial != nil {
		return record.Trial.BootID
	}
	if n := len(record.HardStreak); n > 0 {
		return record.HardStreak[n-1]
	}
	return ""
}

// holdError is what a program ends with on a device that is on hold.
func holdError(r *bootcheck.Record) error {
	text := "nothing that works is left to fall back to"
	if r.HoldReason == bootcheck.HoldEnvironment {
		text = "two versions fail the same check, so it is something else"
	}
	return bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "on hold with version %s: %s", r.Current, text).
		WithAdvice("`ota-guardian why` shows the evidence; install a version or use `ota-guardian rollback` to end the hold")
}

// adopt makes a record for a store that has lost every one, or whose first
// install was ended before its switch: the newest version that is whole runs, on
// trial since nobody knows whether it ever was good; the newest that is
// read-only is factory. The newest one is by name, as no clock is trusted. No
// more versions are hashed than are needed. Nothing is written; the error has
// ExitHeld when nothing verifies.
func (g *guardian) adopt(ctx context.Context, why string) (*bootcheck.Active, error) {
	names, err := g.store.VersionNames()
	if err != nil {
		return nil, err
	}
	whole, factory, unknown := g.candidates(ctx, names)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err() // who was told to end has not seen the disk
	case len(whole) == 0 && unknown != nil:
		return nil, fmt.Errorf("nothing is decided, the boot goes on with the links as they are: %w", unknown)
	case len(whole) == 0:
		return nil, bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "no version in %s is whole and may run", g.store.Dir()).
			WithAdvice("install a version with `ota-apply install`")
	}
	record := &bootcheck.Record{Schema: bootcheck.Schema, Factory: factory, Current: whole[0],
		Phase: bootcheck.PhaseTrial, Trial: &bootcheck.Trial{BootID: g.bootID}}
	if len(whole) > 1 {
		record.Previous = whole[1]
	}
	return &bootcheck.Active{Record: record, Damage: fmt.Sprintf("%s; going on with %s", why, record.Current)}, nil
}

// errNothing is what a command ends with that needs a version where there is none.
var errNothing = (&bootcheck.Error{Err: errors.New("no version is installed")}).
	WithAdvice("install one with `ota-apply install`")
