package guardian

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
)

// Action is what a Decision asks for.
type Action string

const (
	Keep     Action = "keep"      // start what the links say; nothing is written
	Count    Action = "count"     // commit the counters, then start what the links say
	RollBack Action = "fall-back" // commit other links, then start what they say
	Hold     Action = "hold"      // commit the hold; the current version continues, nothing switches any more
	Confirm  Action = "confirm"   // commit that the current version was confirmed
	Activate Action = "activate"  // commit what was asked for at this boot, then start that
)

// Decision is what the guardian decides. Nothing of it is done yet.
type Decision struct {
	Action Action
	Run    *bootcheck.Ref    // the version to run
	Next   *bootcheck.Record // to commit; nil: nothing changes
	Why    string            // one clause for the journal
	// Undecided: another Action would be right, but for a version that could not be
	// looked at. To ask again later is right.
	Undecided bool
}

// Disk is what is known of the snapshots when a decision is made.
type Disk struct {
	// Damaged has a version's name with what is wrong with it: files differ or
	// it is not there. A version that is not in it is intact as far as is known.
	Damaged map[string]string
	// Unknown has a version's name with why it could not be looked at (see
	// bootcheck.Inconclusive). It may be intact: it is not run now, and nothing else
	// changes for it.
	Unknown map[string]string
	// Refused has a version's name with why it may not run: it was never confirmed here,
	// and a revoked key signed it.
	Refused map[string]string
	// NotNext is why an install of the next version is refused. It is asked of that as
	// the next one only: where it ran before, the device rolls back to it all the same.
	NotNext string
	// NotNow is why the next version cannot be put on trial in this boot.
	NotNow string
}

func (d Disk) intact(ref *bootcheck.Ref) bool {
	return d.Damaged[ref.Version] == "" && d.Refused[ref.Version] == ""
}

// rollbackTarget is the version in the place of the current one of record, nil: there is none,
// and the versions that come before it in the order and cannot run. unknown: one of
// them could not be looked at.
func (d Disk) rollbackTarget(record *bootcheck.Record) (target *bootcheck.Ref, level string, skipped []bootcheck.Skipped, unknown bool) {
	target, level = record.RollbackTarget(func(ref *bootcheck.Ref) bool {
		why := cmp.Or(d.Damaged[ref.Version], d.Refused[ref.Version], d.Unknown[ref.Version])
		if why == "" {
			return true
		}
		unknown = unknown || d.intact(ref)
		s := bootcheck.Skipped{Version: ref.Version, Why: bootcheck.Clip(why, 300)}
		if !slices.Contains(skipped, s) {
			skipped = append(skipped, s)
		}
		return false
	})
	return target, level, skipped, unknown
}

// skippedText names skipped in a text that it is the end of.
func skippedText(skipped []bootcheck.Skipped) string {
	text := ""
	for _, s := range skipped {
		text += fmt.Sprintf("; skipped %s: %s", s.Version, s.Why)
	}
	return text
}

// LastBoot is how the boot before this one ended.
type LastBoot string

const (
	LastClean   LastBoot = "clean"   // an orderly shutdown, also with other evidence
	LastUnclean LastBoot = "unclean" // the power went, or it is not known
	LastHard    LastBoot = "hard"    // hardware watchdog or kernel panic
)

// words is how the boot ended, for people.
func (l LastBoot) words() string {
	switch l {
	case LastClean:
		return "reboot"
	case LastHard:
		return "system crash"
	}
	return "power cut"
}

// hardStreak is how many hard ends of a confirmed version are too many, one after the
// other, with no healthy boot between. A single watchdog reset happens to a
// good version, too; a version that worked for months is rolled back only when the
// device is in a loop that it does not come out of by itself.
const hardStreak = 5

// Boot is this boot: which one it is, what came before it, and how many
// unconfirmed boots are too many.
type Boot struct {
	ID string // empty: the kernel does not say
	// New: nothing in memory says that this boot was seen, so it is a new one also
	// if the ID is that of the boot before.
	New    bool
	Last   LastBoot
	Limits bootcheck.BootLimits
}

// is reports whether this boot is the one that a record names as id.
func (b Boot) is(id string) bool { return !b.New && b.ID == id }

