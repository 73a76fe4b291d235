package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
	"github.com/tope-ota/ota/bootcheck/watchdog"
)

// confirm watches the health of the version that runs until there is a verdict:
// good and steady confirms it; a required check that is still bad at the
// deadline falls back in this same boot. What it fell back to is judged next.
// It returns nil when the version that it found is confirmed, an error with
// ExitRolledBack when another one is, with ExitHeld when the device is on hold.
func (g *guardian) confirm(ctx context.Context) error {
	g.warnOfWatchdog(ctx)
	var found *bootcheck.Ref   // what was current when this run began
	var back *bootcheck.Record // the last record that fell back in this run
	settled := func(record *bootcheck.Record) error {
		g.tell(ctx, record)
		switch {
		case record.Phase == bootcheck.PhaseHold:
			return holdError(record)
		case back != nil:
			return rolledBack(back)
		case record.BlockedBy(found) != nil && record.LastRollback != nil && record.LastRollback.From == found.Version:
			return rolledBack(record) // recover was faster
		}
		return nil
	}
	for begun := time.Now(); ; {
		active, err := g.active()
		switch {
		case err != nil && back != nil:
			return bootcheck.Errorf(bootcheck.ExitUnknown, "", "rolled back to version %s, which cannot be judged: %w", back.Current, err)
		case err != nil:
			return err
		case active == nil:
			return errNothing
		}
		record := active.Record
		if found == nil {
			found = record.Current
		}
		if record.Phase == bootcheck.PhaseConfirmed && len(record.HardStreak) > 0 {
			switch err := g.endStreak(ctx, record); {
			case err == errMoved:
				continue
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil: // it is confirmed all the same
				g.logf("%v", err)
			}
		}
		if !record.Phase.Judged() {
			return settled(record)
		}
		verdict := health.Verdict{Good: true}
		if g.revoked(record.Current, record) == "" { // else judge says so, however healthy it is
			verdict, err = g.watch(ctx, record)
		}
		if err == errMoved {
			continue
		}
		if err != nil {
			return err
		}
		next, err := g.judge(ctx, record, verdict)
		if errors.Is(err, errUnjudged) && time.Since(begun) < g.cfg.Trial.Deadline {
			g.logf("%v; trying again", err)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(askPause):
			}
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case next == nil:
			continue
		case !next.Phase.Judged():
			return settled(next) // not read again: that could fail, after all is done
		}
		back = next
		if !systemd.Running() {
			// Nothing restarts the services here, so judging at once would
			// blame this version for what the other one still does.
			return rolledBack(back)
		}
	}
}

// errUnjudged says that a verdict has no consequence yet, as versions cannot be looked
// at.
var errUnjudged = errors.New("nothing is decided yet")

// warnOfWatchdog tells the journal of a hardware watchdog that is not what systemd
// was asked for.
func (g *guardian) warnOfWatchdog(ctx context.Context) {
	if !systemd.Running() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return // who judges a version says more
	}
	defer conn.Close()
	asked, err := conn.RuntimeWatchdog(ctx)
	if err != nil {
		g.logf("%v", err)
	} else if warning := watchdog.Warning(watchdog.Device, asked); warning != "" {
		g.announce(eventWatchdog, nil, "%s", warning)
	}
}

// errMoved says that the record changed while its version was watched.
var errMoved = fmt.Errorf("another version is current now")

// askPause is what lies between two watches, where checks could not be run.
const askPause = 2 * time.Second

// watch runs the health checks on the version of record until there is a
// verdict, or until somebody else switched (errMoved). Checks that could not be run
// (health.ErrUnanswered) are begun anew, for as long as a trial takes: a device
// that is out of memory for a moment must not leave a version without a verdict.
func (g *guardian) watch(ctx context.Context, record *bootcheck.Record) (health.Verdict, error) {
	for start := time.Now(); ; {
		verdict, err := g.watchOnce(ctx, record)
		if !errors.Is(err, health.ErrUnanswered) || time.Since(start) > g.cfg.Trial.Deadline {
			return verdict, err
		}
		g.logf("%v; beginning anew", err)
		select {
		case <-ctx.Done():
			return verdict, ctx.Err()
		case <-time.After(askPause):
		}
	}
}

