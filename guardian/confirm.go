package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
	"github.com/tope-ota/ota/bootcheck/watchdog"
)

// confirm watches the health of the current version until the trial ends:
// good and steady confirms it; a required check that is still bad at the
// deadline rolls back in this same boot. Then it watches the next version.
// It returns nil when the version that it found is confirmed, an error with
// ExitRolledBack when another one is, with ExitHeld when the device is on hold.
func (g *guardian) confirm(ctx context.Context) error {
	g.warnOfWatchdog(ctx)
	var found *bootcheck.Ref   // what was current when this run began
	var back *bootcheck.Record // the last record that rolled back in this run
	settled := func(record *bootcheck.Record) error {
		g.tell(ctx, record)
		switch {
		case record.Phase == bootcheck.PhaseHold:
			return holdError(record)
		case back != nil:
			return rolledBack(back)
		case record.RollbackOf(found) != nil:
			return rolledBack(record) // recover was faster
		}
		return nil
	}
	for begun := time.Now(); ; {
		record, err := g.record()
		switch {
		case err != nil && back != nil:
			return bootcheck.Errorf(bootcheck.ExitUnknown, "", "rolled back to version %s, unconfirmed: %w", back.Current, err)
		case err != nil:
			return err
		}
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
		if !record.Phase.Unconfirmed() {
			return settled(record)
		}
		outcome := health.Outcome{Good: true}
		if g.revoked(record.Current, record) == "" { // else conclude says so, however healthy it is
			outcome, err = g.watch(ctx, record)
		}
		if err == errMoved {
			continue
		}
		if err != nil {
			return err
		}
		next, err := g.conclude(ctx, record, outcome)
		if errors.Is(err, errUndecided) && time.Since(begun) < g.cfg.Trial.Deadline {
			g.logf("%v; trying again", err)
			if err := systemd.Pause(ctx, askPause); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case next == nil:
			continue
		case !next.Phase.Unconfirmed():
			return settled(next) // not read again: that could fail, after all is done
		}
		back = next
		if !systemd.Running() {
			// Nothing restarts the services here, so deciding at once would
			// blame this version for what the other one still does.
			return rolledBack(back)
		}
	}
}

// errUndecided says that an outcome has no consequence yet, as versions cannot be looked
// at.
var errUndecided = errors.New("cannot decide yet")

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
		return // watchOnce says more
	}
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

// watch runs the health checks on the version of record until the trial
// ends, or until another program switched (errMoved). Checks that could not be run
// (health.ErrUnanswered) are begun again, for as long as a trial takes: a device
// that is out of memory for a moment must not leave a version unconfirmed.
func (g *guardian) watch(ctx context.Context, record *bootcheck.Record) (health.Outcome, error) {
	for start := time.Now(); ; {
		outcome, err := g.watchOnce(ctx, record)
		if !errors.Is(err, health.ErrUnanswered) || time.Since(start) > g.cfg.Trial.Deadline {
			return outcome, err
		}
		g.logf("%v; starting the trial again", err)
		if err := systemd.Pause(ctx, askPause); err != nil {
			return outcome, err
		}
	}
}

func (g *guardian) watchOnce(ctx context.Context, record *bootcheck.Record) (health.Outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for ctx.Err() == nil {
			// Only another version ends the watch, not, say, an unblock.
			if now, err := g.record(); err == nil && now.Generation != record.Generation &&
				(!now.Current.Same(record.Current) || now.Phase != record.Phase) {
				cancel(errMoved)
			}
			_ = systemd.Pause(ctx, time.Second)
		}
	}()

	env, err := g.env(ctx, record.Current.Version)
	if err != nil {
		// Without its answers a version that crashes all the time might pass.
		if record.Phase.Counted() {
			g.resetIfSilent(ctx, hardMark, "the trial cannot continue")
		}
		return health.Outcome{}, fmt.Errorf("cannot watch version %s: systemd does not answer: %w", record.Current, err)
	}
	w := health.Watch{
		Checks:   health.All(g.cfg, env),
		Stable:   g.cfg.Trial.Stable,
		Deadline: g.cfg.Trial.Deadline,
		OnChange: func(r health.Result) {
			if r.OK {
				g.logf("check %q good", r.Check)
			} else {
				g.logf("check %q bad: %s", r.Check, r.Why)
			}
		},
	}
	if record.Trial != nil {
		w.Baseline = record.Trial.Baseline
	}
	w.OnState = g.showTrial(record.Current.Version)
	defer func() {
		if err := bootcheck.EndWatching(g.cfg.Run); err != nil {
			g.logf("%v", err)
		}
	}()
	g.logf("watching version %s (%s): confirmed when healthy for %s, within %s", record.Current, record.Phase, w.Stable, w.Deadline)
	outcome, err := w.Run(ctx)
	if err != nil && context.Cause(ctx) == errMoved {
		err = errMoved
	}
	return outcome, err
}

