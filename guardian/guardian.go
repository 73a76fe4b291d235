// Package guardian decides which version a boot runs, whether the version that
// runs is good, what the device rolls back to when it is not. Start reading at
// Decide (decide.go), which is the boot decision.
//
//	boot      before device-api starts: Decide, then commit what it says    boot.go
//	confirm   after it started: health checks, then MarkGood or MarkBad      confirm.go
//	recover   when a service crash-loops: MarkBad in the same boot          recover.go
//	shutdown  an orderly shutdown leaves its mark for the next boot         lastboot.go
//	rollback  an operator wants another version                                rollback.go
//	factory   makes and checks the last fallback                              factory.go
//	verify    reads every byte of everything that is kept                   verify.go
//	check     runs the health checks once, for an operator                     check.go
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
// boot continues after it in any case.
const lockWait = 5 * time.Second

// lockPatience is how long confirm and recover wait: a program that switches holds the
// lock until the services run what current is now, so that no program takes the old
// version's failure for the new one's.
const lockPatience = 2 * systemd.RestartLimit

// guardian decides about one device, and carries out what it decides. What an operator is
// told is up to a command.
type guardian struct {
	cfg    *config.Config
	store  *bootcheck.Store
	bootID string // empty: the kernel does not say
	log    io.Writer

	ask func(context.Context, health.Request) (health.Answer, error) // health.Ask, but in a test
}

func (g *guardian) logf(format string, args ...any) {
	fmt.Fprintf(g.log, "ota-guardian: %s\n", bootcheck.OneLine(fmt.Sprintf(format, args...)))
}

// look finds out what a decision needs to know of the disk: whether current has
// all its files with their sizes and modes and starts from what it should, and
// whether the versions that may have to run instead are there at all. What is
// chosen is hashed by settle.
func (g *guardian) look(ctx context.Context, record *bootcheck.Record) Disk {
	disk := Disk{Damaged: map[string]string{}, Unknown: map[string]string{}, Refused: map[string]string{}}
	g.refuse(record, &disk)
	for version, err := range g.store.Missing(record) {
		if bootcheck.Inconclusive(err) {
			disk.Unknown[version] = err.Error()
		} else {
			disk.Damaged[version] = err.Error()
		}
	}
	if err := g.store.Verify(ctx, record.Current, bootcheck.Start); bootcheck.Inconclusive(err) {
		g.logf("%v; taken as intact", err)
	} else if err != nil {
		disk.Damaged[record.Current.Version] = err.Error()
	}
	return disk
}

// settle asks decide until the version that it switches to is intact, every
// byte of it: each answer that names a damaged one, or one that cannot be looked at,
// is asked again without it.
func (g *guardian) settle(ctx context.Context, disk Disk, decide func(Disk) Decision) (Decision, error) {
	for {
		// A guardian that was told to end has not seen the disk: nothing is decided.
		if err := ctx.Err(); err != nil {
			return Decision{}, err
		}
		d := decide(disk)
		if d.Action != RollBack && d.Action != Activate {
			return d, nil
		}
		err := g.store.Verify(ctx, d.Run, bootcheck.Content)
		if err == nil {
			return d, nil
		}
		if bootcheck.Inconclusive(err) {
			g.logf("cannot run version %s: %v", d.Run, err)
			disk.Unknown[d.Run.Version] = err.Error()
			continue
		}
		if !g.repairVersion(ctx, d.Run, err.Error()) {
			g.logf("cannot run version %s: %v", d.Run, err)
			disk.Damaged[d.Run.Version] = err.Error()
		}
	}
}

// repairVersion repairs ref, which is damaged, from what other snapshots have of it, and
// reports whether it is intact now: every byte of it. The lock must be held.
func (g *guardian) repairVersion(ctx context.Context, ref *bootcheck.Ref, why string) bool {
	wrong, err := g.store.Wrong(ctx, ref)
	if err == nil {
		_, err = g.repair(ctx, ref, wrong, why)
	}
	if err != nil {
		g.logf("cannot repair version %s: %v", ref, err)
	}
	return bootcheck.Switched(err)
}