// Failure is why a version is rolled back.
type Failure struct {
	Cause   bootcheck.Cause
	Check   string   // the health check that failed; empty: none did
	Output  string   // what it said
	Journal []string // what the unit that failed wrote last
	Seconds int      // how long the service crashed and was restarted; 0: not known
}

// Decide says what a boot runs: THE boot decision. It reads no clock and no
// file, changes nothing, and gives the same answer to the same question.
//
//	phase      current   the boot before ended       decision
//	---------  --------  --------------------------  ----------------------------------------------------
//	any        either    in any way, and a version   put that on trial; if it is damaged, blocked or
//	                     was asked for at this boot  refused, forget it and continue as below; if it cannot be
//	                                                 looked at, or the disk has no room for its trial, continue
//	                                                 as below and ask again at the next boot
//	hold       either    in any way                  keep; nothing switches
//	any other  refused   in any way                  roll back, cause "revoked"; with nothing else to run: hold
//	any other  damaged   in any way                  roll back, cause "damaged"; with nothing intact: hold;
//	                                                 with none that can be looked at: keep
//	any        intact    counted in this boot        keep: a boot is counted once
//	confirmed  intact    clean, unclean              keep; a streak of hard ends is over (as after a healthy boot, see Outlive)
//	confirmed  intact    hard, streak below 5        count the streak
//	confirmed  intact    hard, the 5th in a row      roll back, cause "hard-boots"; with nothing behind it: keep
//	trial      intact    below the class's limit     count: boot ID and how the last boot ended
//	trial      intact    at the class's limit        roll back, cause "boots"; with nothing behind it: keep
//	fallback   intact    as trial                    as trial, but rolls back to factory
//	factory    intact    in any way                  keep: nothing stands behind it, so it is never counted
//	unknown    intact    in any way                  keep: a newer program's phase is not ours to end
//
// The classes of a trial and their limits: hard (watchdog reset, kernel panic)
// 3, unclean (the power went) 6, clean (an orderly reboot) 10.
//
// Refused is what may not run here: never confirmed, and signed with a key that was
// revoked since. A version for this boot is refused for everything that an install is
// refused for: key, model, release, date, too.
//
// What a rollback runs instead, the first that is intact, not refused, not blocked and
// not current itself; nothing else is asked of it:
//
//	from confirmed, trial  previous, confirmed versions from the newest on, factory
//	from fallback          factory, confirmed versions from the newest on
//	from factory           confirmed versions from the newest on
//
// A version is counted at the boot after the one that it did not pass, so
// the boot that reaches the limit already runs the other version.
func Decide(record *bootcheck.Record, disk Disk, boot Boot) Decision {
	current := record.Current
	keep := func(format string, args ...any) Decision {
		return Decision{Action: Keep, Run: current, Why: fmt.Sprintf(format, args...)}
	}
	if n := record.Next; n != nil {
		refused := cmp.Or(disk.NotNext, disk.Refused[n.Version])
		may := refused == "" && disk.intact(&n.Ref) && record.BlockedBy(&n.Ref) == nil
		notNow := cmp.Or(disk.NotNow, disk.Unknown[n.Version])
		if may && notNow == "" {
			next := record.Activate(&n.Ref, n.AskedBy, boot.ID, n.Baseline, disk.intact)
			return Decision{Action: Activate, Run: &n.Ref, Next: next, Why: fmt.Sprintf("activated version %s, as requested before this boot; version %s ran before", &n.Ref, current)}
		}
		without := record.Clone()
		without.Next = nil
		d := Decide(without, disk, boot)
		if may {
			if d.Next != nil {
				d.Next.Next = record.Clone().Next
			}
			d.Undecided = true
			d.Why = fmt.Sprintf("cannot activate version %s, as requested before this boot (%s): the next boot tries again; %s", &n.Ref, notNow, d.Why)
			return d
		}
		if d.Next == nil {
			d.Action, d.Next = Count, without
		}
		d.Why = fmt.Sprintf("cannot activate version %s, as requested before this boot: %s; %s", &n.Ref, cmp.Or(refused, "it is damaged or blocked"), d.Why)
		return d
	}
	if record.Phase == bootcheck.PhaseHold {
		return keep("on hold with version %s (%s): %s", current, record.HoldReason, bootcheck.HoldText(record.HoldReason))
	}
	if why := disk.Refused[current.Version]; why != "" {
		return MarkBad(record, disk, boot.ID, Failure{Cause: bootcheck.CauseRevoked, Output: why})
	}
	if !disk.intact(current) {
		return MarkBad(record, disk, boot.ID, Failure{Cause: bootcheck.CauseDamaged, Output: disk.Damaged[current.Version]})
	}

	next := record.Clone()
	var count, limit int
	var failure Failure
	var what string // that was counted, for Why
	switch {
	case record.Phase == bootcheck.PhaseConfirmed:
		streak := record.HardStreak
		if n := len(streak); n > 0 && boot.is(streak[n-1]) {
			return keep("version %s is confirmed; this boot is counted already", current)
		}
		if boot.Last != LastHard && len(streak) == 0 {
			return keep("version %s is confirmed", current)
		}
		if boot.Last != LastHard {
			next.HardStreak = nil
			return Decision{Action: Count, Run: current, Next: next,
				Why: fmt.Sprintf("version %s is confirmed; the last boot ended in a %s: %d system crashes in a row are over", current, boot.Last.words(), len(streak))}
		}
		next.HardStreak = append(next.HardStreak, boot.ID)
		count, limit = len(next.HardStreak), hardStreak
		failure.Cause, what = bootcheck.CauseHard, "confirmed, after system crashes in a row:"
	case record.Phase.Counted():
		if boot.is(record.Trial.BootID) {
			return keep("version %s is unconfirmed; this boot is counted already", current)
		}
		t := next.Trial
		t.BootID = boot.ID
		t.BootIDs = append(t.BootIDs, boot.ID)
		switch boot.Last {
		case LastHard:
			t.Hard++
			count, limit = t.Hard, boot.Limits.Hard
		case LastClean:
			t.Clean++
			count, limit = t.Clean, boot.Limits.Clean
		default:
			t.Unclean++
			count, limit = t.Unclean, boot.Limits.Unclean
		}
		failure.Cause, what = bootcheck.CauseBoots, "unconfirmed: "+boot.Last.words()
	case record.Phase == bootcheck.PhaseFactory:
		return keep("version %s runs in phase %s: no boot is counted", current, record.Phase)
	default:
		return keep("version %s runs in phase %s, which a newer program wrote", current, record.Phase)
	}
	what = fmt.Sprintf("%s %d of %d", what, count, limit)
	if count < limit {
		return Decision{Action: Count, Run: current, Next: next, Why: fmt.Sprintf("version %s is %s", current, what)}
	}
	if target, _, skipped, unknown := disk.rollbackTarget(record); target == nil {
		d := keep("version %s is %s, and no version is left to roll back to%s", current, what, skippedText(skipped))
		d.Undecided = unknown
		return d
	}
	failure.Output = what
	return MarkBad(next, disk, boot.ID, failure)
}

