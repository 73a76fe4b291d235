package applier

import (
	"context"
	"errors"
	"fmt"
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
// systemd runs, nothing is restarted and nobody is waited for; nor is that where
// it is for the next boot.
func (a *applier) activate(ctx context.Context, ref *bootcheck.Ref, o installOptions) error {
	if err := a.commitTrial(ctx, ref, o); err != nil {
		return err
	}
	if _, err := a.prune(ctx, a.cfg.Keep); errors.Is(err, bootcheck.ErrUndurable) {
		return bootcheck.Errorf(bootcheck.ExitUnknown, "", "activated version %s, but %w", ref.Version, err).
			WithAdvice("look for errors of the disk in `dmesg`; `ota-guardian status` says which version runs")
	} else if err != nil {
		a.logf("%v", err) // the switch is made; the next install tidies up
	}
	if o.atReboot {
		fmt.Fprintf(a.out, "version %s runs from the next boot on\n", ref.Version)
		return nil
	}
	return a.awaitVerdict(ctx, ref)
}

// resume goes on with a version that is current: an install of it that was ended
// after its switch may have left the services as they were. done is false where
// it has to be unpacked or switched to anew: because it is damaged or its folder is
// gone, or because a person insists.
func (a *applier) resume(ctx context.Context, record *bootcheck.Record, force bool) (done bool, err error) {
	ref := record.Current
	if record.Phase == bootcheck.PhaseHold && force {
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
	if !record.Phase.Judged() {
		if err := a.store.Settle(); err != nil {
			return true, err
		}
		fmt.Fprintf(a.out, "version %s runs already\n", ref.Version)
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
	return true, a.awaitVerdict(ctx, ref)
}

// onHold is what an install of the version that is held ends with.
func onHold(record *bootcheck.Record) error {
	return bootcheck.Errorf(bootcheck.ExitHeld, bootcheck.CodeRollbackFailed, "version %s failed and the device is on hold (%s)", record.Current, record.HoldReason).
		WithAdvice("`ota-guardian why` shows the evidence; install another version, or try this one again with --force")
}

// commitTrial is the switch: it returns when ref is current, on trial, durable,
// and the services have been restarted.
func (a *applier) commitTrial(ctx context.Context, ref *bootcheck.Ref, o installOptions) error {
	before, err := a.record()
	if err != nil {
		return err
	}
	baseline := a.baseline(ctx, before)
	if err := ctx.Err(); err != nil {
		return err // checks that were interrupted look as if they had failed
	}
	unlock, err := a.store.Lock(ctx, lockToCommit)
	if err != nil {
		return err
	}
	defer unlock()
	record, err := a.record()
	if err != nil {
		return err
	}
	if record != nil {
		if b := record.BlockedBy(ref); b != nil && !o.force {
			return bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is blocked, it failed on this device (%s)", ref.Version, strings.TrimSuffix(b.Reason+": "+b.Check, ": ")).
				WithAdvice("`ota-apply unblock %s` or --force tries it again", ref.Version)
		}
	}
	whole := func(r *bootcheck.Ref) bool {
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
	// such folder, and no such boot.
	_ = bootcheck.SeeBoot(a.cfg.Run)
	next := record.Activate(ref, bootcheck.BootID(), baseline, whole)
	next.AddRevoked(revoked)
	err = a.store.Commit(next)
	if !bootcheck.Switched(err) {
		return fmt.Errorf("cannot make version %s current: %w", ref.Version, err)
	}
	a.publish()
	// Still under the lock: a service of the old version that fails for good just
	// now must not be taken for one of the new. Who is told to end now has made
	// the switch, and finishes it.
	if restartErr := a.restart(context.WithoutCancel(ctx), ref); err == nil {
		err = restartErr
	}
	return err
}

// commitNext has the next boot put ref on trial. Nothing that runs changes, nor
// does any link: a service that is restarted meanwhile is that of the old version.
func (a *applier) commitNext(record *bootcheck.Record, ref *bootcheck.Ref, baseline map[string]bool, revoked []string, o installOptions) error {
	if record == nil {
		return (&bootcheck.Error{Err: errors.New("cannot activate it at a reboot: no version runs yet")}).
			WithAdvice("activate it without --at-reboot")
	}
	next := record.Clone()
	next.Next = &bootcheck.Next{Ref: *ref, Baseline: baseline, AllowDowngrade: o.allowDowngrade}
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
// wait, and the service for it. Whatever goes wrong here is seen, and said, then.
//
// Where no record says what runs, the guardian goes on with a version that it finds. So
// it is not asked when there is one.
func (a *applier) guardianFirst(ctx context.Context, o installOptions) {
	if o.atReboot || o.noActivate || !systemd.Running() {
		return
	}
	record, err := a.record()
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
	defer conn.Close()
	for _, name := range a.cfg.Services {
		service, err := conn.Unit(ctx, name)
		if err == nil && slices.Contains(service.Wants, bootcheck.GuardianUnit) {
			if err := conn.Start(ctx, bootcheck.GuardianUnit); err != nil {
				a.logf("the guardian does not start: %v", err)
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
	a.report.Flush(ctx)
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return unjudged(ref, "systemd does not answer (%v)", err)
	}
	defer conn.Close()
	if err := conn.RestartAll(ctx, a.cfg.Services, a.logf); err != nil {
		// A version that does not start is the guardian's to judge.
		a.logf("the services did not restart: %v", err)
	}
	return nil
}

// baseline runs the required checks on the version that is left, so that what
// failed before the switch is not blamed on the new one. A new device has none.
func (a *applier) baseline(ctx context.Context, record *bootcheck.Record) map[string]bool {
	if record == nil {
		return nil
	}
	// What a version fails that never proved itself may well be its own fault.
	if !record.IsConfirmed(record.Current) {
		if record.Trial != nil {
			return record.Trial.Baseline
		}
		return nil
	}
	env, done, err := checkEnv(ctx, record.Current.Version)
	if err != nil {
		a.logf("units are not checked before the switch: %v", err)
	}
	defer done()
	results := health.Run(ctx, health.All(a.cfg, env))
	if ctx.Err() != nil {
		return nil // the caller sees it too; nothing was found out
	}
	if err := health.Unanswered(results); err != nil {
		a.logf("cannot run the checks before the switch, so none will excuse the new version: %v", err)
		return nil
	}
	for _, r := range results {
		if r.Required && !r.OK {
			a.logf("%s fails already before the switch and will not condemn the new version: %s", r.Check, r.Why)
		}
	}
	return health.Baseline(results)
}

// awaitVerdict follows the record until the trial of ref has ended. Where no
// systemd runs, nobody judges by himself, and it says what to do.
func (a *applier) awaitVerdict(ctx context.Context, ref *bootcheck.Ref) (err error) {
	if !systemd.Running() {
		fmt.Fprintf(a.out, "version %s is current, on trial; no systemd runs here: restart the services, then `ota-guardian confirm`\n", ref.Version)
		return nil
	}
	asker := ctx
	defer func() {
		if asker.Err() != nil && bootcheck.Exit(err) == bootcheck.ExitUnknown {
			// Nothing has failed: the trial goes on, only nobody waits here.
			a.report.Mute()
		}
	}()
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return unjudged(ref, "systemd does not answer (%v)", err)
	}
	defer conn.Close()
	a.account.enter(metrics.StageJudging)
	// Three versions at most are judged: each is restarted, good by the deadline,
	// steady for a while, and its last check may take long.
	limit := 3 * (systemd.RestartLimit + a.cfg.Trial.Deadline + a.cfg.Trial.Stable + time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no verdict within %s", limit))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var asked time.Time
	for {
		if done, err := a.verdict(ref); done {
			// The guardian may be about to make it last.
			if settleErr := a.store.Settle(); settleErr != nil {
				return settleErr
			}
			return err
		}
		// A guardian that just finished with the version before does not see
		// the new one: ask again until there is a verdict.
		if time.Since(asked) > 2*time.Second {
			asked = time.Now()
			// A shutdown ends this process, too, and the next boot judges.
			if err := conn.StartNoWait(ctx, bootcheck.ConfirmUnit); err != nil && ctx.Err() == nil && !systemd.Leaving(err) {
				return unjudged(ref, "cannot start %s: %v", bootcheck.ConfirmUnit, err)
			}
		}
		select {
		case <-ctx.Done():
			return unjudged(ref, "%v", context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// verdict reads how the trial of ref ended; done is false while it goes on.
func (a *applier) verdict(ref *bootcheck.Ref) (done bool, err error) {
	record, err := a.record()
	if err != nil || record == nil {
		return false, nil // the guardian is just switching, or mends it
	}
	last := record.LastRollback
	switch {
	case record.Phase == bootcheck.PhaseHold && record.Current.Same(ref):
		return true, onHold(record)
	case record.Current.Same(ref) && record.Phase == bootcheck.PhaseConfirmed:
		fmt.Fprintf(a.out, "version %s is current and confirmed\n", ref.Version)
		return true, nil
	case record.Current.Same(ref):
		return false, nil
	case last != nil && last.From == ref.Version && record.BlockedBy(ref) != nil:
		return true, bootcheck.Errorf(bootcheck.ExitRolledBack, last.Code(), "%s", last.Summary()).
			WithAdvice("`ota-guardian why` shows the evidence")
	}
	return true, bootcheck.Errorf(bootcheck.ExitFailed, "", "version %s was replaced by %s before it had a verdict", ref.Version, record.Current)
}

// unjudged is the error of an install that made its switch and cannot say how
// it goes on.
func unjudged(ref *bootcheck.Ref, format string, args ...any) error {
	return bootcheck.Errorf(bootcheck.ExitUnknown, "", "version %s is current, on trial, without a verdict: %s", ref.Version, fmt.Sprintf(format, args...)).
		WithAdvice("the guardian judges it all the same; `ota-guardian status` shows how")
}
