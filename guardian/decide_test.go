package guardian

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tope-ota/ota/bootcheck"
)

func ref(version string) *bootcheck.Ref {
	if version == "" {
		return nil
	}
	return &bootcheck.Ref{Version: version, Digest: "sha256:" + version}
}

func refs(versions ...string) (all []bootcheck.Ref) {
	for _, v := range versions {
		all = append(all, *ref(v))
	}
	return all
}

// record makes a record with factory 1.0, of which confirmed versions were confirmed.
func record(phase bootcheck.Phase, current, previous string, confirmed ...string) *bootcheck.Record {
	r := &bootcheck.Record{
		Schema: 1, Generation: 7, Phase: phase, Current: ref(current), Previous: ref(previous), Factory: ref("1.0"),
		Confirmed: refs(confirmed...),
	}
	if phase.Counted() {
		r.Trial = &bootcheck.Trial{BootID: "a"}
	}
	return r
}

func blocked(r *bootcheck.Record, version string) *bootcheck.Record {
	r.Block(*ref(version), bootcheck.CauseHealth, "answers")
	return r
}

// counted lets r have counted boots, each of which began after a hard end.
func counted(r *bootcheck.Record, boots ...string) *bootcheck.Record {
	r.Trial.Hard = len(boots)
	r.Trial.BootIDs = boots
	r.Trial.BootID = boots[len(boots)-1]
	return r
}

func bootCounts(r *bootcheck.Record, hard, unclean, clean int) *bootcheck.Record {
	r.Trial.Hard, r.Trial.Unclean, r.Trial.Clean = hard, unclean, clean
	return r
}

func streak(r *bootcheck.Record, boots ...string) *bootcheck.Record {
	r.HardStreak = boots
	return r
}

// limits is what a device has that configures nothing.
var limits = bootcheck.BootLimits{Hard: 3, Unclean: 6, Clean: 10}

func damaged(versions ...string) Disk {
	d := Disk{Damaged: map[string]string{}}
	for _, v := range versions {
		d.Damaged[v] = "bin/device-api: size 0, want 812"
	}
	return d
}

func refused(versions ...string) Disk {
	d := Disk{Refused: map[string]string{}}
	for _, v := range versions {
		d.Refused[v] = "it is signed with key 054F3E65460EA1D2, which was revoked"
	}
	return d
}

