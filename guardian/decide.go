package guardian

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// Action is what a Decision asks for.
type Action string

const (
	Keep     Action = "keep"      // start what the links say; nothing is written
	Count    Action = "count"     // commit the counters, then start what the links say
	FallBack Action = "fall-back" // commit other links, then start what they say
	Hold     Action = "hold"      // commit the hold; what runs goes on, nothing switches any more
	Confirm  Action = "confirm"   // commit that the version that runs proved itself
	Activate Action = "activate"  // commit what was asked for at this boot, then start that
)

// Decision is the guardian's judgement. Nothing of it is done yet.
type Decision struct {
	Action Action
	Run    *bootcheck.Ref    // the version to run
	Next   *bootcheck.Record // to commit; nil: nothing changes
	Why    string            // one clause for the journal
	// Unjudged: another Action would be right, but for a version that could not be
	// looked at. To ask again later is right.
	Unjudged bool
}

// Disk is what is known of the snapshots when a decision is made.
type Disk struct {
	// Damaged has a version's name with what is wrong with it: files differ or
	// it is not there. A version that is not in it is whole as far as anybody
	// looked.
	Damaged map[string]string
	// Unknown has a version's name with why it could not be looked at (see
	// bootcheck.Inconclusive). It may be whole: it is not run now, and nothing else
	// changes for it.
	Unknown map[string]string
	// Refused has a version's name with why it may not run: it was never confirmed here,
	// and a revoked key signed it, or, of the next one, an install of it is refused.
	Refused map[string]string
}

func (d Disk) whole(ref *bootcheck.Ref) bool {
	return d.Damaged[ref.Version] == "" && d.Refused[ref.Version] == ""
}

// judged reports whether ref may run as far as is known.
func (d Disk) judged(ref *bootcheck.Ref) bool { return d.whole(ref) && d.Unknown[ref.Version] == "" }

