package guardian

import (
	"fmt"
	"testing"

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

// record makes a record with factory 1.0, of which confirmed versions proved themselves.
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

func counted(r *bootcheck.Record, boots ...string) *bootcheck.Record {
	r.Trial.Hard = len(boots)
	r.Trial.BootIDs = boots
	r.Trial.BootID = boots[len(boots)-1]
	return r
}

func damaged(versions ...string) Disk {
	d := Disk{Damaged: map[string]string{}}
	for _, v := range versions {
		d.Damaged[v] = "bin/device-api: size 0, want 812"
	}
	return d
}

func TestDecide(t *testing.T) {
	boot := Boot{ID: "b", Last: LastUnclean, Budget: 3}
	for _, row := range []struct {
		name   string
		record *bootcheck.Record
		disk   Disk
		action Action
		run    string
		phase  bootcheck.Phase // of what is committed; empty: nothing is
	}{
		{"a confirmed version runs and nothing is written", record("confirmed", "2.0", "1.0", "1.0", "2.0"), damaged(), Keep, "2.0", ""},
		{"a confirmed version that is damaged is left for previous", record("confirmed", "3.0", "2.0", "2.0", "3.0"), damaged("3.0"), FallBack, "2.0", "fallback"},
		{"previous is damaged too: the next confirmed one", record("confirmed", "3.0", "2.0", "1.5", "2.0", "3.0"), damaged("3.0", "2.0"), FallBack, "1.5", "fallback"},
		{"previous is blocked: the next confirmed one", blocked(record("confirmed", "3.0", "2.0", "1.5", "2.0", "3.0"), "2.0"), damaged("3.0"), FallBack, "1.5", "fallback"},
		{"nothing is left but factory", record("confirmed", "3.0", "2.0", "2.0", "3.0"), damaged("3.0", "2.0"), FallBack, "1.0", "factory"},
		{"nothing is whole: hold, and what is there runs", record("confirmed", "3.0", "2.0", "2.0", "3.0"), damaged("3.0", "2.0", "1.0"), Hold, "3.0", "hold"},
		{"the first boot of a trial is counted", record("trial", "3.0", "2.0", "2.0"), damaged(), Count, "3.0", "trial"},
		{"the second boot of a trial is counted", counted(record("trial", "3.0", "2.0", "2.0"), "x"), damaged(), Count, "3.0", "trial"},
		{"the third boot of a trial runs previous", counted(record("trial", "3.0", "2.0", "2.0"), "x", "y"), damaged(), FallBack, "2.0", "fallback"},
		{"a boot is counted once, however often it is asked", counted(record("trial", "3.0", "2.0", "2.0"), "x", "b"), damaged(), Keep, "3.0", ""},
		{"a trial that is damaged is left at once", record("trial", "3.0", "2.0", "2.0"), damaged("3.0"), FallBack, "2.0", "fallback"},
		{"a trial without anything behind it runs on", counted(record("trial", "1.0", ""), "x", "y"), damaged(), Keep, "1.0", ""},
		{"the boot of the fall back is not counted against it", counted(record("fallback", "2.0", ""), "b"), damaged(), Keep, "2.0", ""},
		{"a fallback is counted like a trial", record("fallback", "2.0", ""), damaged(), Count, "2.0", "fallback"},
		{"power lost in the fallback again and again: factory", counted(record("fallback", "2.0", "", "1.5", "2.0"), "x", "y"), damaged(), FallBack, "1.0", "factory"},
		{"factory is damaged: the next confirmed one", counted(record("fallback", "2.0", "", "1.5", "2.0"), "x", "y"), damaged("1.0"), FallBack, "1.5", "fallback"},
		{"factory is never counted", record("factory", "1.0", ""), damaged(), Keep, "1.0", ""},
		{"factory is damaged and nothing else is whole: hold", record("factory", "1.0", ""), damaged("1.0"), Hold, "1.0", "hold"},
		{"factory is damaged: a confirmed version that is whole", record("factory", "1.0", "", "1.5"), damaged("1.0"), FallBack, "1.5", "fallback"},
		{"hold never switches, whatever is damaged", record("hold", "2.0", "1.5", "1.5"), damaged("2.0"), Keep, "2.0", ""},
		{"a newer program's phase is left alone", record("probation", "2.0", "1.5", "1.5"), damaged("2.0"), Keep, "2.0", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := row.record.Clone()
			d := Decide(row.record, row.disk, boot)
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

func TestFallBackKeepsTheEvidence(t *testing.T) {
	r := counted(record("trial", "3.0", "2.0", "1.5", "2.0"), "x", "y")
	d := Decide(r, damaged(), Boot{ID: "b", Last: LastHard, Budget: 3})
	want := &bootcheck.Rollback{From: "3.0", To: "2.0", Level: "previous", Cause: bootcheck.CauseBoots, Attempts: 3, BootIDs: []string{"x", "y", "b"}}
	if diff := cmp.Diff(want, d.Next.LastRollback); diff != "" {
		t.Errorf("last_rollback (-want +got):\n%s", diff)
	}
	if b := d.Next.BlockedBy(ref("3.0")); b == nil || b.Reason != "boots" {
		t.Errorf("blocked = %v, want 3.0 because of its boots", d.Next.Blocked)
	}
	if d.Next.Previous.Version != "1.5" {
		t.Errorf("previous = %s, want 1.5: the next one that proved itself", d.Next.Previous)
	}
	if d.Next.Trial.BootID != "b" || d.Next.Trial.Attempts() != 0 {
		t.Errorf("trial = %+v, want none counted, with this boot's ID", d.Next.Trial)
	}
}

func TestCondemn(t *testing.T) {
	health := Failure{Cause: bootcheck.CauseHealth, Check: "answers", Output: "500"}
	fellBack := func(r *bootcheck.Record, check string) *bootcheck.Record {
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
		{"a trial fails its health", record("trial", "3.0", "2.0", "2.0"), health, FallBack, "2.0", "fallback", "", []string{"3.0"}},
		{"the version fallen back to fails the same check: the environment",
			fellBack(record("fallback", "2.0", "", "2.0"), "answers"), health, Hold, "2.0", "hold", "environment", nil},
		{"the version fallen back to fails another check",
			fellBack(record("fallback", "2.0", "", "2.0"), "runs"), health, FallBack, "1.0", "factory", "", []string{"3.0", "2.0"}},
		{"two versions that crash without a check are not the environment",
			fellBack(record("fallback", "2.0", "", "2.0"), ""), Failure{Cause: bootcheck.CauseCrash}, FallBack, "1.0", "factory", "", []string{"3.0", "2.0"}},
		{"factory fails", record("factory", "1.0", ""), health, Hold, "1.0", "hold", "exhausted", nil},
		{"the first version of a device fails", record("trial", "1.0", ""), health, Hold, "1.0", "hold", "exhausted", nil},
		{"in hold nothing switches", record("hold", "2.0", "1.5", "1.5"), health, Keep, "2.0", "", "", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := Condemn(row.record, damaged(), "b", row.failure)
			next := d.Next
			if next == nil {
				next = &bootcheck.Record{}
			}
			if d.Action != row.action || d.Run.Version != row.run || next.Phase != row.phase || next.HoldReason != row.hold {
				t.Errorf("Condemn(…) = %s %s, phase %q %q (%s); want %s %s, phase %q %q", d.Action, d.Run, next.Phase, next.HoldReason, d.Why, row.action, row.run, row.phase, row.hold)
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

func TestAbsolve(t *testing.T) {
	r := record("trial", "3.0", "2.0", "2.0")
	r.Floor = 9
	d := Absolve(r, 7)
	if d.Next.Phase != "confirmed" || d.Next.Trial != nil || !d.Next.IsConfirmed(ref("3.0")) || d.Next.Floor != 9 {
		t.Errorf("Absolve(…, release 7) = %+v, want confirmed with the floor 9 kept", d.Next)
	}
	if d := Absolve(r, 12); d.Next.Floor != 12 {
		t.Errorf("floor = %d, want 12", d.Next.Floor)
	}
	for _, phase := range []bootcheck.Phase{"confirmed", "hold"} {
		if d := Absolve(record(phase, "3.0", "2.0"), 7); d.Action != Keep || d.Next != nil {
			t.Errorf("Absolve in phase %s = %s, want keep", phase, d.Action)
		}
	}
}

// Every combination of phase, counted boots, damage, block and boot ID: what a
// decision must never do, whatever led to it.
func TestDecideInvariants(t *testing.T) {
	versions := []string{"1.0", "2.0", "3.0"}
	n := 0
	for _, phase := range []bootcheck.Phase{"confirmed", "trial", "fallback", "factory", "hold"} {
		for _, current := range versions {
			for _, previous := range append(versions, "") {
				for damage := range 8 {
					for block := range 8 {
						for boots := range 4 {
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
										r.Trial.Hard = boots
									} else if boots > 0 {
										continue
									}
									n++
									invariants(t, r, disk, Boot{ID: id, Last: last, Budget: 3})
								}
							}
						}
					}
				}
			}
		}
	}
	t.Logf("%d combinations", n)
}

func invariants(t *testing.T, r *bootcheck.Record, disk Disk, boot Boot) {
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
	if switched && !disk.whole(d.Run) {
		bad("switches to a damaged version")
	}
	if switched && r.Phase == bootcheck.PhaseHold {
		bad("switches in hold")
	}
	if switched && d.Action != FallBack {
		bad("switches without saying so")
	}
	if !disk.whole(r.Current) && !switched && r.Phase != bootcheck.PhaseHold {
		for _, c := range []*bootcheck.Ref{r.Previous, ref("2.0"), r.Factory} {
			// From fallback, what previous says does not count: it was chosen before.
			if c == r.Previous && (r.Phase == bootcheck.PhaseFallback || r.Phase == bootcheck.PhaseFactory) ||
				c == r.Factory && r.Phase == bootcheck.PhaseFactory {
				continue
			}
			if c != nil && usable(r, disk, c) {
				bad("runs a damaged version while %s is whole", c)
			}
		}
	}
	if d.Next != nil && r.Trial != nil && d.Next.Trial != nil && !switched {
		if got := d.Next.Trial.Attempts() - r.Trial.Attempts(); got > 1 || got == 1 && boot.ID == r.Trial.BootID {
			bad("counts %d boots", got)
		}
	}
	if r.Phase == bootcheck.PhaseConfirmed && disk.whole(r.Current) && d.Next != nil {
		bad("writes on an ordinary boot")
	}
	if d.Action == Keep && d.Next != nil || d.Action != Keep && d.Next == nil {
		bad("action and record do not agree")
	}
	// The same boot asked again changes nothing more.
	if d.Next != nil {
		if again := Decide(d.Next, disk, boot); again.Next != nil && again.Action == Count {
			bad("counts the same boot twice")
		}
	}
}