func TestDecide(t *testing.T) {
	trial := func(hard, unclean, clean int) *bootcheck.Record {
		return bootCounts(record("trial", "3.0", "2.0", "2.0"), hard, unclean, clean)
	}
	confirmed := func() *bootcheck.Record { return record("confirmed", "3.0", "2.0", "2.0", "3.0") }
	for _, row := range []struct {
		name   string
		record *bootcheck.Record
		last   LastBoot
		disk   Disk
		action Action
		run    string
		phase  bootcheck.Phase // of what is committed; empty: nothing is
	}{
		{"a confirmed version runs and nothing is written", confirmed(), LastClean, damaged(), Keep, "3.0", ""},
		{"a power cut does not count against a confirmed version", confirmed(), LastUnclean, damaged(), Keep, "3.0", ""},
		{"a hard end of a confirmed version begins a streak", confirmed(), LastHard, damaged(), Count, "3.0", "confirmed"},
		{"the fourth hard end in a row is counted", streak(confirmed(), "w", "x", "y"), LastHard, damaged(), Count, "3.0", "confirmed"},
		{"the fifth hard end in a row takes a confirmed version back", streak(confirmed(), "v", "w", "x", "y"), LastHard, damaged(), RollBack, "2.0", "fallback"},
		{"a power cut ends a streak", streak(confirmed(), "v", "w", "x", "y"), LastUnclean, damaged(), Count, "3.0", "confirmed"},
		{"an orderly reboot ends a streak", streak(confirmed(), "y"), LastClean, damaged(), Count, "3.0", "confirmed"},
		{"a streak is counted once a boot", streak(confirmed(), "b"), LastHard, damaged(), Keep, "3.0", ""},
		{"a streak is not ended by the boot that counted it", streak(confirmed(), "b"), LastClean, damaged(), Keep, "3.0", ""},
		{"five hard ends and nothing else can run", streak(record("confirmed", "1.0", "", "1.0"), "v", "w", "x", "y"), LastHard, damaged(), Keep, "1.0", ""},
		{"a confirmed version that is damaged is rolled back to previous", confirmed(), LastClean, damaged("3.0"), RollBack, "2.0", "fallback"},
		{"previous is damaged too: the next confirmed one", record("confirmed", "3.0", "2.0", "1.5", "2.0", "3.0"), LastClean, damaged("3.0", "2.0"), RollBack, "1.5", "fallback"},
		{"previous is blocked: the next confirmed one", blocked(record("confirmed", "3.0", "2.0", "1.5", "2.0", "3.0"), "2.0"), LastClean, damaged("3.0"), RollBack, "1.5", "fallback"},
		{"nothing is left but factory", confirmed(), LastClean, damaged("3.0", "2.0"), RollBack, "1.0", "factory"},
		{"nothing is intact: hold, and what is there runs", confirmed(), LastClean, damaged("3.0", "2.0", "1.0"), Hold, "3.0", "hold"},
		{"the first boot of a trial is counted", trial(0, 0, 0), LastUnclean, damaged(), Count, "3.0", "trial"},
		{"the second hard end of a trial is counted", trial(1, 0, 0), LastHard, damaged(), Count, "3.0", "trial"},
		{"the third hard end runs previous", trial(2, 0, 0), LastHard, damaged(), RollBack, "2.0", "fallback"},
		{"the fifth power cut is counted", trial(2, 4, 9), LastUnclean, damaged(), Count, "3.0", "trial"},
		{"the sixth power cut runs previous", trial(0, 5, 0), LastUnclean, damaged(), RollBack, "2.0", "fallback"},
		{"the ninth reboot is counted", trial(2, 5, 8), LastClean, damaged(), Count, "3.0", "trial"},
		{"the tenth reboot runs previous", trial(0, 0, 9), LastClean, damaged(), RollBack, "2.0", "fallback"},
		{"an end of which nothing is known is a power cut", trial(0, 5, 0), "", damaged(), RollBack, "2.0", "fallback"},
		{"a boot is counted once, however often it is asked", counted(trial(0, 0, 0), "x", "b"), LastHard, damaged(), Keep, "3.0", ""},
		{"a trial that is damaged is left at once", trial(0, 0, 0), LastClean, damaged("3.0"), RollBack, "2.0", "fallback"},
		{"a trial without anything behind it runs on", bootCounts(record("trial", "1.0", ""), 2, 0, 0), LastHard, damaged(), Keep, "1.0", ""},
		{"the boot of the rollback is not counted against it", counted(record("fallback", "2.0", ""), "b"), LastHard, damaged(), Keep, "2.0", ""},
		{"a fallback is counted like a trial", record("fallback", "2.0", ""), LastHard, damaged(), Count, "2.0", "fallback"},
		{"hard ends of the fallback repeatedly: factory", bootCounts(record("fallback", "2.0", "", "1.5", "2.0"), 2, 0, 0), LastHard, damaged(), RollBack, "1.0", "factory"},
		{"factory is damaged: the next confirmed one", bootCounts(record("fallback", "2.0", "", "1.5", "2.0"), 2, 0, 0), LastHard, damaged("1.0"), RollBack, "1.5", "fallback"},
		{"factory is never counted", record("factory", "1.0", ""), LastHard, damaged(), Keep, "1.0", ""},
		{"factory is damaged and nothing else is intact: hold", record("factory", "1.0", ""), LastClean, damaged("1.0"), Hold, "1.0", "hold"},
		{"factory is damaged: a confirmed version that is intact", record("factory", "1.0", "", "1.5"), LastClean, damaged("1.0"), RollBack, "1.5", "fallback"},
		{"hold never switches for damage", record("hold", "2.0", "1.5", "1.5"), LastHard, damaged("2.0"), Keep, "2.0", ""},
		{"a newer program's phase is left alone", record("probation", "2.0", "1.5", "1.5"), LastHard, damaged(), Keep, "2.0", ""},
		{"a version that is damaged is left in any phase", record("probation", "2.0", "1.5", "1.5"), LastHard, damaged("2.0"), RollBack, "1.5", "fallback"},
		{"a trial whose key was revoked is left at once", trial(0, 0, 0), LastClean, refused("3.0"), RollBack, "2.0", "fallback"},
		{"also in a boot that is counted already", counted(trial(0, 0, 0), "x", "b"), LastClean, refused("3.0"), RollBack, "2.0", "fallback"},
		{"a trial whose key was revoked, and nothing is behind it: hold", record("trial", "3.0", ""), LastClean, refused("3.0", "1.0"), Hold, "3.0", "hold"},
		{"previous was never confirmed, and its key was revoked: factory", bootCounts(record("trial", "3.0", "2.0"), 2, 0, 0), LastHard, refused("2.0"), RollBack, "1.0", "factory"},
		{"a fallback that was never confirmed, and its key was revoked", record("fallback", "2.0", ""), LastClean, refused("2.0"), RollBack, "1.0", "factory"},
		{"hold never switches for a revoked key", record("hold", "2.0", "1.5", "1.5"), LastHard, refused("2.0"), Keep, "2.0", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := row.record.Clone()
			d := Decide(row.record, row.disk, Boot{ID: "b", Last: row.last, Limits: limits})
			phase := bootcheck.Phase("")
			if d.Next != nil {
				phase = d.Next.Phase
			}
			if d.Action != row.action || d.Run.Version != row.run || phase != row.phase {
				t.Errorf("Decide(…) = %s %s, phase %q (%s); want %s %s, phase %q", d.Action, d.Run, phase, d.Why, row.action, row.run, row.phase)
			}
			if d.Next != nil && d.Next.Current.Version != d.Run.Version {
				t.Errorf("Decide(…) commits %s and runs %s", d.Next.Current, d.Run)
			}
			if diff := cmp.Diff(before, row.record, cmpopts.IgnoreUnexported(bootcheck.Record{})); diff != "" {
				t.Errorf("Decide changed what it was asked about:\n%s", diff)
			}
		})
	}
}