// MarkBad says what happens to the current version when it has failed: at
// boot, or by its health in a boot that continues. Like Decide it is pure. The
// boot bootID is not counted against the current version from now on.
//
//	phase      failed how                             decision
//	---------  -------------------------------------  -------------------------------------------------
//	fallback   the check that rolled back the one       hold (environment): it is not the version. The newer
//	           before it                              one is unblocked, the current version continues
//	hold       in any way                             keep: nothing switches
//	any other  something to roll back to              block it, roll back (order: see Decide)
//	any other  nothing, as versions cannot be         keep: that passes
//	           looked at
//	any other  nothing to roll back to                hold (exhausted): the current version continues
//
// A version that was damaged is not blocked the first time: its content is not
// to blame, and installing it again repairs it. When it is damaged again, it is
// the version that changes its own files.
func MarkBad(record *bootcheck.Record, disk Disk, bootID string, failure Failure) Decision {
	current := record.Current
	if record.Phase == bootcheck.PhaseHold {
		return Decision{Action: Keep, Run: current, Why: fmt.Sprintf("version %s failed (%s); the device stays on hold", current, failure)}
	}
	next := record.Clone()
	next.Trial, next.HardStreak = nil, nil

	last := record.LastRollback
	if record.Phase == bootcheck.PhaseFallback && failure.Check != "" && last != nil && last.Check == failure.Check {
		next.Phase, next.HoldReason = bootcheck.PhaseHold, bootcheck.HoldEnvironment
		next.Unblock(last.From)
		return Decision{Action: Hold, Run: current, Next: next,
			Why: fmt.Sprintf("on hold: version %s fails check %q, as version %s did", current, failure.Check, last.From)}
	}

	evidence := &bootcheck.Rollback{
		From: current.Version, Level: bootcheck.LevelNone,
		Cause: failure.Cause, Check: failure.Check, Output: failure.Output, Journal: slices.Clone(failure.Journal), Seconds: failure.Seconds,
		Attempts: record.Trial.Attempts(), BootIDs: []string{},
	}
	if record.Trial != nil && record.Trial.BootIDs != nil {
		evidence.BootIDs = record.Trial.BootIDs
	}
	if failure.Cause == bootcheck.CauseHard {
		evidence.Attempts, evidence.BootIDs = len(record.HardStreak), slices.Clone(record.HardStreak)
	}
	target, level, skipped, unknown := disk.rollbackTarget(record)
	if target == nil && unknown {
		return Decision{Action: Keep, Run: current, Undecided: true,
			Why: fmt.Sprintf("version %s failed (%s), and no other version can be read%s", current, failure, skippedText(skipped))}
	}
	evidence.Skipped = skipped
	if target != nil {
		evidence.To, evidence.Level = target.Version, level
	}
	next.RolledBack(evidence)
	if target == nil {
		next.Phase, next.HoldReason = bootcheck.PhaseHold, bootcheck.HoldExhausted
		return Decision{Action: Hold, Run: current, Next: next,
			Why: "on hold: " + evidence.Detail() + skippedText(skipped)}
	}
	again := last != nil && last.From == current.Version && last.Cause == bootcheck.CauseDamaged
	if failure.Cause != bootcheck.CauseDamaged || again {
		next.Block(*current, failure.Cause, failure.Check)
	}
	var baseline map[string]bool
	if record.Trial != nil {
		baseline = record.Trial.Baseline // it failed under this version before the update
	}
	next.SwitchTo(target, level, bootID, baseline, disk.intact)
	return Decision{Action: RollBack, Run: target, Next: next,
		Why: evidence.Detail() + skippedText(skipped)}
}

