package guardian

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/bootcheck"
)

// unknown is disk with versions that could not be looked at.
func unknown(disk Disk, versions ...string) Disk {
	disk.Unknown = map[string]string{}
	for _, v := range versions {
		disk.Unknown[v] = "lstat v" + v + ": cannot allocate memory"
	}
	return disk
}

func asked(r *bootcheck.Record, version string) *bootcheck.Record {
	r.Next = &bootcheck.Next{Ref: *ref(version)}
	return r
}

// What cannot be looked at is stepped over, and nothing else changes for it.
func TestDecideUnknown(t *testing.T) {
	confirmed := func() *bootcheck.Record { return record("confirmed", "3.0", "2.0", "1.5", "2.0", "3.0") }
	spent := func() *bootcheck.Record { return bootCounts(record("trial", "3.0", "2.0", "1.5", "2.0"), 2, 0, 0) }
	why := func(v string) string { return "lstat v" + v + ": cannot allocate memory" }
	const lost = "bin/device-api: size 0, want 812"
	for _, row := range []struct {
		name    string
		record  *bootcheck.Record
		disk    Disk
		action  Action
		run     string
		phase   bootcheck.Phase // of what is committed; empty: nothing is
		skipped []bootcheck.Skipped
		asked   string // of what is committed or, where nothing is, of what was there
	}{
		{"current cannot be looked at and is not blamed", confirmed(), unknown(damaged(), "3.0"), Count, "3.0", "confirmed", nil, ""},
		{"previous cannot be looked at: the next confirmed one", spent(), unknown(damaged(), "2.0"), RollBack, "1.5", "fallback",
			[]bootcheck.Skipped{{Version: "2.0", Why: why("2.0")}}, ""},
		{"one is damaged and one cannot be looked at: factory", spent(), unknown(damaged("2.0"), "1.5"), RollBack, "1.0", "factory",
			[]bootcheck.Skipped{{Version: "2.0", Why: lost}, {Version: "1.5", Why: why("1.5")}}, ""},
		{"nothing can be looked at: the trial continues", spent(), unknown(damaged(), "2.0", "1.5", "1.0"), Keep, "3.0", "", nil, ""},
		{"current is damaged and nothing can be looked at: no hold", confirmed(), unknown(damaged("3.0"), "2.0", "1.5", "1.0"), Keep, "3.0", "", nil, ""},
		{"current is damaged and of the others one may be intact: no hold", confirmed(), unknown(damaged("3.0", "2.0", "1.0"), "1.5"), Keep, "3.0", "", nil, ""},
		{"what was asked for cannot be looked at: the next boot tries again", asked(record("confirmed", "2.0", "1.0", "1.0", "2.0"), "3.0"),
			unknown(damaged(), "3.0"), Count, "2.0", "confirmed", nil, "3.0"},
		{"it cannot be looked at and current is damaged", asked(record("confirmed", "2.0", "1.0", "1.0", "2.0"), "3.0"),
			unknown(damaged("2.0"), "3.0"), RollBack, "1.0", "fallback", nil, "3.0"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d := Decide(row.record, row.disk, Boot{ID: "b", Last: LastHard, Limits: limits})
			next, phase := row.record, bootcheck.Phase("")
			if d.Next != nil {
				next, phase = d.Next, d.Next.Phase
			}
			if d.Action != row.action || d.Run.Version != row.run || phase != row.phase {
				t.Errorf("Decide(…) = %s %s, phase %q (%s); want %s %s, phase %q", d.Action, d.Run, phase, d.Why, row.action, row.run, row.phase)
			}
			var skipped []bootcheck.Skipped
			if next.LastRollback != nil {
				skipped = next.LastRollback.Skipped
			}
			if diff := cmp.Diff(row.skipped, skipped); diff != "" {
				t.Errorf("skipped (-want +got):\n%s", diff)
			}
			got := ""
			if next.Next != nil {
				got = next.Next.Version
			}
			if got != row.asked {
				t.Errorf("asked for is %q, want %q", got, row.asked)
			}
			if len(next.Blocked) > 0 && d.Action != RollBack {
				t.Errorf("blocked: %v", next.Blocked)
			}
		})
	}
}

// A version that cannot be looked at just now is behind the one that runs all the same.
func TestUnknownStaysBehind(t *testing.T) {
	r := record("trial", "3.0", "2.0", "1.5", "2.0")
	d := MarkBad(r, unknown(damaged("2.0"), "1.0"), "b", Failure{Cause: bootcheck.CauseHealth, Check: "answers"})
	if d.Action != RollBack || d.Run.Version != "1.5" {
		t.Fatalf("MarkBad(…) = %s %s (%s)", d.Action, d.Run, d.Why)
	}
	d = MarkBad(r, unknown(damaged(), "1.5"), "b", Failure{Cause: bootcheck.CauseHealth, Check: "answers"})
	if d.Run.Version != "2.0" || d.Next.Previous == nil || d.Next.Previous.Version != "1.5" {
		t.Errorf("runs %s, behind it is %s; want 2.0 and 1.5", d.Run, d.Next.Previous)
	}
}

// A look at the factory version that was ended says nothing of it, and advises no repair.
func TestFactoryVerifyInterrupted(t *testing.T) {
	b := newBoard(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := b.guardian().factoryVerify(ctx)
	if !bootcheck.Inconclusive(err) || strings.Contains(bootcheck.Advice(err), "repair") {
		t.Errorf("factoryVerify(…) = %v, advice %q; want the end of ctx and no repair", err, bootcheck.Advice(err))
	}
}
