package bootcheck

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Any bytes as a record, from a disk that lies or a program that does not exist
// yet: no panic, and what is taken can be written, changed and read again, with
// the keys that are unknown here.
func FuzzRecord(f *testing.F) {
	r := &Record{
		Schema: 1, Generation: 42, Phase: PhaseTrial,
		Current: &Ref{"1.3.0", "sha256:ab"}, Previous: &Ref{"1.2.0", ""}, Factory: &Ref{"1.0.0", ""},
		Trial:     &Trial{BootID: "b", Hard: 1, Baseline: map[string]bool{"uplink": false}, BootIDs: []string{"a", "b"}},
		Confirmed: []Ref{{"1.2.0", ""}}, Floor: 7, Blocked: []Blocked{{Ref{"1.1.0", ""}, "health", "device-api answers"}},
		LastRollback: &Rollback{From: "1.1.0", To: "1.2.0", Level: LevelPrevious, Cause: CauseHealth, Journal: []string{"x"}},
		RevokedKeys:  []string{"00000000000000AA"}, HardStreak: []string{"c"}, LastPanic: "oops",
		Rollbacks: map[Cause]map[string]uint64{CauseHealth: {LevelPrevious: 2}},
	}
	good, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"schema":2,"phase":"resting","current":{"version":"1.0.0"},"new":{"a":[1,2]}}`))
	f.Add([]byte(`{"schema":1,"phase":"confirmed","current":{"version":"../x"}}`))
	f.Add([]byte(`{"schema":1,"phase":"trial","current":{"version":"1"},"trial":null}`))
	f.Add([]byte(`{"schema":1,"phase":"confirmed","current":{"version":"1"}}{}`))
	f.Add([]byte(`{"schema":1,"phase":"confirmed","Phase":"hold","current":{"version":"1"}}`))
	f.Add([]byte(`{"schema":1,"phase":"trial","current":{"version":"1","x":{"a":1}},"Trial":{"x":2},"trial":{"hard":1,"x":[3],"X":"<"},"blocked":[{"version":"2","x":4},null,{}],"next":{"version":"3","x":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatalf("%v is not ErrRecord", err)
			}
			return
		}
		_ = r.BlockedBy(r.Current)
		_ = r.Trial.Attempts()
		again := func(r *Record) *Record {
			t.Helper()
			data, err := json.Marshal(r)
			if err != nil {
				t.Fatalf("cannot write what was read: %v", err)
			}
			back, err := ParseRecord(data)
			if err != nil {
				t.Fatalf("wrote %s, which cannot be read: %v", data, err)
			}
			return back
		}
		back := again(r.Clone())
		if len(back.unknown) != len(r.unknown) {
			t.Fatalf("of %d unknown keys %d came back", len(r.unknown), len(back.unknown))
		}
		a, _ := json.Marshal(r)
		b, _ := json.Marshal(back)
		if diff := cmp.Diff(string(a), string(b)); diff != "" {
			t.Fatalf("written and read again (-want +got):\n%s", diff)
		}
		next := back.Clone()
		next.Phase, next.Trial = PhaseFactory, nil
		next.Current = &Ref{Version: "9.9.9"}
		if got := again(next); got.Phase != PhaseFactory || got.Current.Version != "9.9.9" || got.Trial != nil {
			t.Fatalf("committed factory and 9.9.9, read %s and %s", got.Phase, got.Current)
		}
	})
}

// A count that a clone shares with the record that it was made of would count a
// rollback that was never committed.
func TestRolledBackCounts(t *testing.T) {
	r := &Record{Schema: 1, Phase: PhaseConfirmed, Current: &Ref{Version: "1.0.0"}}
	for _, l := range []Rollback{
		{From: "1.1.0", To: "1.0.0", Level: LevelPrevious, Cause: CauseHealth},
		{From: "1.2.0", To: "1.0.0", Level: LevelPrevious, Cause: CauseHealth},
		{From: "1.0.0", Level: LevelNone, Cause: CauseDamaged},
	} {
		next := r.Clone()
		next.RolledBack(&l)
		if next.LastRollback.From != l.From {
			t.Errorf("the last rollback is from %s, want %s", next.LastRollback.From, l.From)
		}
		r.Clone().RolledBack(&l) // never committed
		data, err := json.Marshal(next)
		if err != nil {
			t.Fatal(err)
		}
		if r, err = ParseRecord(data); err != nil {
			t.Fatal(err)
		}
	}
	want := map[Cause]map[string]uint64{CauseHealth: {LevelPrevious: 2}, CauseDamaged: {LevelNone: 1}}
	if diff := cmp.Diff(want, r.Rollbacks); diff != "" {
		t.Errorf("counted rollbacks (-want +got):\n%s", diff)
	}
	if len(r.unknown) != 0 {
		t.Errorf("a record has the keys %v twice", r.unknown)
	}
}

// TestKeysOfTheContract holds the keys that programs of others look for in the
// record and in `status --json`: they are there in every state.
func TestKeysOfTheContract(t *testing.T) {
	r := &Record{Schema: Schema, Phase: PhaseTrial, Current: &Ref{Version: "1.0.0"}, Trial: &Trial{},
		Blocked: []Blocked{{}}, LastRollback: &Rollback{}}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var all, trial, rollback map[string]json.RawMessage
	var blocked []map[string]json.RawMessage
	for _, err := range []error{json.Unmarshal(data, &all), json.Unmarshal(all["trial"], &trial),
		json.Unmarshal(all["blocked"], &blocked), json.Unmarshal(all["last_rollback"], &rollback)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		what string
		got  map[string]json.RawMessage
		want []string
	}{
		{"the record", all, []string{"schema", "generation", "phase", "current", "previous", "factory", "trial", "blocked", "last_rollback"}},
		{"trial", trial, []string{"boot_id", "hard", "unclean", "clean"}},
		{"blocked", blocked[0], []string{"version", "digest", "reason", "check"}},
		{"last_rollback", rollback, []string{"from", "to", "level", "cause", "check", "output", "attempts", "boot_ids"}},
	} {
		for _, key := range tt.want {
			if _, ok := tt.got[key]; !ok {
				t.Errorf("%s has no key %q", tt.what, key)
			}
		}
	}
}