// OperatorRollback runs target at an operator's request instead of the current version,
// which is blocked so that no server sends it again.
func OperatorRollback(record *bootcheck.Record, disk Disk, bootID string, target *bootcheck.Ref, level string) Decision {
	next := record.Clone()
	next.Trial, next.HoldReason, next.HardStreak, next.Next = nil, "", nil, nil
	next.RolledBack(&bootcheck.Rollback{
		From: record.Current.Version, To: target.Version, Level: level, Cause: bootcheck.CauseOperator,
		Attempts: record.Trial.Attempts(), BootIDs: []string{},
	})
	next.Unblock(target.Version)
	next.Block(*record.Current, bootcheck.CauseOperator, "")
	next.SwitchTo(target, level, bootID, nil, disk.intact)
	return Decision{Action: RollBack, Run: target, Next: next,
		Why: next.LastRollback.Summary()}
}

// MarkGood confirms the current version. release is its release
// counter: nothing older is installed from then on.
func MarkGood(record *bootcheck.Record, release int64) Decision {
	current := record.Current
	if !record.Phase.Unconfirmed() {
		return Decision{Action: Keep, Run: current, Why: fmt.Sprintf("version %s is %s", current, record.Phase)}
	}
	next := record.Clone()
	next.Phase, next.Trial, next.HardStreak = bootcheck.PhaseConfirmed, nil, nil
	next.Confirm(*current)
	next.Floor = max(next.Floor, release)
	return Decision{Action: Confirm, Run: current, Next: next, Why: fmt.Sprintf("version %s is confirmed", current)}
}

// Outlive says that a confirmed version is healthy in a boot that counts in a
// streak of hard ends, which is over with it. bit: that boot began with the
// watchdog's bit set.
func Outlive(record *bootcheck.Record, bit bool) Decision {
	next := record.Clone()
	next.HardStreak = nil
	if bit && !record.WatchdogAlways {
		next.WatchdogHealthy++
	}
	return Decision{Action: Count, Run: record.Current, Next: next,
		Why: fmt.Sprintf("version %s is confirmed and healthy: %d system crashes in a row are over", record.Current, len(record.HardStreak))}
}

func (f Failure) String() string {
	if f.Check != "" {
		return fmt.Sprintf("%s, check %q", f.Cause, f.Check)
	}
	return string(f.Cause)
}
