package bootcheck

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// recordDamages are what may become of a file of good: each makes it of nothing.
func recordDamages(good []byte) map[string]func(name string) error {
	write := func(data []byte) func(string) error {
		return func(name string) error { return os.WriteFile(name, data, 0o644) }
	}
	all := map[string]func(string) error{
		"missing":       func(string) error { return nil },
		"zeros":         write(make([]byte, len(good))),
		"0xff":          write(bytes.Repeat([]byte("\xff"), 500)),
		"null":          write([]byte("null")),
		"a list":        write([]byte("[1]")),
		"2 objects":     write(append(good[:len(good):len(good)], good...)),
		"schema 0":      write([]byte(`{"phase":"confirmed","current":{"version":"2.0"}}`)),
		"huge":          write(make([]byte, 2<<20)),
		"a directory":   func(name string) error { return os.Mkdir(name, 0o700) },
		"a FIFO":        func(name string) error { return unix.Mkfifo(name, 0o600) },
		"a link":        func(name string) error { return os.Symlink("../1/record.json", name) },
		"2^63 boots":    write(bytes.Replace(good, []byte(`"unclean": 1`), []byte(`"unclean": 9223372036854775807`), 1)),
		"one byte more": write(append(good[:len(good):len(good)], '\n')),
	}
	for n := range good {
		if n%11 == 0 || n > len(good)-90 { // the seal
			all[fmt.Sprintf("cut to %d bytes", n)] = write(good[:n])
		}
		flipped := bytes.Clone(good)
		flipped[n] ^= 1 << (n % 8)
		all[fmt.Sprintf("a bit of byte %d flipped", n)] = write(flipped)
	}
	return all
}