// fallback is what runs instead of the current version of record, nil: nothing can,
// and the versions that come before it in the order and cannot run. unknown: one of
// them could not be looked at.
func (d Disk) fallback(record *bootcheck.Record) (target *bootcheck.Ref, level string, skipped []bootcheck.Skipped, unknown bool) {
	target, level = record.Fallback(func(ref *bootcheck.Ref) bool {
		why := cmp.Or(d.Damaged[ref.Version], d.Refused[ref.Version], d.Unknown[ref.Version])
		if why == "" {
			return true
		}
		unknown = unknown || d.whole(ref)
		s := bootcheck.Skipped{Version: ref.Version, Why: strings.ToValidUTF8(why[:min(len(why), 300)], "")}
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
	LastClean   LastBoot = "clean"   // an orderly shutdown, whatever else there is
	LastUnclean LastBoot = "unclean" // the power went, or nobody knows
	LastHard    LastBoot = "hard"    // hardware watchdog or kernel panic
)

// Budget is how many boots are too many, by how the boot before each ended. The
// classes are counted apart: a version may use up a part of each.
type Budget struct {
	Hard    int // of a trial
	Unclean int // of a trial
	Clean   int // of a trial
	Streak  int // hard ends of a confirmed version, one after the other, with no healthy boot between
}

// hardStreak is the Streak of every device. A single watchdog reset happens to a
// good version, too; a version that worked for months is left only when the
// device is in a loop that it does not come out of by itself.
const hardStreak = 5

// Boot is this boot: which one it is, what came before it, and how many without
// a verdict are too many.
type Boot struct {
	ID string // empty: the kernel does not say
	// New: nothing in memory says that this boot was seen, so it is a new one also
	// if the ID is that of the boot before.
	New    bool
	Last   LastBoot
	Budget Budget
}

// is reports whether this boot is the one that a record names as id.
func (b Boot) is(id string) bool { return !b.New && b.ID == id }

// Failure is why a version is condemned.
type Failure struct {
	Cause   bootcheck.Cause
	Check   string   // the health check that failed; empty: none did
	Output  string   // what it said
	Journal []string // what the unit that failed wrote last
}

// Decide says what a boot runs: THE boot decision. It reads no clock and no
// file, changes nothing, and gives the same answer to the same question.
//
//	phase      current   the boot before ended       decision
//	---------  --------  --------------------------  ----------------------------------------------------
//	any        either    in any way, and a version   put that on trial; if it is damaged, blocked or
//	                     was asked for at this boot  refused, forget it and go on as below; if it cannot be
//	                                                 looked at, go on as below and ask again at the next boot
//	hold       either    in any way                  keep; nothing switches
//	any other  refused   in any way                  fall back, cause "revoked"; with nothing else to run: hold
//	any other  damaged   in any way                  fall back, cause "damaged"; with nothing whole: hold;
//	                                                 with none that can be looked at: keep
//	any        whole     counted in this boot        keep: a boot is counted once
//	confirmed  whole     clean, unclean              keep; a streak of hard ends is over (as after a healthy boot, see Outlive)
//	confirmed  whole     hard, streak below 5        count the streak
//	confirmed  whole     hard, the 5th in a row      fall back, cause "hard-boots"; with nothing behind it: keep
//	trial      whole     below the class's budget    count: boot ID and how the last boot ended
//	trial      whole     at the class's budget       fall back, cause "boots"; with nothing behind it: keep
//	fallback   whole     as trial                    as trial, but falls back to factory
//	factory    whole     in any way                  keep: nothing stands behind it, so it is never counted
//	unknown    whole     in any way                  keep: a newer program's phase is not ours to end
//
// The classes of a trial and their budgets: hard (watchdog reset, kernel panic)
// 3, unclean (the power went) 6, clean (an orderly reboot) 10.
//
// Refused is what may not run here: never confirmed, and signed with a key that was
// revoked since. A version for this boot is refused for everything that an install is
// refused for: key, model, release, date, too.
//
// What a fall back runs instead, the first that is whole, not refused, not blocked and
// not current itself; nothing else is asked of it:
//
//	from confirmed, trial  previous, confirmed versions from the newest on, factory
//	from fallback          factory, confirmed versions from the newest on
//	from factory           confirmed versions from the newest on
//
// A version is counted at the boot after the one in which it had no verdict, so
// the boot that reaches the budget already runs the other version.
func Decide(record *bootcheck.Record, disk Disk, boot Boot) Decision {
	current := record.Current
	keep := func(format string, args ...any) Decision {
		return Decision{Action: Keep, Run: current, Why: fmt.Sprintf(format, args...)}
	}
	if n := record.Next; n != nil {
		if disk.judged(&n.Ref) && record.BlockedBy(&n.Ref) == nil {
			next := record.Activate(&n.Ref, boot.ID, n.Baseline, disk.whole)
			return Decision{Action: Activate, Run: &n.Ref, Next: next, Why: fmt.Sprintf("%s was to run from this boot on, %s ran before", &n.Ref, current)}
		}
		without := record.Clone()
		without.Next = nil
		d := Decide(without, disk, boot)
		if disk.whole(&n.Ref) && record.BlockedBy(&n.Ref) == nil {
			if d.Next != nil {
				d.Next.Next = record.Clone().Next
			}
			d.Unjudged = true
			d.Why = fmt.Sprintf("%s was to run from this boot on and cannot be looked at (%s): the next boot tries again; %s", &n.Ref, disk.Unknown[n.Version], d.Why)
			return d
		}
		if d.Next == nil {
			d.Action, d.Next = Count, without
		}
		why := "it is damaged or blocked"
		if refused := disk.Refused[n.Version]; refused != "" {
			why = refused
		}
		d.Why = fmt.Sprintf("%s was to run from this boot on, but %s; %s", &n.Ref, why, d.Why)
		return d
	}
	if record.Phase == bootcheck.PhaseHold {
		return keep("on hold (%s): %s runs until a person or a new version ends it", record.HoldReason, current)
	}
	if why := disk.Refused[current.Version]; why != "" {
		return Condemn(record, disk, boot.ID, Failure{Cause: bootcheck.CauseRevoked, Output: why})
	}
	if !disk.whole(current) {
		return Condemn(record, disk, boot.ID, Failure{Cause: bootcheck.CauseDamaged, Output: disk.Damaged[current.Version]})
	}

	next := record.Clone()
	var count, budget int
	var failure Failure
	var what string // that was counted, for Why
	switch {
	case record.Phase == bootcheck.PhaseConfirmed:
		streak := record.HardStreak
		if n := len(streak); n > 0 && boot.is(streak[n-1]) {
			return keep("%s is confirmed; this boot is counted already", current)
		}
		if boot.Last != LastHard && len(streak) == 0 {
			return keep("%s is confirmed", current)
		}
		if boot.Last != LastHard {
			next.HardStreak = nil
			return Decision{Action: Count, Run: current, Next: next,
				Why: fmt.Sprintf("%s is confirmed, and the last boot ended %s: %d hard ends in a row are over", current, boot.Last, len(streak))}
		}
		next.HardStreak = append(next.HardStreak, boot.ID)
		count, budget = len(next.HardStreak), boot.Budget.Streak
		failure.Cause, what = bootcheck.CauseHard, "the last boots ended hard"
	case record.Phase.Counted():
		if boot.is(record.Trial.BootID) {
			return keep("%s is on trial; this boot is counted already", current)
		}
		t := next.Trial
		t.BootID = boot.ID
		t.BootIDs = append(t.BootIDs, boot.ID)
		switch boot.Last {
		case LastHard:
			t.Hard++
			count, budget, what = t.Hard, boot.Budget.Hard, "boots that ended hard"
		case LastClean:
			t.Clean++
			count, budget, what = t.Clean, boot.Budget.Clean, "boots that ended clean"
		default:
			t.Unclean++
			count, budget, what = t.Unclean, boot.Budget.Unclean, "boots that ended unclean"
		}
		failure.Cause, what = bootcheck.CauseBoots, "no verdict yet, "+what
	case record.Phase == bootcheck.PhaseFactory:
		return keep("%s is %s", current, record.Phase)
	default:
		return keep("%s is %s, a phase that a newer program wrote", current, record.Phase)
	}
	what = fmt.Sprintf("%s: %d of %d", what, count, budget)
	if count < budget {
		return Decision{Action: Count, Run: current, Next: next, Why: fmt.Sprintf("%s is %s, %s", current, record.Phase, what)}
	}
	if target, _, skipped, unknown := disk.fallback(record); target == nil {
		d := keep("%s is %s, %s, but nothing else can run%s", current, record.Phase, what, skippedText(skipped))
		d.Unjudged = unknown
		return d
	}
	failure.Output = what
	return Condemn(next, disk, boot.ID, failure)
}

// Condemn says what happens to the version that runs when it has failed: at
// boot, or by its health in a boot that goes on. Like Decide it is pure. The
// boot bootID is not counted against what runs from now on.
//
//	phase      failed how                             decision
//	---------  -------------------------------------  -------------------------------------------------
//	fallback   the check that condemned the one       hold (environment): it is not the version. The newer
//	           before it                              one is unblocked, what runs goes on
//	hold       in any way                             keep: nothing switches
//	any other  something to fall back to              block it, fall back (order: see Decide)
//	any other  nothing, as versions cannot be         keep: that passes
//	           looked at
//	any other  nothing to fall back to                hold (exhausted): what runs goes on
//
// A version that was damaged is not blocked the first time: its content is not
// to blame, and installing it again heals it. When it is damaged again, it is
// the version that changes its own files.
func Condemn(record *bootcheck.Record, disk Disk, bootID string, failure Failure) Decision {
	current := record.Current
	if record.Phase == bootcheck.PhaseHold {
		return Decision{Action: Keep, Run: current, Why: fmt.Sprintf("%s failed (%s), but the device is on hold", current, failure)}
	}
	next := record.Clone()
	next.Trial, next.HardStreak = nil, nil

	last := record.LastRollback
	if record.Phase == bootcheck.PhaseFallback && failure.Check != "" && last != nil && last.Check == failure.Check {
		next.Phase, next.HoldReason = bootcheck.PhaseHold, bootcheck.HoldEnvironment
		next.Unblock(last.From)
		return Decision{Action: Hold, Run: current, Next: next,
			Why: fmt.Sprintf("%s fails the check %q that %s failed: it is not the version", current, failure.Check, last.From)}
	}

	evidence := &bootcheck.Rollback{
		From: current.Version, Level: bootcheck.LevelNone,
		Cause: failure.Cause, Check: failure.Check, Output: failure.Output, Journal: slices.Clone(failure.Journal),
		Attempts: record.Trial.Attempts(), BootIDs: []string{},
	}
	if record.Trial != nil && record.Trial.BootIDs != nil {
		evidence.BootIDs = record.Trial.BootIDs
	}
	if failure.Cause == bootcheck.CauseHard {
		evidence.Attempts, evidence.BootIDs = len(record.HardStreak), slices.Clone(record.HardStreak)
	}
	target, level, skipped, unknown := disk.fallback(record)
	if target == nil && unknown {
		return Decision{Action: Keep, Run: current, Unjudged: true,
			Why: fmt.Sprintf("%s failed (%s), and nothing else can be looked at%s", current, failure, skippedText(skipped))}
	}
	evidence.Skipped = skipped
	if target != nil {
		evidence.To, evidence.Level = target.Version, level
	}
	next.RolledBack(evidence)
	if target == nil {
		next.Phase, next.HoldReason = bootcheck.PhaseHold, bootcheck.HoldExhausted
		return Decision{Action: Hold, Run: current, Next: next,
			Why: fmt.Sprintf("%s failed (%s) and nothing else can run%s", current, failure, skippedText(skipped))}
	}
	again := last != nil && last.From == current.Version && last.Cause == bootcheck.CauseDamaged
	if failure.Cause != bootcheck.CauseDamaged || again {
		next.Block(*current, failure.Cause, failure.Check)
	}
	var baseline map[string]bool
	if record.Trial != nil {
		baseline = record.Trial.Baseline // it failed under this version before the update
	}
	next.SwitchTo(target, level, bootID, baseline, disk.whole)
	return Decision{Action: FallBack, Run: target, Next: next,
		Why: fmt.Sprintf("%s failed (%s): back to %s, which is %s%s", current, failure, target, level, skippedText(skipped))}
}

// Leave is a person's wish to run target instead of the current version, which
// is blocked so that no server sends it again.
func Leave(record *bootcheck.Record, disk Disk, bootID string, target *bootcheck.Ref, level string) Decision {
	next := record.Clone()
	next.Trial, next.HoldReason, next.HardStreak, next.Next = nil, "", nil, nil
	next.RolledBack(&bootcheck.Rollback{
		From: record.Current.Version, To: target.Version, Level: level, Cause: bootcheck.CauseOperator,
		Attempts: record.Trial.Attempts(), BootIDs: []string{},
	})
	next.Unblock(target.Version)
	next.Block(*record.Current, bootcheck.CauseOperator, "")
	next.SwitchTo(target, level, bootID, nil, disk.whole)
	return Decision{Action: FallBack, Run: target, Next: next,
		Why: fmt.Sprintf("a person asked for it: from %s back to %s", record.Current, target)}
}

// Absolve says that the version that runs proved itself. release is its release
// counter: nothing older is installed from then on.
func Absolve(record *bootcheck.Record, release int64) Decision {
	current := record.Current
	if !record.Phase.Judged() {
		return Decision{Action: Keep, Run: current, Why: fmt.Sprintf("%s is %s", current, record.Phase)}
	}
	next := record.Clone()
	next.Phase, next.Trial, next.HardStreak = bootcheck.PhaseConfirmed, nil, nil
	next.Confirm(*current)
	next.Floor = max(next.Floor, release)
	return Decision{Action: Confirm, Run: current, Next: next, Why: fmt.Sprintf("%s proved itself", current)}
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
		Why: fmt.Sprintf("%s is confirmed, and healthy: %d hard ends in a row are over", record.Current, len(record.HardStreak))}
}

func (f Failure) String() string {
	if f.Check != "" {
		return fmt.Sprintf("%s: %s", f.Cause, f.Check)
	}
	return string(f.Cause)
}
