package applier

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tope-ota/ota/applier/doctor"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
)

// command is what the command line asks for.
type command struct {
	name         string
	arg          string // of the commands that take one
	urlFile      string // install reads its arg from there; empty: it does not
	urlFrom      string // a command that prints it; empty: none
	config, root string
	sysroot      string // of doctor
	json, dryRun bool
	quiet, more  bool // -q, -v
	strict       bool // of verify
	prune        bool // of verify
	once         bool // of follow
	sbom         bool // of list
	install      installOptions

	idle      time.Duration // of serve-progress
	request   bool          // of check: one, on stdin
	limitRate *config.Size  // nil: what the configuration says

	args []string // that it was parsed from
	unit *streams // nil: it does not run in installUnit
}

// Main runs the command line args (without the program's name) and returns the
// exit code. Results go to stdout, everything else to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) bootcheck.ExitCode {
	// Services may run as other users than the one who installs.
	syscall.Umask(0o022)
	readAhead()
	limitMemory()
	out := &cli.Output{W: stdout}
	c, err := parse(args, out, stderr)
	if err == nil && c.name == serveInstall {
		c, stdout, stderr, err = takeRequest(stderr)
		out = &cli.Output{W: stdout}
	}
	if err == nil && c.name != "" {
		err = c.run(ctx, out, stderr)
	}
	err = out.Err(err)
	if errors.Is(err, context.Canceled) && bootcheck.Advice(err) == "" {
		err = (&bootcheck.Error{Exit: bootcheck.Exit(err), Code: bootcheck.ReportCode(err), Err: err}).
			WithAdvice("run the same command again to resume")
	}
	var code exitOf
	if errors.As(err, &code) {
		return bootcheck.ExitCode(code) // it has said itself what was wrong
	}
	return cli.Fail(stderr, "ota-apply", err)
}

func (c *command) run(ctx context.Context, stdout *cli.Output, stderr io.Writer) (err error) {
	a := &applier{out: stdout, log: cli.Log(stderr)}
	if !c.result() {
		a.out = cli.Log(stdout.W)
	}
	if c.quiet {
		a.out, a.log = io.Discard, io.Discard
		if c.unit != nil {
			a.log = c.unit.journal
		}
	}
	a.more = c.more
	if c.json && !c.install.dryRun && (c.name == "install" || c.name == "activate") {
		a.events = newEvents(stdout.W)
		a.out = &a.events.text
		defer func() { a.events.result(a.version, err) }()
	}
	if c.json && c.tells() {
		to := a.out
		a.answer = new(cli.Answer)
		a.out = &a.answer.Text
		defer func() { err = a.give(to, err) }()
	}
	if c.name == "doctor" { // a configuration that is wrong is a finding
		return doctor.Diagnose(ctx, a.out, doctor.Options{Config: c.config, Root: c.root, Sysroot: c.sysroot, JSON: c.json})
	}
	if c.request { // it needs neither the store nor the configuration
		return serveCheck(ctx)
	}
	cfg, err := config.Find(c.config)
	if c.name == "serve-progress" {
		return serveProgress(ctx, cfg, err, c.idle, a.log)
	}
	if err != nil {
		return (&bootcheck.Error{Exit: bootcheck.ExitUsage, Err: err}).
			WithAdvice("%s", cmp.Or(bootcheck.Advice(err), "correct the configuration, or choose another one with --config"))
	}
	if c.root != "" {
		if err := cfg.SetRoot(c.root); err != nil {
			return err
		}
	}
	if c.limitRate != nil {
		cfg.LimitRate = *c.limitRate
	}
	a.cfg = cfg
	if c.name == "install" {
		if c.urlFrom != "" && c.unit == nil {
			a.fresh = func(ctx context.Context) (string, error) { return addressFrom(ctx, c.urlFrom, stderr) }
			c.arg, err = a.fresh(ctx)
		} else {
			c.arg, err = c.readAddress(ctx)
		}
		if err != nil {
			return err
		}
	}
	switch {
	case c.install.dryRun:
		return a.dryRun(ctx, c.arg, c.install, c.json)
	case c.name == "follow":
		return a.followServer(ctx, c)
	case c.name == "install", c.name == "activate":
		return c.change(ctx, a, stdout.W, stderr)
	}
	if a.store, err = bootcheck.Open(cfg.Root); err != nil {
		if c.name == "verify" && isBundle(c.arg) {
			a.logf("warning: %v; keys that were revoked there are not known", err)
			return a.verify(ctx, c.arg, c.strict, c.prune)
		}
		return err
	}
	a.store.Run = cfg.Run
	switch c.name {
	case "list":
		return a.list(c.json, c.sbom)
	case "verify":
		return a.verify(ctx, c.arg, c.strict, c.prune)
	case "cleanup":
		defer a.publish()
		return a.cleanup(ctx, c.dryRun)
	case "unblock":
		defer a.publish()
		return a.unblock(ctx, c.arg)
	case "reset-release":
		defer a.publish()
		return a.resetRelease(ctx)
	case "check":
		return a.check(ctx, c.json)
	}
	return a.status(c.json)
}

