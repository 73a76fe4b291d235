// Package applier changes which version a device runs: it downloads a signed
// bundle, checks it, unpacks it as a new snapshot, makes that current on trial,
// restarts the services and waits for the guardian to decide. Start reading at
// install, which is the recipe.
//
//	apply.go     the recipe
//	source.go    where a bundle comes from: an address, unpacked while it arrives, or a file
//	registry.go  where an OCI registry has it
//	patched.go   what comes by a patch in the place of the bundle
//	server.go    a server that says what should run: package follow
//	admit.go     everything that a bundle can be refused for before it is unpacked
//	revoked.go   the keys that are trusted no longer
//	release.go   the counter that never falls
//	plan.go      the room that it takes, what is reused, what has to go
//	stage.go     unpack, publish, make room
//	limits.go    how much memory is used
//	activate.go  the switch, the restart, the outcome of the trial
//	check.go     the health checks, before the switch and for an operator
//	unit.go      running in a systemd unit of its own
//	progress.go  what an operator at a terminal sees of it
//	events.go    what a program that called is told (--json)
//	account.go   what the fleet's tools are told
//	serve.go     what a screen that asks is answered
package applier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/systemd"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// applier is one run of the program.
type applier struct {
	cfg    *config.Config
	store  *bootcheck.Store
	spool  string           // where downloads wait; empty: where the configuration says
	report *report.Reporter // nil: no reports
	show   *progressBar     // nil: stderr is not a terminal
	events *events          // nil: no program is told
	out    io.Writer
	answer *cli.Answer // with --json, of a command that tells what it did; else nil
	log    io.Writer   // what an operator may want to know
	lines  io.Writer   // a line a stage; nil: the bar or the events of --json say it, or -q
	more   bool        // -v: what a.detail says

	dates *calendar.Calendar // see calendar
	clock func() time.Time   // nil: the system's
	// unshared: the disk became full, so nothing is expected to be shared.
	unshared bool
	fresh    func(ctx context.Context) (address string, err error) // when that expires; nil: there is no other
	bundle   *os.File                                              // that is to be installed; nil: it is downloaded, or opened by its path
	version  bootcheck.VersionInfo                                 // of the bundle or the snapshot; empty: it is not known yet
	account  account                                               // of the install, for the fleet's figures
	current  *bootcheck.Snapshot                                   // see snapshot
	damaged  sync.Map                                              // "VERSION/PATH" of the files that were said to be damaged
}

func (a *applier) logf(format string, args ...any) {
	fmt.Fprintf(a.log, "ota-apply: %s\n", bootcheck.OneLine(fmt.Sprintf(format, args...)))
}

// say writes a line about a stage where no bar shows it.
func (a *applier) say(format string, args ...any) {
	if a.lines != nil {
		fmt.Fprintf(a.lines, "ota-apply: %s\n", bootcheck.OneLine(fmt.Sprintf(format, args...)))
	}
}

// detail is a line for -v.
func (a *applier) detail(format string, args ...any) {
	if a.more {
		a.logf(format, args...)
	}
}

// Waits for the store's lock. An install that begins does not wait for one that
// continues. One that has downloaded for an hour does not give that up to a guardian
// that is rolling back: it holds the lock until the services are restarted.
const (
	lockAtStart  = 500 * time.Millisecond
	lockToCommit = 2 * systemd.RestartLimit
)

// installOptions are the flags of install.
type installOptions struct {
	size           int64  // bytes of the bundle; 0: not known
	sha256         string // of the bundle, hex; empty: not known
	patch          string // the address of a patch; empty: that beside the bundle
	noPatch        bool   // never use one
	manifest       string // the digest of the version, sha256:HEX; empty: any
	dryRun         bool   // only say what would be done
	noActivate     bool   // stop when the version is in the store
	atReboot       bool   // the next boot runs it, and until then nothing changes
	force          bool   // although it is blocked
	allowDowngrade bool   // although it is older than what was confirmed here
	by             string // the asker, for the record
}

