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
	d, err := g.condemnUnit(ctx, unit)
	if err != nil {
		return err
	}
	switch {
	case d.Action == FallBack && !systemd.Running():
		return rolledBack(d.Next)
	case d.Action == FallBack:
		g.judgeLater(ctx)
		return nil
	case d.Action == Hold && !systemd.Running():
		return holdError(d.Next)
	case d.Unjudged && !systemd.Running():
		return errUnjudged
	case d.Action == "" || !systemd.Running():
		return nil
	}
	// No other version takes its place: let it rest, then try again.
	g.logf("starting %s again in %s", unit, restartPause)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(restartPause):
	}
	if err := g.startFailed(ctx); err != nil {
		return err
	}
	g.judgeLater(ctx)
	switch {
	case d.Action == Hold:
		return holdError(d.Next)
	case d.Unjudged:
		return errUnjudged
	}
	return nil
}

// startFailed starts the services anew that systemd gave up on, and only those:
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
	defer conn.Close()
	var failed []string
	for _, service := range g.cfg.Services {
		if is, _, err := failedForGood(ctx, service); err == nil && is {
			failed = append(failed, service)
		}
	}
	return conn.RestartAll(ctx, failed, g.logf)
}

// failedForGood reports whether systemd gave up on unit, and the state it is in.
func failedForGood(ctx context.Context, unit string) (bool, string, error) {
	conn, err := dial(ctx)
	if err != nil {
		return false, "", err
	}
	defer conn.Close()
	u, err := conn.Unit(ctx, unit)
	if err != nil {
		return false, "", err
	}
	return u.Active == "failed" && u.Job == 0, fmt.Sprintf("%s crashed %d times: %s", unit, u.NRestarts, u), nil
}

// condemnUnit decides, commits and does what the crash loop of unit means. A
// Decision without an Action says that there is no crash loop.
func (g *guardian) condemnUnit(ctx context.Context, unit string) (Decision, error) {
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return Decision{}, err
	}
	defer unlock()
	// Under the lock: whoever switched has restarted the services by now, so a
	// unit that is failed, failed in the version that is current.
	state := ""
	if systemd.Running() {
		failed, now, err := failedForGood(ctx, unit)
		if err != nil {
			return Decision{}, err
		}
		if !failed {
			g.logf("%s is not failed for good: it is being restarted", unit)
			return Decision{}, nil
		}
		state = now
	}
	active, err := g.active()
	if err != nil {
		return Decision{}, err
	}
	if active == nil {
		return Decision{}, errNothing
	}
	record, disk := active.Record, g.look(ctx, active.Record)
	failure := Failure{Cause: bootcheck.CauseCrash, Check: health.UnitCheck(unit), Output: state}
	damage := disk.Damaged[record.Current.Version]
	keep := func(format string, args ...any) (Decision, error) {
		d := Decision{Action: Keep, Run: record.Current, Why: fmt.Sprintf(format, args...)}
		g.logf("%s: %s", d.Action, d.Why)
		return d, nil
	}
	refused := disk.Refused[record.Current.Version]
	switch {
	case refused != "":
		failure = Failure{Cause: bootcheck.CauseRevoked, Output: refused}
	case damage != "":
		failure = Failure{Cause: bootcheck.CauseDamaged, Output: damage}
	case !record.Phase.Judged():
		return keep("%s failed, but %s is %s", unit, record.Current, record.Phase)
	case record.Trial != nil && excused(record.Trial.Baseline, failure.Check):
		return keep("%s failed, as it did before %s was installed", unit, record.Current)
	}
	failure.Journal = g.journalTail(ctx, unit, "")
	d, err := g.settle(ctx, disk, func(disk Disk) Decision { return Condemn(record, disk, g.bootID, failure) })
	if err != nil {
		return Decision{}, err
	}
	err = g.carryOut(ctx, d)
	if d.Action == FallBack && bootcheck.Switched(err) {
		g.restart(ctx, d.Run)
	}
	return d, err
}

// excused reports whether check failed already before the switch.
func excused(baseline map[string]bool, check string) bool {
	good, known := baseline[check]
	return known && !good
}

// judgeLater lets ota-confirm judge what runs now, and does not wait for it.
func (g *guardian) judgeLater(ctx context.Context) {
	conn, err := dial(ctx)
	if err == nil {
		defer conn.Close()
		err = conn.StartNoWait(ctx, bootcheck.ConfirmUnit)
	}
	if err != nil {
		g.logf("cannot start %s, the next boot judges: %v", bootcheck.ConfirmUnit, err)
	}
}

// rolledBack is what a program ends with when the device is on another version again.
func rolledBack(r *bootcheck.Record) error {
	l := r.LastRollback
	code := bootcheck.CodeRolledToPrevious
	if l.Level == bootcheck.LevelFactory {
		code = bootcheck.CodeRolledToFactory
	}
	return bootcheck.Errorf(bootcheck.ExitRolledBack, code, "%s", l.Summary())
}
