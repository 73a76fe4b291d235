package bootcheck

import (
	"errors"
	"os"
	"slices"
	"testing"
)

// left is a record that leaves 2.0 of twoVersions for 1.0, with all that is known.
func left(s *Store, t *testing.T) *Record {
	t.Helper()
	r := mustActive(t, s).Record.Clone()
	target, level := r.RollbackTarget(func(*Ref) bool { return true })
	r.Trial = nil
	r.RolledBack(&Rollback{From: "2.0", To: target.Version, Level: level, Cause: CauseHealth, Check: "answers", Output: "500", BootIDs: []string{}})
	r.Block(*r.Current, CauseHealth, "answers")
	r.SwitchTo(target, level, "here", nil, func(*Ref) bool { return true })
	return r
}

// numbers are the names below .generations.
func numbers(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.path(".generations"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestTrialPreparesItsRollback(t *testing.T) {
	s, one, _ := twoVersions(t)
	if got := numbers(t, s); !slices.Equal(got, []string{"1", "2", "2.fallback", "4"}) {
		t.Fatalf("a trial left %v", got)
	}
	// It is no part of the history, and no sweep removes it.
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if h, err := s.History(); err != nil || len(h) != 2 {
		t.Errorf("History: %d records (%v), want 2", len(h), err)
	}
	if runsNow(t, s) != "2.0" || mustActive(t, s).Record.Generation != 2 {
		t.Error("it is active already")
	}

	s.Run = t.TempDir()
	next := left(s, t)
	if err := s.RollBack(next); err != nil {
		t.Fatal(err)
	}
	if got := runsNow(t, s); got != "1.0" || next.Generation != 4 {
		t.Errorf("after the rollback %s runs, generation %d", got, next.Generation)
	}
	active := mustActive(t, s)
	if r := active.Record; active.Damage != "" || r.Phase != PhaseFallback || r.Trial.BootID != "here" || !r.Current.Same(one) || r.Generation != 4 || r.LastRollback.Cause != CauseHealth ||
		r.LastRollback.Output != "500" || r.BlockedBy(&Ref{Version: "2.0"}).Check != "answers" {
		t.Errorf("Active = %+v (%s), rollback %+v", r, active.Damage, r.LastRollback)
	}
	// A reboot: what only Run had is lost, and nothing is made up.
	run := s.Run
	s.Run = t.TempDir()
	r := mustActive(t, s).Record
	if l := r.LastRollback; l.Cause != CauseUnrecorded || l.From != "2.0" || l.To != "1.0" || l.Level != LevelPrevious || l.Output != "" ||
		r.BlockedBy(&Ref{Version: "2.0"}).Reason != string(CauseUnrecorded) {
		t.Errorf("after a reboot: %+v, blocked %+v", r.LastRollback, r.Blocked)
	}
	// The next Commit that has room completes it, for ever.
	s.Run = run
	mustCommit(t, s, mustActive(t, s).Record.Clone())
	s.Run = ""
	if l := mustActive(t, s).Record.LastRollback; l.Cause != CauseHealth || l.Output != "500" {
		t.Errorf("after the next commit: %+v", l)
	}
	if got := numbers(t, s); !slices.Equal(got, []string{"1", "2", "4", "5"}) {
		t.Errorf("in the end there are %v", got)
	}
	if h, err := s.History(); err != nil || len(h) != 4 {
		t.Errorf("History: %d records (%v), want 4", len(h), err)
	}
}

func TestPreparedRollbackGoes(t *testing.T) {
	for what, next := range map[string]func(*Record){
		"with the trial":  func(r *Record) { r.Phase, r.Trial = PhaseConfirmed, nil },
		"for another one": func(r *Record) { r.Trial.Unclean++ },
	} {
		s, _, _ := twoVersions(t)
		r := mustActive(t, s).Record.Clone()
		next(r)
		mustCommit(t, s, r)
		want := []string{"1", "2", "3"}
		if r.Trial != nil {
			want = append(want, "3.fallback", "5")
		}
		if got := numbers(t, s); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		if h, _ := s.History(); len(h) != 3 {
			t.Errorf("%s: %d records in the history, want 3", what, len(h))
		}
	}
}

// What a commit that was broken off has prepared is not what the active generation has.
func TestPreparedByABrokenCommit(t *testing.T) {
	s, _, _ := twoVersions(t)
	r := mustActive(t, s).Record.Clone()
	for _, err := range []error{s.prepare(3, r), s.writeGeneration(3, r)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if got := numbers(t, s); !slices.Equal(got, []string{"1", "2", "2.fallback", "4"}) {
		t.Errorf("after the sweep: %v", got)
	}
	if err := s.RollBack(left(s, t)); err != nil || runsNow(t, s) != "1.0" {
		t.Errorf("RollBack: %v, runs %s", err, runsNow(t, s))
	}
}

// A switch or a record that is lost is no rollback.
func TestPreparedIsNoBackup(t *testing.T) {
	s, _, _ := twoVersions(t)
	if err := os.Remove(s.path(".active")); err != nil {
		t.Fatal(err)
	}
	if r := mustActive(t, s).Record; r.Current.Version != "2.0" || r.Phase != PhaseTrial {
		t.Errorf("without a switch: %s, %s; want 2.0 on trial", r.Current, r.Phase)
	}
	mustCommit(t, s, mustActive(t, s).Record.Clone())
	if got := numbers(t, s); !slices.Equal(got, []string{"1", "2", "3", "3.fallback", "5"}) {
		t.Errorf("after repairing: %v", got)
	}

	// After it happened, it is.
	if err := s.RollBack(left(s, t)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.path(".active")); err != nil {
		t.Fatal(err)
	}
	if r := mustActive(t, s).Record; r.Current.Version != "1.0" {
		t.Errorf("without a switch, after a rollback: %s, want 1.0", r.Current)
	}
}

// A version that is only retained may be removed in the trial: nothing that is prepared
// leads to it.
func TestPreparedLeadsToWhatStays(t *testing.T) {
	s := newStore(t)
	zero, one, two, three := addSnapshot(t, s, "0.9"), addSnapshot(t, s, "1.0"), addSnapshot(t, s, "2.0"), addSnapshot(t, s, "3.0")
	mustCommit(t, s, &Record{Phase: PhaseTrial, Current: three, Previous: two, Factory: zero, Confirmed: []Ref{*zero, *one, *two}, Trial: &Trial{}})
	r, _, err := s.readGeneration(s.switchable(1))
	if err != nil || !r.Current.Same(two) || !r.Previous.Same(zero) {
		t.Fatalf("prepared: current %s, previous %s (%v), want 2.0 and 0.9", r.Current, r.Previous, err)
	}
	if err := s.Remove(mustActive(t, s).Record, "1.0"); err != nil {
		t.Fatal(err)
	}
	s.Run = t.TempDir()
	next := mustActive(t, s).Record.Clone()
	next.SwitchTo(two, LevelPrevious, "b", nil, func(*Ref) bool { return true })
	next.RolledBack(&Rollback{From: "3.0", To: "2.0", Level: LevelPrevious, Cause: CauseHealth})
	if err := s.RollBack(next); err != nil {
		t.Fatal(err)
	}
	if a := mustActive(t, s); a.Damage != "" || !a.Record.Previous.Same(zero) || a.Record.LastRollback.Cause != CauseHealth {
		t.Errorf("Active: previous %s, %+v, damage %q", a.Record.Previous, a.Record.LastRollback, a.Damage)
	}
}

func TestRollBackRefuses(t *testing.T) {
	s, _, two := twoVersions(t)
	other := left(s, t)
	other.Current = two
	if err := s.RollBack(other); !errors.Is(err, os.ErrNotExist) || runsNow(t, s) != "2.0" {
		t.Errorf("RollBack to another version than was prepared: %v", err)
	}
	r := mustActive(t, s).Record.Clone()
	r.Phase, r.Trial = PhaseConfirmed, nil
	next := left(s, t)
	mustCommit(t, s, r)
	if err := s.RollBack(next); !errors.Is(err, os.ErrNotExist) || runsNow(t, s) != "2.0" {
		t.Errorf("RollBack with nothing prepared: %v", err)
	}
}

func TestSpareBoots(t *testing.T) {
	s, _, _ := twoVersions(t)
	s.Run = t.TempDir()
	for _, row := range []struct {
		boot string
		want bool
	}{{"b1", true}, {"b1", true}, {"b2", true}, {"b2", true}, {"b3", false}, {"b3", false}} {
		if got, err := s.SpareBoot(row.boot); got != row.want || err != nil {
			t.Errorf("SpareBoot(%s) = %v, %v, want %v", row.boot, got, err, row.want)
		}
	}
	// A boot that is counted begins again.
	r := mustActive(t, s).Record.Clone()
	mustCommit(t, s, r)
	if got, err := s.SpareBoot("b4"); !got || err != nil {
		t.Errorf("SpareBoot of a new generation = %v, %v", got, err)
	}
	r = mustActive(t, s).Record.Clone()
	r.Phase, r.Trial = PhaseConfirmed, nil
	mustCommit(t, s, r)
	if _, err := s.SpareBoot("b5"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("SpareBoot with nothing prepared: %v", err)
	}
}
