package applier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/metrics"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// activate makes ref current on trial, restarts the services and waits until
// the guardian confirmed it (nil) or took it back (ExitRolledBack). Where no
// systemd runs, nothing is restarted and nothing is waited for; nor is that where
// it is for the next boot.
func (a *applier) activate(ctx context.Context, ref *bootcheck.Ref, o installOptions) error {
	// A switch that a power cut may undo was made all the same: its trial is watched, too.
	unsure := a.commitTrial(ctx, ref, o)
	if !bootcheck.Switched(unsure) {
		return unsure
	}
	if unsure == nil {
		_, err := a.prune(ctx, a.cfg.Keep)
		if errors.Is(err, bootcheck.ErrUndurable) {
			unsure = bootcheck.Errorf(bootcheck.ExitUnknown, "", "activated version %s, but %w", ref.Version, err).
				WithAdvice("`ota-guardian status` shows the current version; `dmesg` has the errors of the disk")
		} else if err != nil {
			a.logf("%v", err) // the switch is made; the next install tidies up
		}
	}
	if o.atReboot {
		if unsure == nil {
			fmt.Fprintf(a.out, "version %s becomes current at the next boot\n", ref.Version)
		}
		return unsure
	}
	if err := a.waitTrial(ctx, ref); bootcheck.Exit(err) != bootcheck.ExitUnknown || unsure == nil {
		return cmp.Or(err, unsure)
	}
	return unsure
}

// resume continues with a version that is current: an install of it that was ended
// after its switch may have left the services as they were. done is false where
// it has to be unpacked or switched to again: because it is damaged or its directory is
// gone, or because an operator insists. What waits for the next boot is forgotten, as this
// version was asked for after it.
func (a *applier) resume(ctx context.Context, record *bootcheck.Record, o installOptions) (done bool, err error) {
	ref := record.Current
	if record.Phase == bootcheck.PhaseHold && o.force {
		return false, nil
	}
	err = a.store.Verify(ctx, ref, bootcheck.Content)
	switch {
	case bootcheck.Inconclusive(err):
		return true, err
	case err != nil:
		return false, nil
	case record.Phase == bootcheck.PhaseHold:
		return true, onHold(record)
	}
	if record.Next != nil && !o.noActivate {
		if err := a.forgetNext(ctx); err != nil {
			return true, err
		}
	}
	if !record.Phase.Unconfirmed() || o.noActivate || o.atReboot {
		if err := a.store.SyncSwitch(); err != nil {
			return true, err
		}
		fmt.Fprintf(a.out, "version %s is already current\n", ref.Version)
		return true, nil
	}
	unlock, err := a.store.Lock(ctx, lockToCommit)
	if err != nil {
		return true, err
	}
	err = a.restart(context.WithoutCancel(ctx), ref)
	unlock()
	if err != nil {
		return true, err
	}
	return true, a.waitTrial(ctx, ref)
}

// forgetNext has the next boot start the version that is current.
func (a *applier) forgetNext(ctx context.Context) error {
	record, unlock, err := a.lockRecord(ctx, lockToCommit)
	if err != nil {
		return err
	}
	defer unlock()
	if record == nil || record.Next == nil {
		return nil
	}
	next := record.Clone()
	next.Next = nil
	if err := a.store.Commit(next); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "version %s is not activated at the next boot\n", &record.Next.Ref)
	return nil
}

// onHold is what an install of the version that is held ends with.
func onHold(record *bootcheck.Record) error {
	failed := "failed"
	if l := record.LastRollback; l != nil && l.Check != "" && record.Current.Version == l.From {
		failed = fmt.Sprintf("failed check %q", l.Check)
	}
	return bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "version %s %s; on hold: %s", record.Current, failed, bootcheck.HoldText(record.HoldReason)).
		WithAdvice("`ota-guardian why` shows the evidence; install another version, or this one again with --force")
}

// commitTrial is the switch: it returns when ref is current, on trial, durable,
// and the services have been restarted.
func (a *applier) commitTrial(ctx context.Context, ref *bootcheck.Ref, o installOptions) error {
	before, err := a.store.Record()
	if err != nil {
		return err
	}
	baseline := a.baseline(ctx, before, ref)
	if err := ctx.Err(); err != nil {
		return err // checks that were interrupted look as if they had failed
	}
	record, unlock, err := a.lockRecord(ctx, lockToCommit)
	if err != nil {
		return err
	}
	defer unlock()
	// Since it was admitted the guardian may have confirmed a higher release, or left this one.
	if err := a.store.Admit(ref, a.admission(record, o)); err != nil {
		return err
	}
	intact := func(r *bootcheck.Ref) bool {
		err := a.store.Verify(ctx, r, bootcheck.Quick)
		return err == nil || bootcheck.Inconclusive(err)
	}
	revoked, err := a.store.RevokedKeys(record)
	if err != nil && errors.Is(err, bootcheck.ErrRevokedUnknown) {
		return a.revokedUnknown(err)
	}
	if o.atReboot {
		return a.commitNext(record, ref, baseline, revoked, o)
	}
	// Without it a guardian that runs in this boot for the first time, as a service
	// that is restarted now wants it, counts one boot more. An image build has no
	// such directory, and no such boot.
	_ = bootcheck.SeeBoot(a.cfg.Run)
	next := record.Activate(ref, o.by, bootcheck.BootID(), baseline, intact)
	next.AddRevoked(revoked)
	err = a.store.Commit(next)
	if !bootcheck.Switched(err) {
		return fmt.Errorf("cannot make version %s current: %w", ref.Version, err)
	}
	a.publish()
	// Still under the lock: a service of the old version that fails for good just
	// now must not be taken for one of the new. An install that is told to end
	// now has made the switch, and finishes it.
	if restartErr := a.restart(context.WithoutCancel(ctx), ref); err == nil {
		err = restartErr
	}
	return err
}