// env is for checks of version. With an error, systemd does not answer.
func (g *guardian) env(ctx context.Context, version string) (env health.Env, err error) {
	env = health.Env{Version: version, Ask: g.ask}
	if !systemd.Running() {
		return env, nil
	}
	conn, err := dial(ctx)
	if err == nil {
		env.Units = conn // not a nil *Manager
	}
	return env, err
}

// showTrial returns what keeps the state of the trial of version in the run directory, for
// `status`, an install that waits and a screen. It writes when a second or a check has
// changed, to memory.
func (g *guardian) showTrial(version string) func(health.State) {
	var shown bootcheck.Watching
	return func(s health.State) {
		now := bootcheck.Watching{
			Version: version, Healthy: int(s.Healthy / time.Second), Stable: int(g.cfg.Trial.Stable / time.Second),
			Check: s.Last.Check, OK: s.Last.OK,
		}
		if !now.OK {
			now.Why = s.Last.Why
		}
		if now == shown {
			return
		}
		shown = now
		if err := now.Keep(g.cfg.Run); err != nil {
			g.logf("cannot show how the trial goes: %v", err)
		}
	}
}

// conclude commits what outcome means for the version of record, and restarts the
// services if it rolled back. It returns the record that it committed. Nothing is done if
// another program was faster and outcome is about a version that runs no more.
func (g *guardian) conclude(ctx context.Context, record *bootcheck.Record, outcome health.Outcome) (*bootcheck.Record, error) {
	told := false
	if outcome.Good {
		// device-api is up: tell it of a rollback before that is settled, so
		// that one commit remembers both.
		told = g.report(ctx, record)
	}
	was := record
	record, unlock, err := g.lockRecord(ctx, lockPatience)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !record.Current.Same(was.Current) || record.Phase != was.Phase {
		return nil, nil
	}
	disk := g.look(ctx, record)
	current := record.Current.Version
	// The boot looked, too, if it had the lock and a disk that could be read.
	if why := disk.Damaged[current]; outcome.Good && why != "" && g.repairVersion(ctx, record.Current, why) {
		delete(disk.Damaged, current)
	}
	var d Decision
	switch why, refused := disk.Damaged[current], disk.Refused[current]; {
	case refused != "":
		d, err = g.markBad(ctx, record, disk, Failure{Cause: bootcheck.CauseRevoked, Output: refused})
	case outcome.Good && why != "":
		d, err = g.markBad(ctx, record, disk, Failure{Cause: bootcheck.CauseDamaged, Output: why})
	case outcome.Good:
		d, err = g.markGood(record)
		if err == nil && told && d.Next.LastRollback != nil {
			d.Next.LastRollback.Reported = true
		}
	default:
		f := Failure{Cause: bootcheck.CauseHealth, Check: outcome.Failing.Check, Output: evidence(outcome.Failing)}
		unit := g.unitOf(outcome.Failing.Check)
		f.Journal = g.journalTail(ctx, unit, "")
		if outcome.Failing.Final {
			f.Cause = bootcheck.CauseCrash // systemd gave the service up before recover came to it
			f.Seconds = g.crashSeconds(ctx, unit, f.Journal)
		}
		d, err = g.markBad(ctx, record, disk, f)
	}
	if err != nil {
		return nil, err
	}
	if d.Undecided {
		return nil, fmt.Errorf("%w: %s", errUndecided, d.Why)
	}
	err = g.commitDecision(ctx, d)
	if !bootcheck.Switched(err) {
		return nil, err
	}
	if d.Action == RollBack {
		g.restart(ctx, d.Run)
	}
	return d.Next, err
}

// markGood is the Decision that the version of record is good, with its release.
func (g *guardian) markGood(record *bootcheck.Record) (Decision, error) {
	if record.Current.Digest == bootcheck.NoManifest {
		return MarkGood(record, 0), nil
	}
	snapshot, err := g.store.Snapshot(record.Current.Version)
	if bootcheck.Inconclusive(err) {
		return Decision{}, fmt.Errorf("%w: %w", errUndecided, err)
	}
	if err != nil {
		return Decision{}, err
	}
	return MarkGood(record, snapshot.Manifest.Release), nil
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
	now, unlock, err := g.lockRecord(ctx, lockWait)
	if err != nil {
		g.logf("%v", err)
		return
	}
	defer unlock()
	if now.LastRollback == nil || !reflect.DeepEqual(now.Rollbacks, record.Rollbacks) {
		return // there was another one meanwhile
	}
	next := now.Clone()
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
	if err := g.store.SyncSwitch(); err != nil {
		g.logf("device-api is not told of the rollback yet: %v", err)
		return false
	}
	message := l.Detail()
	if first, _, _ := strings.Cut(l.Output, "\n"); first != "" && l.Cause != bootcheck.CauseCrash && !strings.Contains(message, first) {
		message += ": " + bootcheck.Clip(first, 200) // a screen shows it
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
