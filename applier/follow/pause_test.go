package follow

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// Rows 13, 14, 19: as told, but neither at once nor never; spread; longer with each
// failure; much longer when an operator has to act.
func TestPause(t *testing.T) {
	other := errors.New("500")
	for _, tt := range []struct {
		name      string
		sleep     time.Duration
		failures  int
		err       error
		low, high time.Duration
	}{
		{"as told", 30 * time.Second, 0, nil, 27 * time.Second, 33 * time.Second},
		{"not told", 0, 0, nil, 270 * time.Second, 330 * time.Second},
		{"at once", time.Second, 0, nil, 9 * time.Second, 11 * time.Second},
		{"in a year", 8760 * time.Hour, 0, nil, 21 * time.Hour, 27 * time.Hour},
		{"a failure", 0, 1, other, 27 * time.Second, 33 * time.Second},
		{"the third", 0, 3, other, 108 * time.Second, 132 * time.Second},
		{"the hundredth", 0, 100, other, 54 * time.Minute, 66 * time.Minute},
		{"denied", 0, 1, fmt.Errorf("401: %w", ErrDenied), 27 * time.Minute, 33 * time.Minute},
		{"denied for days", 0, 100, ErrDenied, 216 * time.Minute, 264 * time.Minute},
		{"the server says when", 0, 1, fmt.Errorf("503: %w", &StatusError{Code: 503, After: 90 * time.Minute}), 90 * time.Minute, 90 * time.Minute},
	} {
		least, most := time.Duration(1<<62), time.Duration(0)
		for range 500 {
			d := pause(&Answer{Sleep: tt.sleep}, tt.failures, tt.err)
			least, most = min(least, d), max(most, d)
		}
		if least < tt.low || most > tt.high || tt.low != tt.high && most-least < (tt.high-tt.low)/2 {
			t.Errorf("%s: between %v and %v, want all of %v to %v", tt.name, least, most, tt.low, tt.high)
		}
	}
}

// 500 devices that get their power together poll spread over five minutes: no 10 s have
// more than 40 of them (17 on average).
func TestFirstPollsAreSpread(t *testing.T) {
	f := &Follower{Options: Options{Run: t.TempDir()}, state: &State{}}
	per := map[int]int{}
	for range 500 {
		per[int(f.firstPause()/(10*time.Second))]++
	}
	for slot, n := range per {
		if n > 40 || slot >= 30 {
			t.Errorf("%d polls from %d s on", n, slot*10)
		}
	}
	if _, err := (&bootcheck.Following{}).Keep(f.Run); err != nil {
		t.Fatal(err)
	}
	if d := f.firstPause(); d != 0 {
		t.Errorf("a service that was restarted waits %v", d)
	}
}

func TestTrialOutcome(t *testing.T) {
	ref := func(v string) *bootcheck.Ref { return &bootcheck.Ref{Version: v, Digest: "sha256:" + v} }
	old, mine, other := ref("1"), ref("2"), ref("3")
	job := &Job{Version: mine.Version, Digest: mine.Digest, Before: old.Digest}
	trial := &bootcheck.Trial{}
	blocked := []bootcheck.Blocked{{Ref: *mine, Reason: "health", Check: "c"}}
	for _, tt := range []struct {
		name   string
		record *bootcheck.Record
		want   int
	}{
		{"nothing is installed", nil, unchanged},
		{"it is on trial", &bootcheck.Record{Phase: bootcheck.PhaseTrial, Current: mine, Trial: trial}, pending},
		{"it is confirmed", &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: mine}, good},
		{"nothing was left to roll back to", &bootcheck.Record{Phase: bootcheck.PhaseHold, Current: mine}, bad},
		{"rolled back, on trial", &bootcheck.Record{Phase: bootcheck.PhaseFallback, Current: old, Trial: trial, Blocked: blocked, LastRollback: &bootcheck.Rollback{From: "2", To: "1", Level: "previous"}}, bad},
		{"blocked, the evidence is of another", &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: old, Blocked: blocked}, bad},
		{"not switched", &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: old}, unchanged},
		{"not switched, and it was confirmed years ago", &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: old, Confirmed: []bootcheck.Ref{*mine, *old}}, unchanged},
		{"confirmed, and another one came", &bootcheck.Record{Phase: bootcheck.PhaseTrial, Current: other, Trial: trial, Confirmed: []bootcheck.Ref{*mine}}, good},
		{"replaced on trial", &bootcheck.Record{Phase: bootcheck.PhaseTrial, Current: other, Trial: trial}, bad},
		{"one of the name with other content", &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: &bootcheck.Ref{Version: "2", Digest: "sha256:x"}}, bad},
	} {
		v, text := trialOutcome(tt.record, job)
		if v != tt.want || (v == bad) != (len(text) > 0) {
			t.Errorf("%s: %d, %q, want %d", tt.name, v, text, tt.want)
		}
	}
}

// What cannot be looked at holds an update: it may be there.
func TestInhibitorThatCannotBeSeen(t *testing.T) {
	f := &Follower{Options: Options{Run: "/" + strings.Repeat("x", 300)}}
	if why := f.inhibited(t.Context()); !strings.Contains(why, "cannot see what is inhibited") {
		t.Errorf("inhibited = %q, want that it cannot be seen", why)
	}
	if f.result == nil {
		t.Error("`follow --once` would end with 0, as if an inhibitor had been seen")
	}
}