// repair rebuilds ref and says what was wrong with it, in a few words. An error that is
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
		wrong = append(wrong, fmt.Sprintf("%q (not in the release)", name))
	}
	what = shortList(wrong)
	g.announce(eventRepaired, fields, "%srepaired version %s: %s", prefix, ref, what)
	return what, err // which says that the power may undo it
}

// commit makes next what the device runs. On a full disk it gives up what an
// install left half unpacked: a device that cannot decide is worse.
func (g *guardian) commit(ctx context.Context, next *bootcheck.Record) error {
	err := g.store.Commit(next)
	if !noRoom(err) {
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

// noRoom reports whether err is of a commit that changed nothing, as the disk is full.
func noRoom(err error) bool { return bootcheck.IsNoSpace(err) && !bootcheck.Switched(err) }

// commitDecision commits what d says and tells the journal. An error that is Switched
// (see bootcheck.Switched) is of a decision that was carried out.
func (g *guardian) commitDecision(ctx context.Context, d Decision) error {
	if err := bootcheck.SeeBoot(g.cfg.Run); err != nil {
		g.logf("cannot mark this boot as seen: %v", err)
	}
	if d.Next == nil {
		g.logf("%s", d.Why)
		return nil
	}
	err := g.commit(ctx, d.Next)
	if d.Action == RollBack && noRoom(err) {
		noSpace := err
		if err = g.store.RollBack(d.Next); !bootcheck.Switched(err) {
			err = fmt.Errorf("%w; the prepared rollback failed too: %v", noSpace, err)
		}
	}
	if !bootcheck.Switched(err) {
		return fmt.Errorf("cannot commit (%s): %w", d.Why, err)
	}
	e := map[Action]journal.Event{Count: eventCounted, RollBack: eventRollback, Hold: eventHold, Confirm: eventConfirmed, Activate: eventActivated}[d.Action]
	g.announce(e, fieldsOf(d.Next), "%s", d.Why)
	g.publish()
	return err
}

// publisher is where the fleet's tools are told how the device is.
func (g *guardian) publisher() *metrics.Publisher { return metrics.New(g.cfg, g.store) }

// publish tells them. Nothing that matters waits for it or fails with it.
func (g *guardian) publish() {
	if err := g.publisher().Publish(); err != nil {
		g.logf("%v", err)
	}
}

// restart starts the services again so that they run version. Its caller holds
// the lock. A service that does not start fails its checks afterwards.
func (g *guardian) restart(ctx context.Context, version *bootcheck.Ref) {
	if !systemd.Running() {
		g.logf("no systemd runs here: restart the services to start version %s", version)
		return
	}
	conn, err := dial(ctx)
	if err == nil {
		err = conn.RestartAll(ctx, g.cfg.Services)
	}
	if err != nil {
		g.logf("%v", err)
		// The links are right, so a boot sets it right. It is an orderly end as far
		// as the version from then on is concerned.
		g.resetIfSilent(ctx, cleanMark, "the services still run the version before")
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

// record is the record of a device that has one, else bootcheck.ErrEmpty.
func (g *guardian) record() (*bootcheck.Record, error) {
	active, err := g.store.Active()
	if err != nil {
		return nil, err
	}
	return active.Record, nil
}

// lockRecord takes the store's lock, waiting for it at most wait, and reads the record. With
// an error nothing is locked.
func (g *guardian) lockRecord(ctx context.Context, wait time.Duration) (record *bootcheck.Record, unlock func(), err error) {
	if unlock, err = g.store.Lock(ctx, wait); err != nil {
		return nil, nil, err
	}
	if record, err = g.record(); err != nil {
		unlock()
	}
	return record, unlock, err
}

// markBad is the Decision that the version of record failed, and how it ends on disk.
func (g *guardian) markBad(ctx context.Context, record *bootcheck.Record, disk Disk, f Failure) (Decision, error) {
	return g.settle(ctx, disk, func(disk Disk) Decision { return MarkBad(record, disk, g.bootID, f) })
}
