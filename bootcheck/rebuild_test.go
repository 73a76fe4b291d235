package bootcheck

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever happens to the record of the active generation, the version that
// runs goes on running, and nothing is rolled back because of it.
func TestDamagedRecord(t *testing.T) {
	s, one, two := twoVersions(t)
	name := s.path(".generations", "2", "record.json")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string]func() error{
		"missing":   func() error { return nil },
		"zeros":     func() error { return os.WriteFile(name, make([]byte, len(good)), 0o600) },
		"0xff":      func() error { return os.WriteFile(name, []byte(strings.Repeat("\xff", 500)), 0o600) },
		"null":      func() error { return os.WriteFile(name, []byte("null"), 0o600) },
		"a list":    func() error { return os.WriteFile(name, []byte("[1]"), 0o600) },
		"2 objects": func() error { return os.WriteFile(name, append(good, good...), 0o600) },
		"schema 0": func() error {
			return os.WriteFile(name, []byte(`{"phase":"confirmed","current":{"version":"2.0"}}`), 0o600)
		},
		"huge":     func() error { return os.WriteFile(name, make([]byte, 2<<20), 0o600) },
		"a folder": func() error { return os.Mkdir(name, 0o700) },
		"a FIFO":   func() error { return unix.Mkfifo(name, 0o600) },
		"a link":   func() error { return os.Symlink("../1/record.json", name) },
		"2^63 boots": func() error {
			return os.WriteFile(name, []byte(strings.Replace(string(good), `"unclean": 1`, `"unclean": 9223372036854775807`, 1)), 0o600)
		},
	}
	for n := range len(good) - 1 { // the last byte is the line's end
		damages[fmt.Sprintf("cut to %d bytes", n)] = func() error { return os.WriteFile(name, good[:n], 0o600) }
	}
	for what, damage := range damages {
		if err := errors.Join(os.RemoveAll(name), damage()); err != nil {
			t.Fatal(err)
		}
		active, err := s.Active()
		if err != nil {
			t.Errorf("record %s: %v", what, err)
			continue
		}
		r := active.Record
		if active.Damage == "" || !r.Current.Same(two) || r.Phase != PhaseTrial || !r.Previous.Same(one) {
			t.Errorf("record %s: current %s, previous %s, %s, damage %q; want 2.0, 1.0, trial and a damage", what, r.Current, r.Previous, r.Phase, active.Damage)
		}
	}
	// Committing what was put together mends the store.
	mustCommit(t, s, mustActive(t, s).Record.Clone())
	if active := mustActive(t, s); active.Damage != "" || active.Record.Generation != 3 {
		t.Errorf("after mending: generation %d, damage %q", active.Record.Generation, active.Damage)
	}
}

func TestDamagedRecordOfAVersionThatProvedItself(t *testing.T) {
	s, one, two := twoVersions(t)
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Confirmed: []Ref{*one, *two}})
	mustCommit(t, s, &Record{Phase: PhaseFallback, Current: one, Trial: &Trial{}, Confirmed: []Ref{*one, *two}})
	if err := os.Remove(s.path(".generations", "4", "record.json")); err != nil {
		t.Fatal(err)
	}
	r := mustActive(t, s).Record
	if !r.Current.Same(one) || r.Phase != PhaseConfirmed {
		t.Errorf("current %s, %s; want 1.0, confirmed: the links run it and it once proved itself", r.Current, r.Phase)
	}
}

func TestEveryRecordDamagedLeavesTheLinks(t *testing.T) {
	s, one, two := twoVersions(t)
	for _, n := range []string{"1", "2"} {
		if err := os.Truncate(s.path(".generations", n, "record.json"), 0); err != nil {
			t.Fatal(err)
		}
	}
	r := mustActive(t, s).Record
	if r.Current.Version != two.Version || r.Previous.Version != one.Version || r.Factory.Version != one.Version || r.Phase != PhaseConfirmed {
		t.Errorf("Active = %+v, want what the links say", r)
	}
}