// install is the recipe. from is an address or a file. When it returns nil, the
// version runs and is confirmed (or is in the store, with noActivate; or is on
// trial, where no systemd runs). Until activate, nothing that runs is touched.
func (a *applier) install(ctx context.Context, from string, o installOptions) (err error) {
	unlock, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	defer func() { a.finish(err) }()
	keys, err := a.keys()
	if err != nil {
		return err
	}
	if _, err := a.sweep(ctx); err != nil {
		return err
	}

	ref, done, err := a.obtain(ctx, from, o, keys)
	if done || err != nil {
		return err
	}
	if o.noActivate {
		fmt.Fprintf(a.out, "version %s is in the store; `ota-apply activate %s` makes it current\n", ref.Version, ref.Version)
		return nil
	}
	return a.activate(ctx, ref, o)
}

// obtain is the first half of the recipe: the bundle's head is fetched and checked, then what
// no other version has is fetched and unpacked, and published as a version of the store.
// done: that is current already, and needs no switch.
func (a *applier) obtain(ctx context.Context, from string, o installOptions, keys *trust.Keys) (ref *bootcheck.Ref, done bool, err error) {
	a.stage(report.StageDownloading, "downloading the bundle")
	src, err := a.open(ctx, from, o)
	if err != nil {
		return nil, false, err
	}
	defer func() { src.close() }()
	for {
		b, err := src.next(keys)
		if err == nil {
			if err = a.admit(ctx, b, o, keys); err != nil {
				err = b.now.Refuse(err)
			}
		}
		if errors.Is(err, fetch.ErrStartedOver) {
			continue // the server has another bundle now
		}
		if err != nil {
			return nil, false, err
		}
		a.guardianFirst(ctx, o)
		if b.record, err = a.store.Record(); err != nil {
			return nil, false, err
		}
		if runs(b.record, b.ref()) {
			a.stage(report.StageVerifying, "version "+b.manifest.Version)
			if done, err := a.resume(ctx, b.record, o); done {
				if err == nil {
					src.drop()
				}
				return nil, true, err
			}
		}
		err = a.stageVersion(ctx, b)
		var without *noPatch
		_, full := errors.AsType[*noRoom](err)
		switch {
		case err == nil:
			src.drop()
			return b.ref(), false, nil
		case errors.Is(err, fetch.ErrStartedOver):
		case errors.As(err, &without):
			if err := src.withoutPatch(without); err != nil {
				return nil, false, err
			}
		case full && !a.unshared:
			// Less could be shared than could be seen, or another program writes. What
			// arrived is kept: all of it is opened again, as what is removed now has to come
			// out of the bundle.
			a.logf("%v; making room, as nothing can be shared", err)
			a.unshared = true
			src.close()
			again, err := a.openBundle(ctx, from, o)
			if err != nil {
				return nil, false, err
			}
			src = again
		default:
			return nil, false, err
		}
	}
}

// activateVersion makes a version of the store current, as install does with a
// new one.
func (a *applier) activateVersion(ctx context.Context, name string, o installOptions) (err error) {
	if err := a.knows(name); err != nil {
		return err
	}
	unlock, err := a.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	defer func() { a.finish(err) }()
	if err := a.storeIsFree(ctx); err != nil {
		return err
	}
	a.guardianFirst(ctx, o)
	record, err := a.store.Record()
	if err != nil {
		return err
	}
	version, err := a.store.Find(record, name)
	if err != nil {
		return err
	}
	a.found(bootcheck.VersionInfo{Version: version})
	snapshot, err := a.store.Snapshot(version)
	if err != nil {
		return err
	}
	a.version = snapshot.Manifest.Info(snapshot.Ref.Digest)
	if runs(record, &snapshot.Ref) {
		if err := a.store.CheckRevoked(&snapshot.Ref, record); bootcheck.Exit(err) == bootcheck.ExitRefused {
			return err
		}
		if done, err := a.resume(ctx, record, o); done {
			return err
		}
	}
	if err := a.admitStored(&snapshot.Ref, record, o); err != nil {
		return err
	}
	a.stage(report.StageVerifying, "version "+version)
	if err := a.store.Verify(ctx, &snapshot.Ref, bootcheck.Content); err != nil {
		return err
	}
	return a.activate(ctx, &snapshot.Ref, o)
}