// result reports whether c is asked for what it prints. Of any other command what it
// does is the result: a reader that is gone is no error of it, and one that hangs
// must not keep its lock.
func (c *command) result() bool {
	switch c.name {
	case "install", "cleanup":
		return c.dryRun || c.install.dryRun
	case "activate", "unblock", "reset-release", "serve-progress", "follow":
		return false
	}
	return true
}

// tells reports whether c tells in words what it did: with --json that is one object.
func (c *command) tells() bool {
	return c.name == "verify" || c.name == "cleanup" || c.name == "unblock" || c.name == "reset-release"
}

// give gives the answer of a command that ended with err, to w.
func (a *applier) give(w io.Writer, err error) error {
	var record *bootcheck.Record
	if a.store != nil {
		record, _ = a.record()
	}
	for name, info := range a.store.LinkInfo(record) {
		a.answer.Set(name, info)
	}
	return a.answer.Give(w, err)
}

// change runs the commands that change the current version: in a unit of their own where
// systemd runs, since they restart the service that called them.
func (c *command) change(ctx context.Context, a *applier, stdout, stderr io.Writer) (err error) {
	if c.unit == nil {
		c.install.by = asker(a.cfg)
		bundle, err := c.prepare(a)
		if err != nil {
			return err
		}
		a.bundle = bundle
		conn, err := a.unitFor(ctx)
		if err != nil {
			return err
		}
		if conn != nil {
			return a.follow(ctx, conn, c.asRequest(a.cfg), stdout, stderr)
		}
		if !c.quiet {
			a.show = newProgressBar(stderr)
		}
		if a.show == nil && a.events == nil {
			a.lines = a.log
		}
	} else {
		c.announceBegin()
		defer func() { c.announceEnd(a.version.Version, err) }()
		a.bundle, a.fresh = c.unit.bundle, c.unit.fresh
		if !c.quiet {
			a.show = newProgressBar(c.unit.terminal)
		}
		if a.lines = a.log; a.show != nil || a.events != nil {
			a.lines = c.unit.journal
		}
	}
	defer a.show.close()
	a.out, a.log = a.show.over(a.out), a.show.over(a.log)
	if a.events != nil {
		a.events.w = a.show.over(a.events.w)
	}
	if c.name == "activate" {
		return a.activateVersion(ctx, c.arg, c.install)
	}
	return a.install(ctx, c.arg, c.install)
}

// prepare finds out, before an install begins, what device-api is not told of. It
// opens a bundle that is a file.
func (c *command) prepare(a *applier) (bundle *os.File, err error) {
	if c.name != "install" {
		return nil, nil
	}
	path, err := localPath(c.arg)
	if err != nil {
		return nil, err
	}
	if path != "" {
		if c.arg, err = filepath.Abs(path); err != nil { // the unit runs in another directory
			return nil, err
		}
		bundle, err = openPath(c.arg)
		// A path that was misspelled is no deployment that failed: nothing is reported.
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	// Without a key nothing can be installed, so nothing is made either.
	if err == nil {
		_, err = a.keys()
	}
	if err != nil {
		a.refused(err)
	}
	return bundle, err
}
