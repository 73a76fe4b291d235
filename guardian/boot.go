package guardian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/metrics"
)

// boot decides which version this boot runs and makes the links say so. It is
// run before the services start, so it restarts nothing. It never stops a boot:
// after any error, the links name what they named before, and the
// services start from them.
func (g *guardian) boot(ctx context.Context, last LastBoot) error {
	unlock, err := g.store.Lock(ctx, lockWait)
	if err != nil {
		return fmt.Errorf("cannot decide: %w; starting the current version", err)
	}
	defer unlock()

	active, err := g.active()
	switch {
	case bootcheck.Inconclusive(err):
		return fmt.Errorf("cannot decide: %w; starting the current version", err)
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
			g.logf("no version is installed: nothing to decide")
			return nil
		}
		if active, err = g.adopt(ctx, "no record names the current version"); err != nil {
			return err
		}
	}
	record := active.Record
	if active.Damage != "" {
		g.announce(eventRecordDamaged, fieldsOf(record), "%s", active.Damage)
	}

	end := g.lastBoot(record)
	if last != "" {
		end.last, end.why = last, "--last-boot says so"
	}
	seen := bootcheck.BootSeen(g.cfg.Run)
	if end.last == LastHard {
		g.announce(eventHardEnd, fieldsOf(record), "the last boot ended in a system crash: %s", end.why)
	}
	if end.always && !record.WatchdogAlways {
		g.logf("the hardware watchdog reports a reset after an orderly shutdown: its bit is ignored from now on")
	}
	disk := g.look(ctx, record)
	if why := disk.Damaged[record.Current.Version]; why != "" && g.repairVersion(ctx, record.Current, why) {
		delete(disk.Damaged, record.Current.Version)
	}
	boot := Boot{ID: g.bootID, New: !seen, Last: end.last, Limits: g.cfg.Trial.BootLimits}
	var d Decision
	decide := func() error {
		d, err = g.settle(ctx, disk, func(disk Disk) Decision { return Decide(record, disk, boot) })
		if err != nil {
			return fmt.Errorf("cannot decide: %w; starting the current version", err)
		}
		if d.Run.Same(record.Current) && !d.Undecided && errors.Is(g.store.There(d.Run.Version), fs.ErrNotExist) {
			d = g.lastResort(ctx, record, d)
		}
		if d.Next != nil {
			end.remember(d.Next)
		}
		return nil
	}
	if err := decide(); err != nil {
		return err
	}
	addEvidence := func() {
		if d.Action == RollBack && len(d.Next.LastRollback.BootIDs) > 0 {
			// The trial never ended, so what it said stands in the boots that ended.
			evidence := d.Next.LastRollback
			evidence.Journal = g.journalTail(ctx, first(g.cfg.Services), endedBoot(record))
			if text := panicText(maxEvidence - len(evidence.Output) - 64); end.newPanic(record) && text != "" {
				evidence.Output += "; the kernel said last:\n" + text
			}
		}
	}
	addEvidence()
	err = g.commitDecision(ctx, d)
	undecided := errUndecided // why is in the journal
	if d.Action == Activate && noRoom(err) {
		// A trial that continues meanwhile must end, however full the disk is.
		undecided, disk.NotNow = err, "no space"
		if err := decide(); err != nil {
			return err
		}
		addEvidence()
		err = g.commitDecision(ctx, d)
	}
	g.noteLastBoot(record, end.last, last != "", seen)
	tooMany := false
	if d.Action == Count && noRoom(err) {
		var noteErr error
		if tooMany, noteErr = g.tooManyUncounted(record); noteErr != nil {
			err = fmt.Errorf("%v; cannot note that it is not counted: %w", err, noteErr)
		}
	}
	if tooMany {
		counted := d.Next
		counted.Trial.Unclean += bootcheck.SpareBoots
		f := Failure{Cause: bootcheck.CauseBoots, Output: "unconfirmed, and the disk has no room to count its boots"}
		back, settleErr := g.markBad(ctx, counted, disk, f)
		if settleErr == nil && back.Action == RollBack {
			d = back
			addEvidence()
			err = g.commitDecision(ctx, d)
		}
	}
	if err != nil {
		err = fmt.Errorf("%w; starting the current version", err)
		if d.Action == Hold && !bootcheck.Switched(err) {
			// Not even its directory is there, or the disk takes nothing: that does not
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
			return fmt.Errorf("cannot rewrite the record: %w; starting the current version", err)
		}
	}
	switch {
	case d.Undecided:
		return undecided
	case d.Next != nil && d.Next.Phase == bootcheck.PhaseHold:
		return holdError(d.Next)
	case d.Next == nil && record.Phase == bootcheck.PhaseHold:
		g.announce(eventHold, fieldsOf(record), "%s", d.Why)
		return holdError(record)
	}
	return nil
}