// knows fails if no version of the store has that name. A name that was misspelled
// is no deployment that failed: nothing is reported.
func (a *applier) knows(name string) error {
	store, err := bootcheck.Open(a.cfg.Root)
	if err != nil {
		return err
	}
	active, err := store.Active()
	if err != nil {
		active = &bootcheck.Active{} // Find needs it for names such as "previous" only
	}
	_, err = store.Find(active.Record, name)
	return err
}

// storeIsFree is an error with ExitBusy while the guardian changes the store: what
// it does then may last minutes, and may change what is asked for.
func (a *applier) storeIsFree(ctx context.Context) error {
	unlock, err := a.store.Lock(ctx, lockAtStart)
	if err == nil {
		unlock()
	}
	return err
}

// snapshot is a version of the store. That of record's current version, which an install
// asks for several times, is read once: it is only what to take files from, each of which
// is hashed.
func (a *applier) snapshot(record *bootcheck.Record, version string) (*bootcheck.Snapshot, error) {
	if a.current != nil && a.current.Ref.Version == version {
		return a.current, nil
	}
	s, err := a.store.Snapshot(version)
	if err == nil && version == record.Current.Version {
		a.current = s
	}
	return s, err
}

// lockRecord takes the store's lock, waiting for it at most wait, and reads the record. With
// an error nothing is locked.
func (a *applier) lockRecord(ctx context.Context, wait time.Duration) (record *bootcheck.Record, unlock func(), err error) {
	if unlock, err = a.store.Lock(ctx, wait); err != nil {
		return nil, nil, err
	}
	if record, err = a.store.Record(); err != nil {
		unlock()
	}
	return record, unlock, err
}

// runs reports whether ref is current in record, which may be nil.
func runs(record *bootcheck.Record, ref *bootcheck.Ref) bool {
	return record != nil && record.Current.Same(ref)
}

// begin takes the lock that one install holds from its first byte to the end
// of its trial. On ErrBusy it says nothing to device-api, which would take it
// for the end of the install that continues.
func (a *applier) begin(ctx context.Context) (unlock func(), err error) {
	if a.store, err = bootcheck.Create(a.cfg.Root); err == nil {
		a.store.Run = a.cfg.Run
		err = bootcheck.CheckOwner(a.cfg.Root) // others could put versions there
	}
	if err == nil {
		unlock, err = a.store.LockInstalls(ctx)
	}
	switch {
	case err == nil:
		a.report = a.newReport()
	case !errors.Is(err, bootcheck.ErrBusy):
		a.refused(err)
	}
	return unlock, err
}

func (a *applier) stage(stage, message string) {
	a.account.enter(stage)
	if a.report != nil {
		a.report.Stage(stage, 0, message)
	}
	a.show.stage(stage, message)
}

// found notes which version it is about.
func (a *applier) found(version bootcheck.VersionInfo) {
	a.version = version
	if a.report != nil { // a dry run sends no reports
		a.report.Version(version.Version)
	}
}

func (a *applier) progress(done, total int64) {
	if total <= 0 {
		return
	}
	if a.report != nil {
		a.report.Progress(done, total)
	}
	a.show.progress(done, total)
}

// newReport begins the reports to device-api and to the state file.
func (a *applier) newReport() *report.Reporter {
	r := report.New(a.cfg.Report.URL, a.progressFile())
	if a.events != nil {
		r.Watch(a.events.progress)
	}
	return r
}

// refused reports an install that could not begin, or that ended without a word.
// While another one runs, its word counts.
func (a *applier) refused(err error) {
	if bootcheck.ReadOperation(a.progressFile()).Running() {
		return
	}
	a.report = a.newReport()
	a.finish(err)
}

// finish gives the last report and its bounded chance to arrive.
func (a *applier) finish(err error) {
	a.show.close()
	if err := a.report.Err(); err != nil {
		a.logf("cannot report the progress: %v", err)
	}
	if err != nil {
		a.report.Fail(err)
	} else {
		a.report.Success("version " + a.version.Version)
	}
	a.publishEnd(err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	a.report.Close(ctx)
}

func (a *applier) progressFile() string { return filepath.Join(a.cfg.Run, "progress.json") }