func TestRollbackKeepsTheEvidence(t *testing.T) {
	r := counted(record("trial", "3.0", "2.0", "1.5", "2.0"), "x", "y")
	d := Decide(r, damaged(), Boot{ID: "b", Last: LastHard, Limits: limits})
	want := &bootcheck.Rollback{From: "3.0", To: "2.0", Level: "previous", Cause: bootcheck.CauseBoots,
		Output: "unconfirmed: system crash 3 of 3", Attempts: 3, BootIDs: []string{"x", "y", "b"}}
	if diff := cmp.Diff(want, d.Next.LastRollback); diff != "" {
		t.Errorf("last_rollback (-want +got):\n%s", diff)
	}
	if b := d.Next.BlockedBy(ref("3.0")); b == nil || b.Reason != "boots" {
		t.Errorf("blocked = %v, want 3.0 because of its boots", d.Next.Blocked)
	}
	if d.Next.Previous.Version != "1.5" {
		t.Errorf("previous = %s, want 1.5: the next one that was confirmed", d.Next.Previous)
	}
	if d.Next.Trial.BootID != "b" || d.Next.Trial.Attempts() != 0 {
		t.Errorf("trial = %+v, want none counted, with this boot's ID", d.Next.Trial)
	}
}

func TestMarkBad(t *testing.T) {
	health := Failure{Cause: bootcheck.CauseHealth, Check: "answers", Output: "500"}
	rolledBack := func(r *bootcheck.Record, check string) *bootcheck.Record {
		r.LastRollback = &bootcheck.Rollback{From: "3.0", To: "2.0", Level: "previous", Cause: bootcheck.CauseHealth, Check: check}
		return blocked(r, "3.0")
	}
	for _, row := range []struct {
		name    string
		record  *bootcheck.Record
		failure Failure
		action  Action
		run     string
		phase   bootcheck.Phase
		hold    string
		blocked []string
	}{
		{"a trial fails its health", record("trial", "3.0", "2.0", "2.0"), health, RollBack, "2.0", "fallback", "", []string{"3.0"}},
		{"the version rolled back to fails the same check: the environment",
			rolledBack(record("fallback", "2.0", "", "2.0"), "answers"), health, Hold, "2.0", "hold", "environment", nil},
		{"the version rolled back to fails another check",
			rolledBack(record("fallback", "2.0", "", "2.0"), "runs"), health, RollBack, "1.0", "factory", "", []string{"3.0", "2.0"}},
		{"two versions that crash without a check are not the environment",
			rolledBack(record("fallback", "2.0", "", "2.0"), ""), Failure{Cause: bootcheck.CauseCrash}, RollBack, "1.0", "factory", "", []string{"3.0", "2.0"}},
		{"factory fails", record("factory", "1.0", ""), health, Hold, "1.0", "hold", "exhausted", nil},
		{"the first version of a device fails", record("trial", "1.0", ""), health, Hold, "1.0", "hold", "exhausted", nil},
		{"in hold nothing switches", record("hold", "2.0", "1.5", "1.5"), health, Keep, "2.0", "", "", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := MarkBad(row.record, damaged(), "b", row.failure)
			next := d.Next
			if next == nil {
				next = &bootcheck.Record{}
			}
			if d.Action != row.action || d.Run.Version != row.run || next.Phase != row.phase || next.HoldReason != row.hold {
				t.Errorf("MarkBad(…) = %s %s, phase %q %q (%s); want %s %s, phase %q %q", d.Action, d.Run, next.Phase, next.HoldReason, d.Why, row.action, row.run, row.phase, row.hold)
			}
			var got []string
			for _, b := range next.Blocked {
				got = append(got, b.Version)
			}
			if diff := cmp.Diff(row.blocked, got); diff != "" {
				t.Errorf("blocked (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMarkGood(t *testing.T) {
	r := record("trial", "3.0", "2.0", "2.0")
	r.Floor = 9
	d := MarkGood(r, 7)
	if d.Next.Phase != "confirmed" || d.Next.Trial != nil || !d.Next.IsConfirmed(ref("3.0")) || d.Next.Floor != 9 {
		t.Errorf("MarkGood(…, release 7) = %+v, want confirmed with the floor 9 kept", d.Next)
	}
	if d := MarkGood(r, 12); d.Next.Floor != 12 {
		t.Errorf("floor = %d, want 12", d.Next.Floor)
	}
	for _, phase := range []bootcheck.Phase{"confirmed", "hold"} {
		if d := MarkGood(record(phase, "3.0", "2.0"), 7); d.Action != Keep || d.Next != nil {
			t.Errorf("MarkGood in phase %s = %s, want keep", phase, d.Action)
		}
	}
}

// A version that was damaged is unblocked, once.
func TestDamageIsForgivenOnce(t *testing.T) {
	boot := Boot{ID: "b", Last: LastClean, Limits: limits}
	d := Decide(record("confirmed", "3.0", "2.0", "2.0", "3.0"), damaged("3.0"), boot)
	if b := d.Next.BlockedBy(ref("3.0")); b != nil {
		t.Fatalf("3.0 is blocked after its first damage: %+v", b)
	}
	again := d.Next.Clone()
	again.Phase, again.Current, again.Previous, again.Trial = "confirmed", ref("3.0"), ref("2.0"), nil
	again.Confirm(*ref("3.0"))
	d = Decide(again, damaged("3.0"), boot)
	if d.Next.BlockedBy(ref("3.0")) == nil || d.Run.Version != "2.0" {
		t.Errorf("after its second damage: %s %s, blocked %v; want 3.0 left and blocked", d.Action, d.Run, d.Next.Blocked)
	}
}

func TestStreakKeepsTheEvidence(t *testing.T) {
	r := streak(record("confirmed", "3.0", "2.0", "2.0", "3.0"), "v", "w", "x", "y")
	d := Decide(r, damaged(), Boot{ID: "b", Last: LastHard, Limits: limits})
	l := d.Next.LastRollback
	if l.Cause != bootcheck.CauseHard || l.Attempts != 5 || len(l.BootIDs) != 5 || l.BootIDs[4] != "b" {
		t.Errorf("last_rollback = %+v, want cause hard-boots with its 5 boots", l)
	}
	if d.Next.HardStreak != nil {
		t.Errorf("the streak of 3.0 is still there for 2.0: %v", d.Next.HardStreak)
	}
}

// Every combination of phase, disk, end of the last boot and what is left of each
// limit: what a decision must never do, in any state.
func TestDecideInvariants(t *testing.T) {
	versions := []string{"1.0", "2.0", "3.0"}
	// None counted, one before the last, and the last, of each class.
	type counters struct{ hard, unclean, clean, streak int }
	var all []counters
	for _, hard := range []int{0, 1, 2} {
		for _, unclean := range []int{0, 4, 5} {
			for _, clean := range []int{0, 8, 9} {
				all = append(all, counters{hard, unclean, clean, 0})
			}
		}
	}
	n, did := 0, map[Action]int{}
	for _, phase := range []bootcheck.Phase{"confirmed", "trial", "fallback", "factory", "hold", "probation"} {
		counts := all
		if !phase.Counted() {
			counts = []counters{{}}
			if phase == bootcheck.PhaseConfirmed {
				counts = []counters{{streak: 0}, {streak: 1}, {streak: 3}, {streak: 4}}
			}
		}
		for _, current := range versions {
			for _, previous := range append(versions, "") {
				for damage := range 8 {
					for block := range 8 {
						for _, c := range counts {
							for _, id := range []string{"a", "b"} {
								for _, last := range []LastBoot{LastClean, LastUnclean, LastHard} {
									r := record(phase, current, previous, "2.0")
									disk := damaged()
									for i, v := range versions {
										if damage>>i&1 == 1 {
											disk.Damaged[v] = "damaged"
										}
										if block>>i&1 == 1 {
											blocked(r, v)
										}
									}
									if r.Trial != nil {
										bootCounts(r, c.hard, c.unclean, c.clean)
									}
									for i := range c.streak {
										r.HardStreak = append(r.HardStreak, fmt.Sprint(i))
									}
									if c.streak > 0 && id == "a" {
										r.HardStreak[c.streak-1] = id
									}
									n++
									did[invariants(t, r, disk, Boot{ID: id, Last: last, Limits: limits})]++
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d combinations: %v", n, did)
	for _, a := range []Action{Keep, Count, RollBack, Hold} {
		if did[a] == 0 {
			t.Errorf("no combination led to %s", a)
		}
	}
}

func invariants(t *testing.T, r *bootcheck.Record, disk Disk, boot Boot) Action {
	t.Helper()
	d := Decide(r, disk, boot)
	bad := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: Decide(%s current=%s previous=%s blocked=%v trial=%+v, damaged=%v, %+v) = %s %s: %s",
			fmt.Sprintf(format, args...), r.Phase, r.Current, r.Previous, r.Blocked, r.Trial, disk.Damaged, boot, d.Action, d.Run, d.Why)
	}
	switched := d.Run.Version != r.Current.Version
	if switched && r.BlockedBy(d.Run) != nil {
		bad("switches to a blocked version")
	}
	if switched && !disk.intact(d.Run) {
		bad("switches to a damaged version")
	}
	if switched && r.Phase == bootcheck.PhaseHold {
		bad("switches in hold")
	}
	if switched && d.Action != RollBack {
		bad("switches without saying so")
	}
	if !disk.intact(r.Current) && !switched && r.Phase != bootcheck.PhaseHold {
		for _, c := range []*bootcheck.Ref{r.Previous, ref("2.0"), r.Factory} {
			// From fallback, what previous says does not count: it was chosen before.
			if c == r.Previous && (r.Phase == bootcheck.PhaseFallback || r.Phase == bootcheck.PhaseFactory) ||
				c == r.Factory && r.Phase == bootcheck.PhaseFactory {
				continue
			}
			if c != nil && c.Version != r.Current.Version && r.BlockedBy(c) == nil && disk.intact(c) {
				bad("runs a damaged version while %s is intact", c)
			}
		}
	}
	counted := r.Trial != nil && boot.ID == r.Trial.BootID ||
		len(r.HardStreak) > 0 && boot.ID == r.HardStreak[len(r.HardStreak)-1]
	if d.Next != nil && !switched {
		bootCounts, streak := d.Next.Trial.Attempts()-r.Trial.Attempts(), len(d.Next.HardStreak)-len(r.HardStreak)
		if bootCounts > 1 || streak > 1 || counted && (bootCounts > 0 || streak > 0) {
			bad("counts %d boots and %d hard ends", bootCounts, streak)
		}
	}
	intact := disk.intact(r.Current)
	if r.Phase == bootcheck.PhaseConfirmed && intact && d.Next != nil && boot.Last != LastHard && len(r.HardStreak) == 0 {
		bad("writes on an ordinary boot")
	}
	if r.Phase == bootcheck.PhaseConfirmed && intact && switched && (boot.Last != LastHard || len(r.HardStreak) < hardStreak-1) {
		bad("leaves a confirmed version that is intact and was not in a loop of hard ends")
	}
	if r.Phase.Counted() && intact && switched &&
		!(boot.Last == LastHard && r.Trial.Hard == limits.Hard-1 || boot.Last == LastUnclean && r.Trial.Unclean == limits.Unclean-1 ||
			boot.Last == LastClean && r.Trial.Clean == limits.Clean-1) {
		bad("leaves a trial before its limit is spent")
	}
	if !r.Phase.Counted() && r.Phase != bootcheck.PhaseConfirmed && intact && d.Next != nil {
		bad("writes in a phase that is not counted")
	}
	if switched && d.Next.LastRollback.From != r.Current.Version {
		bad("switches without evidence")
	}
	if d.Action == Keep && d.Next != nil || d.Action != Keep && d.Next == nil {
		bad("action and record do not agree")
	}
	// The same boot asked again changes nothing more.
	if d.Next != nil {
		if again := Decide(d.Next, disk, boot); again.Next != nil && (again.Action == Count || again.Run.Version != d.Run.Version) {
			bad("decides otherwise when it is asked again in the same boot: %s %s", again.Action, again.Run)
		}
	}
	return d.Action
}

var seed = flag.Uint64("seed", 0, "of the histories; 0: another one each time")

// A good version in the hands of people: they switch the device off whenever
// they like. It is never rolled back, and neither is one that was confirmed,
// with any reboots, as long as one boot lasts until it is confirmed before the limit
// is spent: five power cuts and nine reboots may come before it.
func TestNoFalseAlarms(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", s)
	random := rand.New(rand.NewPCG(s, 0))
	const histories = 1000
	var boots, short, survived, worst int
	for h := range histories {
		r := record("confirmed", "2.0", "1.0", "1.0", "2.0")
		boot, id := 0, ""
		begin := func(last LastBoot) {
			boots++
			boot++
			id = fmt.Sprint("boot-", boot)
			d := Decide(r, damaged(), Boot{ID: id, Last: last, Limits: limits})
			if d.Action == RollBack || d.Action == Hold {
				t.Fatalf("-seed %d, history %d, boot %d: %s: %s", s, h, boot, d.Action, d.Why)
			}
			if d.Next != nil {
				r = d.Next
			}
		}
		begin(LastClean)
		for update := range 1 + random.IntN(4) {
			// An install, and what the people do until it is confirmed.
			version := fmt.Sprintf("%d.0", 3+update)
			next := r.Clone()
			next.Phase, next.Previous, next.Current = bootcheck.PhaseTrial, next.Current, ref(version)
			next.Trial, next.HardStreak = &bootcheck.Trial{BootID: id}, nil
			r = next
			cuts, reboots, resets := random.IntN(limits.Unclean), random.IntN(limits.Clean), random.IntN(limits.Hard)
			if random.IntN(3) > 0 {
				resets = 0 // a machine whose hardware resets it is rare
			}
			worst = max(worst, cuts+reboots+resets)
			for cuts+reboots+resets > 0 {
				short++
				switch k := random.IntN(cuts + reboots + resets); {
				case k < cuts:
					cuts--
					begin(LastUnclean)
				case k < cuts+reboots:
					reboots--
					begin(LastClean)
				default:
					resets--
					begin(LastHard)
				}
			}
			d := MarkGood(r, int64(update))
			r = d.Next
			survived++

			// Confirmed: now anything goes, but a loop of hard ends.
			hard := 0
			for range random.IntN(60) {
				last := []LastBoot{LastUnclean, LastUnclean, LastUnclean, LastClean, LastHard, ""}[random.IntN(6)]
				if last == LastHard {
					if hard++; hard == hardStreak {
						last, hard = LastUnclean, 0
					}
				} else {
					hard = 0
				}
				begin(last)
			}
			if r.Current.Version != version || r.Phase != bootcheck.PhaseConfirmed || r.LastRollback != nil {
				t.Fatalf("-seed %d, history %d: %s is %s, last rollback %+v; want %s confirmed", s, h, r.Current, r.Phase, r.LastRollback, version)
			}
		}
	}
	t.Logf("%d histories, %d boots, %d updates interrupted %d times (up to %d times each): no rollback", histories, boots, survived, short, worst)
}

// A version that was asked for at this boot runs, on trial, with any other state,
// or it is forgotten and all is as if it was not asked for.
func TestDecideNext(t *testing.T) {
	versions := []string{"1.0", "2.0", "3.0"}
	did := map[Action]int{}
	for _, phase := range []bootcheck.Phase{"confirmed", "trial", "fallback", "factory", "hold", "probation"} {
		for _, current := range versions {
			for _, asked := range versions {
				for damage := range 8 {
					for block := range 8 {
						for _, last := range []LastBoot{LastClean, LastUnclean, LastHard} {
							r, disk := record(phase, current, "2.0", "2.0"), damaged()
							for i, v := range versions {
								if damage>>i&1 == 1 {
									disk.Damaged[v] = "damaged"
								}
								if block>>i&1 == 1 {
									blocked(r, v)
								}
							}
							boot := Boot{ID: "b", Last: last, Limits: limits}
							plain := Decide(r, disk, boot)
							r.Next = &bootcheck.Next{Ref: *ref(asked), Baseline: map[string]bool{"uplink": false}}
							d := Decide(r, disk, boot)
							did[d.Action]++
							what := fmt.Sprintf("%s %s, %s asked for, blocked %v, damaged %v", phase, current, asked, r.Blocked, disk.Damaged)
							if d.Next == nil || d.Next.Next != nil {
								t.Fatalf("%s: it is asked for still", what)
							}
							if again := Decide(d.Next, disk, boot); again.Next != nil && (again.Action == Count || again.Run.Version != d.Run.Version) {
								t.Errorf("%s: decides otherwise in the same boot: %s %s", what, again.Action, again.Run)
							}
							if disk.intact(ref(asked)) && r.BlockedBy(ref(asked)) == nil {
								if n := d.Next; d.Action != Activate || d.Run.Version != asked || n.Phase != bootcheck.PhaseTrial || n.Trial.BootID != "b" || n.Trial.Attempts() != 0 || n.Trial.Baseline["uplink"] {
									t.Errorf("%s: %s %s (%s)", what, d.Action, d.Run, d.Why)
								}
								continue
							}
							if d.Run.Version != plain.Run.Version || plain.Next != nil && (d.Action != plain.Action || d.Next.Phase != plain.Next.Phase) || plain.Next == nil && d.Action != Count {
								t.Errorf("%s: %s %s (%s), without it %s %s", what, d.Action, d.Run, d.Why, plain.Action, plain.Run)
							}
						}
					}
				}
			}
		}
	}
	for _, a := range []Action{Activate, Count, RollBack, Hold} {
		if did[a] == 0 {
			t.Errorf("no combination led to %s", a)
		}
	}
}