func TestDamagedLinks(t *testing.T) {
	for name, row := range map[string]struct {
		damage func(s *Store) error
		want   string // the version; empty: an error
	}{
		"the switch is missing": {func(s *Store) error { return os.Remove(s.path(".active")) }, "2.0"},
		"the switch is a folder": {func(s *Store) error {
			return errors.Join(os.Remove(s.path(".active")), os.Mkdir(s.path(".active"), 0o755))
		}, "2.0"},
		"the switch is absolute":                {relink(".active", "/etc"), "2.0"},
		"the switch climbs out":                 {relink(".active", "../../etc"), "2.0"},
		"the switch loops":                      {relink(".active", ".active"), "2.0"},
		"the switch dangles":                    {relink(".active", ".generations/77"), "2.0"},
		"the switch has a sign":                 {relink(".active", ".generations/+2"), "2.0"},
		"current of the generation is gone":     {func(s *Store) error { return os.Remove(s.path(".generations/2/current")) }, "2.0"},
		"current of the generation climbs":      {relink(".generations/2/current", "../../../../etc"), "2.0"},
		"current of the generation is absolute": {relink(".generations/2/current", "/opt"), "2.0"},
		"previous is the same as current":       {relink(".generations/2/previous", "../../v2.0"), "2.0"},
		"the fixed link is gone":                {func(s *Store) error { return os.Remove(s.path("current")) }, "2.0"},
		"the fixed link is a folder": {func(s *Store) error {
			return errors.Join(os.Remove(s.path("current")), os.Mkdir(s.path("current"), 0o755))
		}, "2.0"},
		"the fixed link is absolute": {relink("previous", "/etc"), "2.0"},
		"no generations at all":      {func(s *Store) error { return os.RemoveAll(s.path(".generations")) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, _ := twoVersions(t)
			if err := row.damage(s); err != nil {
				t.Fatal(err)
			}
			active, err := s.Active()
			if row.want == "" {
				if err == nil || errors.Is(err, ErrEmpty) {
					t.Errorf("Active = %v, %v; want an error that says no generation is whole", active, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if active.Damage == "" || active.Record.Current.Version != row.want {
				t.Errorf("Active = %s, damage %q; want %s and a damage", active.Record.Current, active.Damage, row.want)
			}
			if err := s.Mend(); err != nil {
				t.Fatal(err)
			}
			mustCommit(t, s, active.Record.Clone())
			if active := mustActive(t, s); active.Damage != "" {
				t.Errorf("after mending there is damage: %s", active.Damage)
			}
			if got := runsNow(t, s); got != row.want {
				t.Errorf("after mending current runs %s, want %s", got, row.want)
			}
		})
	}
}

func relink(name, target string) func(s *Store) error {
	return func(s *Store) error { return errors.Join(os.Remove(s.path(name)), os.Symlink(target, s.path(name))) }
}

// What was counted before a record was lost does not count any more: the lost
// one may have confirmed the version.
func TestLostConfirmationIsNotARollback(t *testing.T) {
	s, one, two := twoVersions(t)
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Confirmed: []Ref{*one, *two}})
	if err := os.Truncate(s.path(".generations", "3", "record.json"), 0); err != nil {
		t.Fatal(err)
	}
	if r := mustActive(t, s).Record; r.Phase != PhaseTrial || r.Trial.Attempts() != 0 {
		t.Errorf("Active = %s with %d boots counted, want a trial with none", r.Phase, r.Trial.Attempts())
	}
}

// The record that made a version factory is lost: its link says so, too.
func TestLostRecordKeepsItsFactory(t *testing.T) {
	s, one, two := twoVersions(t)
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Confirmed: []Ref{*one, *two}})
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Factory: one, Confirmed: []Ref{*one, *two}})
	if err := os.Truncate(s.path(".generations", "4", "record.json"), 0); err != nil {
		t.Fatal(err)
	}
	r := mustActive(t, s).Record
	if r.Factory == nil || r.Factory.Version != "1.0" || r.Factory.Digest != one.Digest || !r.Current.Same(two) || !r.Previous.Same(one) {
		t.Errorf("current %s, previous %s, factory %+v; want 2.0, 1.0 and 1.0 with its digest", r.Current, r.Previous, r.Factory)
	}
}