// commitNext has the next boot put ref on trial. Nothing that runs changes, nor
// does any link: a service that is restarted meanwhile is that of the old version.
func (a *applier) commitNext(record *bootcheck.Record, ref *bootcheck.Ref, baseline map[string]bool, revoked []string, o installOptions) error {
	if record == nil {
		return (&bootcheck.Error{Err: errors.New("cannot activate a version at the next boot: no version is current yet")}).
			WithAdvice("activate it without --at-reboot")
	}
	next := record.Clone()
	next.Next = &bootcheck.Next{Ref: *ref, AskedBy: o.by, Baseline: baseline, AllowDowngrade: o.allowDowngrade}
	next.Unblock(ref.Version) // or the guardian would refuse what --force allowed
	next.AddRevoked(revoked)
	if err := a.store.Commit(next); err != nil {
		return fmt.Errorf("cannot activate version %s at the next boot: %w", ref.Version, err)
	}
	return nil
}

// guardianFirst has the guardian decide this boot where it has not yet, and a service
// that will be restarted wants it: as on a device that got the package and no reboot
// since. The restart would start it all the same, but under the lock, for which it would
// wait, and the service for it. The restart reports what fails here.
//
// Where no record names the current version, the guardian chooses one that it finds. So
// it is not asked when there is one.
func (a *applier) guardianFirst(ctx context.Context, o installOptions) {
	if o.atReboot || o.noActivate || !systemd.Running() {
		return
	}
	record, err := a.store.Record()
	if err != nil {
		return
	}
	if record == nil {
		if names, err := a.store.VersionNames(); err != nil || len(names) > 0 {
			return
		}
	}
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return
	}
	for _, name := range a.cfg.Services {
		service, err := conn.Unit(ctx, name)
		if err == nil && slices.Contains(service.Wants, bootcheck.GuardianUnit) {
			if err := conn.Start(ctx, bootcheck.GuardianUnit); err != nil {
				a.logf("ota-guardian does not start: %v", err)
			}
			return
		}
	}
}

// restart lets the services run ref, which is current. Its caller holds the lock.
func (a *applier) restart(ctx context.Context, ref *bootcheck.Ref) error {
	if !systemd.Running() {
		return nil
	}
	a.stage(report.StageRebooting, "restarting the services")
	a.say("activated %s, restarting %s", ref.Version, strings.Join(a.cfg.Services, ", "))
	a.report.Flush(ctx)
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return unconfirmed(ref, "systemd does not answer (%v)", err)
	}
	if err := conn.RestartAll(ctx, a.cfg.Services); err != nil {
		a.logf("warning: %v", err) // a version that does not start fails its trial
	}
	return nil
}

// baseline runs the required checks on the version before the switch, so that what
// failed before the switch is not blamed on the new one. A new device has none.
func (a *applier) baseline(ctx context.Context, record *bootcheck.Record, ref *bootcheck.Ref) map[string]bool {
	if record == nil {
		return nil
	}
	env, err := checkEnv(ctx, record.Current.Version)
	if err != nil {
		a.logf("cannot check the units before the switch: %v", err)
	}
	results := health.Run(ctx, health.All(a.cfg, env))
	if ctx.Err() != nil {
		return nil // the caller sees it too; nothing was found out
	}
	if !record.IsConfirmed(record.Current) {
		return unconfirmedBaseline(record, results)
	}
	if err := health.Unanswered(results); err != nil {
		a.logf("cannot run the health checks on %s, so each of them can roll back %s: %v", record.Current, ref, err)
		return nil
	}
	for _, r := range results {
		if r.OK {
			a.detail("check %q good on %s", r.Check, record.Current)
		}
		if r.Required && !r.OK {
			a.logf("check %q already fails on %s: it cannot roll back %s: %s", r.Check, record.Current, ref, r.Why)
		}
	}
	return health.Baseline(results)
}

