package guardian

import (
	"context"
	"fmt"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// restartPause is how long a service that crash-loops rests when no other
// version may take its place. Long enough not to wear the flash and fill the
// journal, short enough that a cable that is plugged in again is seen soon.
const restartPause = 30 * time.Second

// recover is run by systemd when unit has failed (OnFailure=). From systemd 254
// on that is at each single failure, before that only when the start limit is
// hit: so it looks at the unit itself, and does nothing while systemd still
// restarts it. It may run any number of times.
func (g *guardian) recover(ctx context.Context, unit string) error {
	d, err := g.rollBackUnit(ctx, unit)
	if err != nil || d.Action == "" {
		return err
	}
	running := systemd.Running()
	if running && d.Action != RollBack {
		// No other version takes its place: let it rest, then try again.
		g.logf("starting %s again in %s", unit, restartPause)
		if err := systemd.Pause(ctx, restartPause); err != nil {
			return err
		}
		if err := g.startFailed(ctx); err != nil {
			return err
		}
	}
	if running {
		g.startTrial(ctx)
	}
	switch {
	case d.Action == RollBack && !running:
		return rolledBack(d.Next)
	case d.Action == Hold:
		return holdError(d.Next)
	case d.Undecided:
		return errUndecided
	}
	return nil
}

// startFailed starts the services again that systemd gave up on, and only those:
// one that crash-loops must not take the others with it.
func (g *guardian) startFailed(ctx context.Context) error {
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return err
	}
	defer unlock()
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	var failed []string
	for _, service := range g.cfg.Services {
		if is, _, err := failedForGood(ctx, service); err == nil && is {
			failed = append(failed, service)
		}
	}
	return conn.RestartAll(ctx, failed)
}

// failedForGood reports whether systemd gave up on unit, and the state it is in.
func failedForGood(ctx context.Context, unit string) (bool, string, error) {
	conn, err := dial(ctx)
	if err != nil {
		return false, "", err
	}
	u, err := conn.Unit(ctx, unit)
	if err != nil {
		return false, "", err
	}
	return u.Active == "failed" && u.Job == 0, fmt.Sprintf("%s crashed %d times: %s", unit, u.NRestarts, u), nil
}

// rollBackUnit decides, commits and does what the crash loop of unit means. A
// Decision without an Action says that there is no crash loop.
func (g *guardian) rollBackUnit(ctx context.Context, unit string) (Decision, error) {
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return Decision{}, err
	}
	defer unlock()
	// Under the lock: the program that switched has restarted the services by now, so a
	// unit that is failed, failed in the version that is current.
	state := ""
	if systemd.Running() {
		failed, now, err := failedForGood(ctx, unit)
		if err != nil {
			return Decision{}, err
		}
		if !failed {
			g.logf("systemd still restarts %s", unit)
			return Decision{}, nil
		}
		state = now
	}
	record, err := g.record()
	if err != nil {
		return Decision{}, err
	}
	disk := g.look(ctx, record)
	failure := Failure{Cause: bootcheck.CauseCrash, Check: health.UnitCheck(unit), Output: state}
	damage := disk.Damaged[record.Current.Version]
	keep := func(format string, args ...any) (Decision, error) {
		d := Decision{Action: Keep, Run: record.Current, Why: fmt.Sprintf(format, args...)}
		g.logf("%s", d.Why)
		return d, nil
	}
	refused := disk.Refused[record.Current.Version]
	switch {
	case refused != "":
		failure = Failure{Cause: bootcheck.CauseRevoked, Output: refused}
	case damage != "":
		failure = Failure{Cause: bootcheck.CauseDamaged, Output: damage}
	case !record.Phase.Unconfirmed():
		return keep("%s failed; version %s is %s and stays", unit, record.Current, record.Phase)
	case record.Trial != nil && failedBefore(record.Trial.Baseline, failure.Check):
		return keep("%s failed, as before version %s: it cannot roll that back", unit, record.Current)
	}
	failure.Journal = g.journalTail(ctx, unit, "")
	failure.Seconds = g.crashSeconds(ctx, unit, failure.Journal)
	d, err := g.markBad(ctx, record, disk, failure)
	if err != nil {
		return Decision{}, err
	}
	err = g.commitDecision(ctx, d)
	if d.Action == RollBack && bootcheck.Switched(err) {
		g.restart(ctx, d.Run)
	}
	return d, err
}

// failedBefore reports whether check failed already before the switch.
func failedBefore(baseline map[string]bool, check string) bool {
	good, known := baseline[check]
	return known && !good
}

// startTrial lets ota-confirm.service check the current version now, and does not wait for it.
func (g *guardian) startTrial(ctx context.Context) {
	conn, err := dial(ctx)
	if err == nil {
		err = conn.StartNoWait(ctx, bootcheck.ConfirmUnit)
	}
	if err != nil {
		g.logf("cannot start %s: %v; the next boot decides", bootcheck.ConfirmUnit, err)
	}
}

// rolledBack is what a program ends with when the device is on another version again.
func rolledBack(r *bootcheck.Record) error {
	l := r.LastRollback
	return bootcheck.Errorf(bootcheck.ExitRolledBack, l.Code(), "%s", l.Detail())
}