// tooManyUncounted reports whether a boot that a full disk cannot count must roll back:
// without counting nothing would ever end the trial of a version that crashes the device
// and fills the disk. A few boots go uncounted.
func (g *guardian) tooManyUncounted(record *bootcheck.Record) (bool, error) {
	if !record.Phase.Counted() {
		return false, nil
	}
	spared, err := g.store.SpareBoot(g.bootID)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // nothing is prepared to roll back to
	}
	return err == nil && !spared, err
}

// noteLastBoot keeps for the fleet's figures how the boot before this one ended. An
// orderly end leaves its mark only while that matters (see marks): else it is not known,
// unless it was said.
func (g *guardian) noteLastBoot(record *bootcheck.Record, last LastBoot, said, seen bool) {
	if g.cfg.Metrics.File == "" {
		return
	}
	class := string(last)
	if last == LastUnclean && !said && !marks(record) {
		class = metrics.BootUnknown
	}
	if err := bootcheck.NoteLastBoot(g.cfg.Run, g.bootID, class, seen); err != nil {
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
	return bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "on hold with version %s: %s", r.Current, bootcheck.HoldText(r.HoldReason)).
		WithAdvice("`ota-guardian why` shows the evidence; `ota-apply install` or `ota-guardian rollback` ends the hold")
}

// adopt makes a record for a store that has lost every one, or whose first
// install was ended before its switch: the newest version that is intact runs, on
// trial since it is not known whether it ever was good; the newest that is
// read-only is factory. The newest one is by name, as no clock is trusted. No
// more versions are hashed than are needed. Nothing is written; the error has
// ExitHeld when nothing verifies.
func (g *guardian) adopt(ctx context.Context, why string) (*bootcheck.Active, error) {
	names, err := g.store.VersionNames()
	if err != nil {
		return nil, err
	}
	intact, factory, unknown := g.candidates(ctx, names)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err() // a guardian that was told to end has not seen the disk
	case len(intact) == 0 && unknown != nil:
		return nil, fmt.Errorf("cannot decide: %w; starting the current version", unknown)
	case len(intact) == 0:
		return nil, bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "no version in %s is intact and accepted", g.store.Dir()).
			WithAdvice("install a version with `ota-apply install`")
	}
	record := &bootcheck.Record{Schema: bootcheck.Schema, Factory: factory, Current: intact[0],
		Phase: bootcheck.PhaseTrial, Trial: &bootcheck.Trial{BootID: g.bootID}}
	if len(intact) > 1 {
		record.Previous = intact[1]
	}
	return &bootcheck.Active{Record: record, Damage: fmt.Sprintf("%s: starting version %s", why, record.Current)}, nil
}

// lastResort is the Decision of a boot whose current version is gone, and which has none to roll
// back to: the newest version that is intact and accepted runs, on trial, though it was never
// confirmed here. One that failed here runs only if there is no other. none, if there is none.
func (g *guardian) lastResort(ctx context.Context, record *bootcheck.Record, none Decision) Decision {
	names, err := g.store.VersionNames()
	if err != nil {
		g.logf("%v", err)
		return none
	}
	failed := func(name string) bool {
		return slices.ContainsFunc(record.Blocked, func(b bootcheck.Blocked) bool { return b.Version == name })
	}
	for _, names := range [][]string{slices.DeleteFunc(slices.Clone(names), failed), names} {
		if intact, _, _ := g.candidates(ctx, names); len(intact) > 0 {
			next := record.Activate(intact[0], "", g.bootID, nil, func(*bootcheck.Ref) bool { return false })
			return Decision{Action: Activate, Run: intact[0], Next: next,
				Why: fmt.Sprintf("version %s is gone, and no version is left to roll back to: starting version %s", record.Current, intact[0])}
		}
	}
	return none
}