// unconfirmedBaseline is the baseline where the current version was never confirmed. A check
// that it fails may be its own fault, and excludes nothing; one that the version before it
// failed does. A check that is good now has to be good later.
func unconfirmedBaseline(record *bootcheck.Record, results []health.Result) map[string]bool {
	baseline := make(map[string]bool)
	for _, r := range results {
		if r.OK {
			baseline[r.Check] = true
		}
	}
	if record.Trial != nil {
		maps.Copy(baseline, record.Trial.Baseline)
	}
	return baseline
}

// waitTrial follows the record until the trial of ref has ended. Where no
// systemd runs, no unit starts the trial, and it says what to do.
func (a *applier) waitTrial(ctx context.Context, ref *bootcheck.Ref) (err error) {
	if !systemd.Running() {
		fmt.Fprintf(a.out, "version %s is current, on trial; no systemd runs here: restart the services, then run `ota-guardian confirm`\n", ref.Version)
		return nil
	}
	asker := ctx
	defer func() {
		if asker.Err() != nil && bootcheck.Exit(err) == bootcheck.ExitUnknown {
			// Nothing has failed: the trial continues, only this command does not wait.
			a.report.Mute()
		}
	}()
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return unconfirmed(ref, "systemd does not answer (%v)", err)
	}
	w := &bootcheck.Watching{Version: ref.Version, Stable: int(a.cfg.Trial.Stable / time.Second)}
	a.stage(report.StageRebooting, watchingText(w))
	a.account.enter(metrics.StageTrial)
	a.say("trial of %s: confirmed when healthy for %d s", ref.Version, w.Stable)
	// Three versions at most are tried: each is restarted, good by the deadline,
	// steady for a while, and its last check may take long.
	limit := 3 * (systemd.RestartLimit + a.cfg.Trial.Deadline + a.cfg.Trial.Stable + time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("neither confirmed nor rolled back within %s", limit))
	defer cancel()
	var asked time.Time
	for {
		if now := bootcheck.ReadWatching(a.cfg.Run, ref.Version); now != nil && *now != *w {
			a.watching(w, now)
			w = now
		}
		if done, err := a.trialOutcome(ref); done {
			// The guardian may be about to make it last.
			if settleErr := a.store.SyncSwitch(); settleErr != nil {
				return settleErr
			}
			return err
		}
		// A guardian that just finished with the version before does not see
		// the new one: ask again until the trial ends.
		if time.Since(asked) > 2*time.Second {
			asked = time.Now()
			// A shutdown ends this process, too, and the next boot decides.
			if err := conn.StartNoWait(ctx, bootcheck.ConfirmUnit); err != nil && ctx.Err() == nil && !systemd.Leaving(err) {
				return unconfirmed(ref, "cannot start %s: %v", bootcheck.ConfirmUnit, err)
			}
		}
		if systemd.Pause(ctx, 200*time.Millisecond) != nil {
			return unconfirmed(ref, "%v", context.Cause(ctx))
		}
	}
}

// watching shows now, how far the trial has come, to people and to device-api; before is
// what was shown last.
func (a *applier) watching(before, now *bootcheck.Watching) {
	a.report.Trial(now.Percent(), watchingText(now))
	a.show.trial(fmt.Sprintf("ota-apply: trial of %s: %s, %s", now.Version, now.Steady(), now.CheckResult()))
	if now.Check != before.Check || now.OK != before.OK {
		a.detail("check %s", now.CheckResult())
	}
}

// watchingText is what device-api is told of a trial.
func watchingText(w *bootcheck.Watching) string {
	text := fmt.Sprintf("watching %s: %s", w.Version, w.Steady())
	if w.Check != "" && !w.OK {
		text += ", " + w.CheckResult()
	}
	return text
}

// trialOutcome reads how the trial of ref ended; done is false while it continues.
func (a *applier) trialOutcome(ref *bootcheck.Ref) (done bool, err error) {
	record, err := a.store.Record()
	if err != nil || record == nil {
		return false, nil // the guardian is just switching, or repairs it
	}
	last := record.RollbackOf(ref)
	switch {
	case record.Phase == bootcheck.PhaseHold && record.Current.Same(ref):
		return true, onHold(record)
	case record.Current.Same(ref) && record.Phase == bootcheck.PhaseConfirmed:
		fmt.Fprintf(a.out, "version %s is current and confirmed\n", ref.Version)
		return true, nil
	case record.Current.Same(ref):
		return false, nil
	case last != nil:
		return true, bootcheck.Errorf(bootcheck.ExitRolledBack, last.Code(), "%s", last.Detail()).
			WithAdvice("`ota-guardian why` shows the evidence")
	}
	return true, bootcheck.Errorf(bootcheck.ExitFailed, "", "version %s was replaced by %s during its trial", ref.Version, record.Current)
}

// unconfirmed is the error of an install that made its switch and cannot say how
// it continues.
func unconfirmed(ref *bootcheck.Ref, format string, args ...any) error {
	return bootcheck.Errorf(bootcheck.ExitUnknown, "", "version %s is current, unconfirmed; the trial continues: %s", ref.Version, fmt.Sprintf(format, args...)).
		WithAdvice("`ota-guardian status` shows the trial")
}
