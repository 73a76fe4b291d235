package guardian

import (
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

func TestRollbackBetween(t *testing.T) {
	record := func(version string, phase bootcheck.Phase, l *bootcheck.Rollback) *bootcheck.Record {
		return &bootcheck.Record{Phase: phase, Current: ref(version), LastRollback: l}
	}
	l := &bootcheck.Rollback{From: "2.0", To: "1.0", Level: bootcheck.LevelPrevious}
	exhausted := record("1.0", bootcheck.PhaseHold, l)
	exhausted.HoldReason = bootcheck.HoldExhausted
	environment := record("1.0", bootcheck.PhaseHold, l)
	environment.HoldReason = bootcheck.HoldEnvironment
	for _, row := range []struct {
		name        string
		before, now *bootcheck.Record
		want        bool
	}{
		{"the oldest that is kept", nil, record("1.0", bootcheck.PhaseFallback, l), false},
		{"another version runs", record("2.0", bootcheck.PhaseTrial, nil), record("1.0", bootcheck.PhaseFallback, l), true},
		{"a new version was installed since", record("1.0", bootcheck.PhaseConfirmed, l), record("2.0", bootcheck.PhaseTrial, l), false},
		{"it was confirmed since", record("1.0", bootcheck.PhaseFallback, l), record("1.0", bootcheck.PhaseConfirmed, l), false},
		{"nowhere to go", record("1.0", bootcheck.PhaseFactory, nil), exhausted, true},
		{"nowhere to go, still", exhausted, exhausted, false},
		{"it is not the version", record("1.0", bootcheck.PhaseFallback, l), environment, false},
	} {
		if got := rollbackBetween(row.before, row.now) != nil; got != row.want {
			t.Errorf("%s: a rollback: %t, want %t", row.name, got, row.want)
		}
	}
}
