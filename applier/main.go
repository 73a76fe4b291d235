package applier

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// command is what the command line asks for, and the run that does it.
type command struct {
	*applier     // nil until it runs
	do       run // what the command's row of the table does; nil: help was asked for
	stdout   *cli.Output
	stderr   io.Writer
	to       io.Writer // where the answer of --json goes

	name          string
	arg           string // of the commands that take one
	urlFile       string // install reads its arg from there; empty: it does not
	urlFrom       string // a command that prints it; empty: none
	file, root    string // --config, --root
	sysroot       string // of doctor
	json          bool
	quiet         bool          // -q
	verbose       bool          // -v
	strict, prune bool          // of verify
	dryRun        bool          // of cleanup
	once          bool          // of follow
	sbom          bool          // of list
	idle          time.Duration // of serve-progress
	request       bool          // of check: one, on stdin
	limitRate     *config.Size  // nil: what the configuration says
	options       installOptions

	args []string // that it was parsed from
	unit *streams // nil: it does not run in installUnit
}

type run = func(ctx context.Context, args []string) error

// Main runs the command line args (without the program's name) and returns the
// exit code. Results go to stdout, everything else to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) bootcheck.ExitCode {
	// Services may run as other users than the one who installs.
	syscall.Umask(0o022)
	readAhead()
	log.SetOutput(io.Discard) // package net/http prints what servers send that was not asked for
	limitMemory()
	out := &cli.Output{W: stdout}
	c, err := parse(args, out, stderr)
	if err == nil && c.name == serveInstall {
		// A panic then ends it by a signal, of which its caller tells device-api. Go's exit code is
		// that of a command line that is wrong.
		debug.SetTraceback("crash")
		c, stdout, stderr, err = takeRequest(stderr)
		out = &cli.Output{W: stdout}
	}
	if err == nil && c.do != nil {
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

// run carries c out.
func (c *command) run(ctx context.Context, stdout *cli.Output, stderr io.Writer) error {
	c.applier = &applier{out: stdout, log: cli.Log(stderr), more: c.verbose}
	c.stdout, c.stderr = stdout, stderr
	if c.quiet {
		c.out, c.log = io.Discard, io.Discard
		if c.unit != nil {
			c.log = c.unit.journal
		}
	}
	return c.do(ctx, nil)
}

// configure reads the configuration, and puts the flags over it.
func (c *command) configure() error {
	cfg, err := config.Find(c.file)
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
	c.cfg = cfg
	return nil
}

// openStore opens the store.
func (c *command) openStore() (err error) {
	if c.store, err = bootcheck.Open(c.cfg.Root); err == nil {
		c.store.Run = c.cfg.Run
	}
	return err
}

// actOut makes what c tells on stdout lines that nothing depends on: what it does is its
// result. A reader that is gone is no error of it, and one that hangs must not keep its lock.
func (c *command) actOut() {
	switch {
	case c.answer != nil:
		c.to = cli.Log(c.stdout.W)
	case !c.quiet:
		c.out = cli.Log(c.stdout.W)
	}
}

// verifyAny verifies a version or a bundle; a bundle needs no store.
func (c *command) verifyAny(ctx context.Context) error {
	if err := c.openStore(); err != nil {
		if !isBundle(c.arg) {
			return err
		}
		c.logf("warning: %v; keys that were revoked there are not known", err)
	}
	return c.verify(ctx, c.arg, c.strict, c.prune)
}

// installs is the command install: what it is of is read before anything else.
func (c *command) installs(ctx context.Context) (err error) {
	if c.urlFrom != "" && c.unit == nil {
		c.fresh = func(ctx context.Context) (string, error) { return addressFrom(ctx, c.urlFrom, c.stderr) }
		c.arg, err = c.fresh(ctx)
	} else {
		c.arg, err = c.readAddress(ctx)
	}
	switch {
	case err != nil:
		return err
	case c.options.dryRun:
		return c.applier.dryRun(ctx, c.arg, c.options, c.json)
	}
	return c.change(ctx)
}

// change runs the commands that change the current version: in a unit of their own where
// systemd runs, since they restart the service that called them.
func (c *command) change(ctx context.Context) (err error) {
	a := c.applier
	if c.unit == nil {
		c.options.by = asker(a.cfg)
		if err := c.prepare(); err != nil {
			return err
		}
		conn, err := a.unitFor(ctx)
		if err != nil {
			return err
		}
		if conn != nil {
			return a.follow(ctx, conn, c.asRequest(a.cfg), c.stdout.W, c.stderr)
		}
		if !c.quiet {
			a.show = newProgressBar(c.stderr)
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
		return a.activateVersion(ctx, c.arg, c.options)
	}
	return a.install(ctx, c.arg, c.options)
}

// prepare finds out, before an install begins, what device-api is not told of. It
// opens a bundle that is a file.
func (c *command) prepare() error {
	if c.name != "install" {
		return nil
	}
	path, err := localPath(c.arg)
	if err != nil {
		return err
	}
	if path != "" {
		if c.arg, err = filepath.Abs(path); err != nil { // the unit runs in another directory
			return err
		}
		c.bundle, err = openPath(c.arg)
		// A path that was misspelled is no deployment that failed: nothing is reported.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, errNotRegular) {
			return err
		}
	}
	// Without a key nothing can be installed, so nothing is made either. What is wrong with
	// some of them the install says itself.
	if err == nil && trust.Load(c.cfg.Keys).Len() == 0 {
		_, err = c.keys()
	}
	if err != nil {
		c.refused(err)
	}
	return err
}