func (g *guardian) watchOnce(ctx context.Context, record *bootcheck.Record) (health.Verdict, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for ctx.Err() == nil {
			// Only another version ends the watch, not, say, an unblock.
			if now, err := g.active(); err == nil && now != nil && now.Record.Generation != record.Generation &&
				(!now.Record.Current.Same(record.Current) || now.Record.Phase != record.Phase) {
				cancel(errMoved)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()

	env := health.Env{Version: record.Current.Version, Ask: g.ask}
	if systemd.Running() {
		// Without its answers a version that crashes all the time might pass.
		conn, err := dial(ctx)
		if err != nil {
			if record.Phase.Counted() {
				g.resetIfSilent(ctx, hardMark, "nothing can be judged")
			}
			return health.Verdict{}, fmt.Errorf("cannot judge %s, systemd does not answer: %w", record.Current, err)
		}
		defer conn.Close()
		env.Units = conn
	}
	w := health.Watch{
		Checks:   health.All(g.cfg, env),
		Stable:   g.cfg.Trial.Stable,
		Deadline: g.cfg.Trial.Deadline,
		OnChange: func(r health.Result) {
			if r.OK {
				g.logf("%s: good", r.Check)
			} else {
				g.logf("%s: %s", r.Check, r.Why)
			}
		},
	}
	if record.Trial != nil {
		w.Baseline = record.Trial.Baseline
	}
	g.logf("watching %s (%s) for %s within %s", record.Current, record.Phase, w.Stable, w.Deadline)
	verdict, err := w.Run(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return verdict, err
}

// judge commits what verdict means for the version of record, and restarts the
// services if it fell back. It returns the record that it committed. Nothing is done if
// somebody else was faster and the verdict is about a version that runs no more.
func (g *guardian) judge(ctx context.Context, record *bootcheck.Record, verdict health.Verdict) (*bootcheck.Record, error) {
	told := false
	if verdict.Good {
		// device-api is up: tell it of a rollback before that is settled, so
		// that one commit remembers both.
		told = g.report(ctx, record)
	}
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return nil, err
	}
	defer unlock()
	active, err := g.active()
	if err != nil {
		return nil, err
	}
	if active == nil || !active.Record.Current.Same(record.Current) || active.Record.Phase != record.Phase {
		return nil, nil
	}
	record = active.Record
	disk := g.look(ctx, record)
	current := record.Current.Version
	// The boot looked, too, if it had the lock and a disk that could be read.
	if why := disk.Damaged[current]; verdict.Good && why != "" && g.heal(ctx, record.Current, why) {
		delete(disk.Damaged, current)
	}
	var d Decision
	switch why, refused := disk.Damaged[current], disk.Refused[current]; {
	case refused != "":
		f := Failure{Cause: bootcheck.CauseRevoked, Output: refused}
		d, err = g.settle(ctx, disk, func(disk Disk) Decision { return Condemn(record, disk, g.bootID, f) })
		if err != nil {
			return nil, err
		}
	case verdict.Good && why != "":
		f := Failure{Cause: bootcheck.CauseDamaged, Output: why}
		d, err = g.settle(ctx, disk, func(disk Disk) Decision { return Condemn(record, disk, g.bootID, f) })
		if err != nil {
			return nil, err
		}
	case verdict.Good:
		release := int64(0)
		if record.Current.Digest != bootcheck.NoManifest {
			snapshot, err := g.store.Snapshot(record.Current.Version)
			if bootcheck.Inconclusive(err) {
				return nil, fmt.Errorf("%w: %w", errUnjudged, err)
			}
			if err != nil {
				return nil, err
			}
			release = snapshot.Manifest.Release
		}
		d = Absolve(record, release)
		if told && d.Next.LastRollback != nil {
			d.Next.LastRollback.Reported = true
		}
	default:
		f := Failure{Cause: bootcheck.CauseHealth, Check: verdict.Failing.Check, Output: evidence(verdict.Failing)}
		if verdict.Failing.Final {
			f.Cause = bootcheck.CauseCrash // systemd gave the service up before recover came to it
		}
		f.Journal = g.journalTail(ctx, g.unitOf(verdict.Failing.Check), "")
		d, err = g.settle(ctx, disk, func(disk Disk) Decision { return Condemn(record, disk, g.bootID, f) })
		if err != nil {
			return nil, err
		}
	}
	if d.Unjudged {
		return nil, fmt.Errorf("%w: %s", errUnjudged, d.Why)
	}
	err = g.carryOut(ctx, d)
	if !bootcheck.Switched(err) {
		return nil, err
	}
	if d.Action == FallBack {
		g.restart(ctx, d.Run)
	}
	return d.Next, err
}

// unitOf is the unit whose journal tells most about a check that failed: the
// unit that it looks at, else the main service.
func (g *guardian) unitOf(check string) string {
	for _, c := range g.cfg.Checks {
		if c.Name == check && c.Unit != "" {
			return c.Unit
		}
	}
	for _, s := range g.cfg.Services {
		if health.UnitCheck(s) == check {
			return s
		}
	}
	return first(g.cfg.Services)
}

// evidence is what the record keeps of a failed check.
func evidence(r health.Result) string {
	text := r.Why
	if r.Output != "" {
		text += "\n" + r.Output
	}
	return text[:min(len(text), maxEvidence)]
}

// maxEvidence is how much of a check's output the record keeps, in bytes: enough
// for a stack trace; each generation holds it.
const maxEvidence = 4 << 10

// tell reports a rollback that device-api has not been told yet and remembers
// that it was told. A device-api that cannot be reached is told by a later boot.
func (g *guardian) tell(ctx context.Context, record *bootcheck.Record) {
	if !g.report(ctx, record) {
		return
	}
	unlock, err := g.store.Lock(ctx, lockWait)
	if err != nil {
		g.logf("%v", err)
		return
	}
	defer unlock()
	active, err := g.active()
	if err != nil || active == nil || active.Record.LastRollback == nil {
		return
	}
	next := active.Record.Clone()
	next.LastRollback.Reported = true
	if err := g.store.Commit(next); err != nil {
		g.logf("cannot remember that the rollback was reported: %v", err)
	}
}

// report tells device-api of a rollback that it has not been told. false: there
// is none, or device-api did not take it.
func (g *guardian) report(ctx context.Context, record *bootcheck.Record) bool {
	l := record.LastRollback
	if l == nil || l.Reported || g.cfg.Report.URL == "" {
		return false
	}
	// Another process made the switch, maybe, and was killed before it was durable.
	if err := g.store.Settle(); err != nil {
		g.logf("device-api is not told of the rollback yet: %v", err)
		return false
	}
	message := l.Summary()
	if first, _, _ := strings.Cut(l.Output, "\n"); first != "" && !strings.Contains(message, first) {
		message += ": " + first[:min(len(first), 200)] // a screen shows it
	}
	body, err := json.Marshal(bootcheck.Operation{Stage: "failed", Progress: 100, Message: message, Error: l.Code() + ": " + l.Summary()})
	if err != nil {
		return false
	}
	answer, err := g.ask(ctx, health.Request{Report: g.cfg.Report.URL, Body: body, Timeout: reportLimit})
	if err == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	if err != nil {
		g.logf("cannot tell device-api of the rollback yet: %v", err)
		return false
	}
	return true
}

// reportLimit bounds one report, as that of ota-apply: device-api is on this machine.
const reportLimit = 2 * time.Second
