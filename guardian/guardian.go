// Package guardian judges: which version a boot runs, whether the version that
// runs is good, what the device falls back to when it is not. Start reading at
// Decide (decide.go), which is the boot decision.
//
//	boot      before device-api starts: Decide, then commit what it says    boot.go
//	confirm   after it started: health checks, then Absolve or Condemn      confirm.go
//	probe     runs the checks for confirm, in a sandbox of its own          probe.go
//	recover   when a service crash-loops: Condemn in the same boot          recover.go
//	shutdown  an orderly shutdown leaves its mark for the next boot         lastboot.go
//	rollback  a person wants another version                                rollback.go
//	factory   makes and checks the last resort                              factory.go
//	verify    reads every byte of everything that is kept                   verify.go
//	check     runs the health checks once, for a person                     check.go
package guardian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/journal"
	"github.com/tope-ota/ota/bootcheck/metrics"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// lockWait bounds how long the guardian waits for an applier that is just
// publishing a version: two renames and a few fsyncs, 24 ms at p99 on eMMC; the
// boot goes on after it in any case.
const lockWait = 5 * time.Second

// lockPatience is how long confirm and recover wait: whoever switches holds the
// lock until the services run what current is now, so that nobody takes the old
// version's failure for the new one's.
const lockPatience = 2 * systemd.RestartLimit

// guardian is one run of the program.
type guardian struct {
	cfg    *config.Config
	store  *bootcheck.Store
	bootID string // empty: the kernel does not say
	out    io.Writer
	log    io.Writer

	ask func(context.Context, health.Request) (health.Answer, error) // health.Ask, but in a test
}

func (g *guardian) logf(format string, args ...any) {
	fmt.Fprintf(g.log, "guardian: %s\n", bootcheck.OneLine(fmt.Sprintf(format, args...)))
}

// look finds out what a decision needs to know of the disk: whether current has
// all its files with their sizes and modes and starts from what it should, and
// whether the versions that may have to run instead are there at all. What is
// chosen is hashed by settle.
func (g *guardian) look(ctx context.Context, record *bootcheck.Record) Disk {
	disk := Disk{Damaged: map[string]string{}, Unknown: map[string]string{}, Refused: map[string]string{}}
	g.refuse(record, &disk)
	check := func(ref *bootcheck.Ref) {
		if ref == nil || !disk.judged(ref) {
			return
		}
		if err := g.store.There(ref.Version); bootcheck.Inconclusive(err) {
			disk.Unknown[ref.Version] = err.Error()
		} else if err != nil {
			disk.Damaged[ref.Version] = err.Error()
		}
	}
	check(record.Previous)
	check(record.Factory)
	if record.Next != nil {
		check(&record.Next.Ref)
	}
	for i := range record.Confirmed {
		check(&record.Confirmed[i])
	}
	if err := g.store.Verify(ctx, record.Current, bootcheck.Start); bootcheck.Inconclusive(err) {
		g.logf("%v; it is taken for whole", err)
	} else if err != nil {
		disk.Damaged[record.Current.Version] = err.Error()
	}
	return disk
}

// settle asks decide until the version that it switches to is whole, every
// byte of it: each answer that names a damaged one, or one that cannot be looked at,
// is asked again without it.
func (g *guardian) settle(ctx context.Context, disk Disk, decide func(Disk) Decision) (Decision, error) {
	for {
		// Who was told to end has not seen the disk: nothing is decided.
		if err := ctx.Err(); err != nil {
			return Decision{}, err
		}
		d := decide(disk)
		if d.Action != FallBack && d.Action != Activate {
			return d, nil
		}
		err := g.store.Verify(ctx, d.Run, bootcheck.Content)
		if err == nil {
			return d, nil
		}
		if bootcheck.Inconclusive(err) {
			g.logf("cannot %s to %s: %v", d.Action, d.Run, err)
			disk.Unknown[d.Run.Version] = err.Error()
			continue
		}
		if !g.heal(ctx, d.Run, err.Error()) {
			g.logf("cannot %s to %s: %v", d.Action, d.Run, err)
			disk.Damaged[d.Run.Version] = err.Error()
		}
	}
}

// heal repairs ref, which is damaged, from what other snapshots have of it, and
// reports whether it is whole now: every byte of it. The lock must be held.
func (g *guardian) heal(ctx context.Context, ref *bootcheck.Ref, why string) bool {
	wrong, err := g.store.Wrong(ctx, ref)
	if err == nil {
		_, err = g.repair(ctx, ref, wrong, why)
	}
	if err != nil {
		g.logf("cannot repair version %s: %v", ref, err)
	}
	return bootcheck.Switched(err)
}