// Damage of any kind to one copy of the record is no loss at all.
func TestOneCopyOfTheRecordIsDamaged(t *testing.T) {
	s, _, _ := twoVersions(t)
	before := mustActive(t, s)
	for _, file := range []string{recordFile, backupFile} {
		name := s.path(".generations", "2", file)
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for what, damage := range recordDamages(good) {
			if err := errors.Join(os.RemoveAll(name), damage(name)); err != nil {
				t.Fatal(err)
			}
			active, err := s.Active()
			if err != nil {
				t.Errorf("%s %s: %v", file, what, err)
				continue
			}
			if diff := cmp.Diff(before.Record, active.Record, cmp.AllowUnexported(Record{})); diff != "" || active.Damage == "" {
				t.Errorf("%s %s: damage %q; want one, and a record that is not (-want +got):\n%s", file, what, active.Damage, diff)
			}
			if history, err := s.History(); err != nil || len(history) != 2 {
				t.Errorf("%s %s: the history has %d generations (%v), want 2", file, what, len(history), err)
			}
		}
		if err := errors.Join(os.RemoveAll(name), os.WriteFile(name, good, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if active := mustActive(t, s); active.Damage != "" {
		t.Errorf("with both copies as they were there is damage: %s", active.Damage)
	}
	if err := os.Remove(s.path(".generations", "2", backupFile)); err != nil {
		t.Fatal(err)
	}
	// Committing the record makes both copies again.
	mustCommit(t, s, mustActive(t, s).Record.Clone())
	if active := mustActive(t, s); active.Damage != "" || active.Record.Generation != 3 {
		t.Errorf("after the commit: generation %d, damage %q", active.Record.Generation, active.Damage)
	}
}

// Even if both copies of the active generation are lost, the current version goes
// on running, and nothing is rolled back because of it.
func TestBothCopiesOfTheRecordAreDamaged(t *testing.T) {
	s, one, two := twoVersions(t)
	good, err := os.ReadFile(s.path(".generations", "2", recordFile))
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range recordDamages(good) {
		loseRecord(t, s, 2, damage)
		active, err := s.Active()
		if err != nil {
			t.Errorf("records %s: %v", what, err)
			continue
		}
		r := active.Record
		if active.Damage == "" || !r.Current.Same(two) || r.Phase != PhaseTrial || !r.Previous.Same(one) {
			t.Errorf("records %s: current %s, previous %s, %s, damage %q; want 2.0, 1.0, trial and a damage", what, r.Current, r.Previous, r.Phase, active.Damage)
		}
	}
	// Committing what was put together repairs the store.
	mustCommit(t, s, mustActive(t, s).Record.Clone())
	if active := mustActive(t, s); active.Damage != "" || active.Record.Generation != 3 {
		t.Errorf("after repairing: generation %d, damage %q", active.Record.Generation, active.Damage)
	}
}

// loseRecord puts what damage makes in the place of both copies of a record.
func loseRecord(t *testing.T, s *Store, n uint64, damage func(name string) error) {
	t.Helper()
	for _, file := range []string{recordFile, backupFile} {
		name := filepath.Join(s.generation(n), file)
		if err := errors.Join(os.RemoveAll(name), damage(name)); err != nil {
			t.Fatal(err)
		}
	}
}

func emptyFile(name string) error { return os.WriteFile(name, nil, 0o644) }

// Stores of older programs have one copy, without a seal; one that an older program
// wrote after a newer one has the seal of another text, a key that it did not know.
func TestRecordOfAnOlderProgram(t *testing.T) {
	s, _, two := twoVersions(t)
	text, err := os.ReadFile(s.path(".generations/2/record.json"))
	if err != nil {
		t.Fatal(err)
	}
	plain := regexp.MustCompile(`(?s),\s*"seal": "[^"]*"`).ReplaceAll(text, nil)
	for what, text := range map[string][]byte{
		"without a seal":              plain,
		"with the seal of an older":   bytes.Replace(text, []byte(`"unclean": 1`), []byte(`"unclean": 2`), 1),
		"with other spaces and lines": bytes.Join(bytes.Fields(plain), nil),
	} {
		if err := errors.Join(os.RemoveAll(s.path(".generations/2/record.backup.json")), os.WriteFile(s.path(".generations/2/record.json"), text, 0o600)); err != nil {
			t.Fatal(err)
		}
		active := mustActive(t, s)
		if active.Damage != "" || !active.Record.Current.Same(two) || active.Record.Phase != PhaseTrial || len(active.Record.unknown) != 0 {
			t.Errorf("%s: %+v, damage %q, unknown %v; want trial of 2.0 and no damage", what, active.Record, active.Damage, active.Record.unknown)
		}
	}
	next := mustCommit(t, s, mustActive(t, s).Record.Clone())
	for _, file := range []string{recordFile, backupFile} {
		if text, err := os.ReadFile(filepath.Join(s.generation(next.Generation), file)); err != nil || !intact(text) {
			t.Errorf("%s of the next generation is %s (%v), want it sealed", file, text, err)
		}
	}
}

func TestDamagedRecordOfAVersionThatProvedItself(t *testing.T) {
	s, one, two := twoVersions(t)
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Confirmed: []Ref{*one, *two}})
	mustCommit(t, s, &Record{Phase: PhaseFallback, Current: one, Trial: &Trial{}, Confirmed: []Ref{*one, *two}})
	loseRecord(t, s, 4, func(string) error { return nil })
	r := mustActive(t, s).Record
	if !r.Current.Same(one) || r.Phase != PhaseConfirmed {
		t.Errorf("current %s, %s; want 1.0, confirmed: the links lead to it and it was confirmed once", r.Current, r.Phase)
	}
}

func TestEveryRecordDamagedLeavesTheLinks(t *testing.T) {
	s, one, two := twoVersions(t)
	loseRecord(t, s, 1, emptyFile)
	loseRecord(t, s, 2, emptyFile)
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
		"the switch is a directory": {func(s *Store) error {
			return errors.Join(os.Remove(s.path(".active")), os.Mkdir(s.path(".active"), 0o755))
		}, "2.0"},
		"the switch is absolute":                {relink(".active", "/etc"), "2.0"},
		"the switch climbs out":                 {relink(".active", "../../etc"), "2.0"},
		"the switch loops":                      {relink(".active", ".active"), "2.0"},
		"the switch dangles":                    {relink(".active", ".generations/77"), "2.0"},
		"the switch has a sign":                 {relink(".active", ".generations/+2"), "2.0"},
		"the switch has another zero":           {relink(".active", ".generations/02"), "2.0"},
		"current of the generation is gone":     {func(s *Store) error { return os.Remove(s.path(".generations/2/current")) }, "2.0"},
		"current of the generation climbs":      {relink(".generations/2/current", "../../../../etc"), "2.0"},
		"current of the generation is absolute": {relink(".generations/2/current", "/opt"), "2.0"},
		"previous is the same as current":       {relink(".generations/2/previous", "../../v2.0"), "2.0"},
		"the fixed link is gone":                {func(s *Store) error { return os.Remove(s.path("current")) }, "2.0"},
		"the fixed link is a directory": {func(s *Store) error {
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
					t.Errorf("Active = %v, %v; want an error that says no generation is intact", active, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if active.Damage == "" || active.Record.Current.Version != row.want {
				t.Errorf("Active = %s, damage %q; want %s and a damage", active.Record.Current, active.Damage, row.want)
			}
			if err := s.RepairLinks(); err != nil {
				t.Fatal(err)
			}
			mustCommit(t, s, active.Record.Clone())
			if active := mustActive(t, s); active.Damage != "" {
				t.Errorf("after repairing there is damage: %s", active.Damage)
			}
			if got := runsNow(t, s); got != row.want {
				t.Errorf("after repairing current runs %s, want %s", got, row.want)
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
	loseRecord(t, s, 3, emptyFile)
	if r := mustActive(t, s).Record; r.Phase != PhaseTrial || r.Trial.Attempts() != 0 {
		t.Errorf("Active = %s with %d boots counted, want a trial with none", r.Phase, r.Trial.Attempts())
	}
}

// The record that made a version factory is lost: its link says so, too.
func TestLostRecordKeepsItsFactory(t *testing.T) {
	s, one, two := twoVersions(t)
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Confirmed: []Ref{*one, *two}})
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Factory: one, Confirmed: []Ref{*one, *two}})
	loseRecord(t, s, 4, emptyFile)
	r := mustActive(t, s).Record
	if r.Factory == nil || r.Factory.Version != "1.0" || r.Factory.Digest != one.Digest || !r.Current.Same(two) || !r.Previous.Same(one) {
		t.Errorf("current %s, previous %s, factory %+v; want 2.0, 1.0 and 1.0 with its digest", r.Current, r.Previous, r.Factory)
	}
}