// repair makes ref anew and says what was wrong with it, in a few words. An error that is
// Switched is of a repair that was made. The lock must be held.
func (g *guardian) repair(ctx context.Context, ref *bootcheck.Ref, wrong []string, why string) (what string, err error) {
	fields := map[string]string{"OTA_VERSION": ref.Version}
	record, err := g.recordIfAny()
	if err != nil {
		return "", err
	}
	prefix := ""
	if record != nil && ref.Same(record.Factory) {
		prefix = "factory: "
	}
	g.announce(eventDamaged, fields, "%s%s", prefix, why)
	extra, err := g.store.Repair(ctx, record, ref, wrong)
	if !bootcheck.Switched(err) {
		return "", err
	}
	for _, name := range extra {
		wrong = append(wrong, fmt.Sprintf("%q (left behind)", name))
	}
	what = shortList(wrong)
	g.announce(eventRepaired, fields, "%sversion %s is whole again, repaired: %s", prefix, ref, what)
	return what, err // which says that the power may undo it
}

// commit makes next what the device runs. On a full disk it gives up what an
// install left half unpacked: a device that cannot decide is worse.
func (g *guardian) commit(ctx context.Context, next *bootcheck.Record) error {
	err := g.store.Commit(next)
	if !bootcheck.IsNoSpace(err) {
		return err
	}
	unlock, lockErr := g.store.LockInstalls(ctx)
	if lockErr != nil {
		return err // an install runs, and ends soon: the disk is full
	}
	defer unlock()
	if sweepErr := g.store.Sweep(); sweepErr != nil {
		g.logf("%v", sweepErr)
	}
	return g.store.Commit(next)
}

// carryOut commits what d says and tells the journal. An error that is Switched
// (see bootcheck.Switched) is of a decision that was carried out.
func (g *guardian) carryOut(ctx context.Context, d Decision) error {
	if err := bootcheck.SeeBoot(g.cfg.Run); err != nil {
		g.logf("cannot mark this boot as seen: %v", err)
	}
	if d.Next == nil {
		g.logf("%s: %s", d.Action, d.Why)
		return nil
	}
	err := g.commit(ctx, d.Next)
	if d.Action == FallBack && bootcheck.IsNoSpace(err) {
		noSpace := err
		if err = g.store.FallBack(d.Next); !bootcheck.Switched(err) {
			err = fmt.Errorf("%w; nor the fall-back that was prepared: %v", noSpace, err)
		}
	}
	if !bootcheck.Switched(err) {
		return fmt.Errorf("cannot %s (%s): %w", d.Action, d.Why, err)
	}
	e := map[Action]journal.Event{Count: eventCounted, FallBack: eventRollback, Hold: eventHold, Confirm: eventConfirmed, Activate: eventActivated}[d.Action]
	g.announce(e, fieldsOf(d.Next), "%s: %s", d.Action, d.Why)
	g.publish()
	return err
}

// desk is where the fleet's tools are told how the device is.
func (g *guardian) desk() *metrics.Desk { return metrics.New(g.cfg, g.store) }

// publish tells them. Nothing that matters waits for it or fails with it.
func (g *guardian) publish() {
	if err := g.desk().Publish(); err != nil {
		g.logf("%v", err)
	}
}

// restart starts the services anew so that they run version. Its caller holds
// the lock. What does not start is the next judgement's business.
func (g *guardian) restart(ctx context.Context, version *bootcheck.Ref) {
	if !systemd.Running() {
		g.logf("no systemd runs here: restart the services to run %s", version)
		return
	}
	conn, err := dial(ctx)
	if err == nil {
		defer conn.Close()
		err = conn.RestartAll(ctx, g.cfg.Services, g.logf)
	}
	if err != nil {
		g.logf("the services did not restart: %v", err)
		// The links are right, so a boot sets it right. It is an orderly end as far
		// as the version that runs from then on is concerned.
		g.resetIfSilent(ctx, cleanMark, "the services still run the version that was left")
	}
}

// active reads the record; a store in which nothing was ever installed is nil.
func (g *guardian) active() (*bootcheck.Active, error) {
	active, err := g.store.Active()
	if errors.Is(err, bootcheck.ErrEmpty) {
		return nil, nil
	}
	return active, err
}
