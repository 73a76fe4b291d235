package applier

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/applier/doctor"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
)

const usage = `ota-apply installs a version of the application and makes it run.

  ota-apply install URL|FILE|- [--size N] [--sha256 HEX] [--no-activate | --at-reboot] [--force] [--allow-downgrade]
                    [--limit-rate RATE] [--json]
                               download, check, unpack, switch, restart, wait for the verdict;
                               -: read the address, one line, from stdin
  ota-apply install --dry-run [--json] URL|FILE|-
                               only say what would be downloaded, reused, written, removed, restarted
  ota-apply activate VERSION [--at-reboot] [--force] [--allow-downgrade] [--json]
                               switch to a version that is in the store; refuses what install refuses
  ota-apply status [--json]    what runs, what is on trial, what an install does now
  ota-apply list [--json]      the versions in the store
  ota-apply verify VERSION|FILE
                               check every byte of a version or of a bundle
  ota-apply check [--json]     run the health checks once; nothing is changed
  ota-apply cleanup [--dry-run]
                               remove left-overs and the versions beyond "keep"
  ota-apply unblock VERSION    let a version that failed here be installed again
  ota-apply reset-release      take releases from that of the version that runs on, though a higher one
                               was confirmed here
  ota-apply serve-progress [--idle TIME]
                               for ota-progress.socket: answer GET /api/v1.0/progress with the
                               state of the install; end after TIME (30s) without a connection
  ota-apply doctor [--json] [--sysroot DIR]
                               is the device set up right? What is not, and the cure; nothing is changed.
                               Exit code 1: something fails
  ota-apply check --request    for ota-health@.service: stdin is a socket, with one request
  ota-apply --version          the version of this program

Flags of install:
  --url-file FILE     read the address from FILE, one line: no other user sees it
  --size N            the bundle has N bytes
  --sha256 HEX        the bundle has this SHA-256
  --no-activate       only put the version into the store
  --at-reboot         run it from the next boot on; until then nothing that runs changes
  --force             although the version failed on this device
  --allow-downgrade   although its release is older than one that was confirmed here
  --limit-rate RATE   download at most RATE bytes a second, as 500k or 2M; 0: as fast as it goes
  --json              tell a program: one JSON object a line on stdout, and nothing else there

Flags of doctor:
  --sysroot DIR       the image of a device, below DIR, instead of this device

With --json, install and activate print at each change of stage and every 5 %
  {"event":"progress","stage":"downloading","progress":40,"message":"…"}
    stage     downloading, verifying, toInstall, installing or rebooting
    progress  percent of the stage
    message   for a person
and at the end, once
  {"event":"result","exit":0,"stage":"success","version":"1.2.0","message":"…","error":""}
    exit      the exit code
    stage     success (exit 0) or failed
    version   what was to run; empty if that was not found out
    message   for a person
    error     empty, or "CODE: …" as in a report to device-api
status --json and list --json print one object.

Flags of every command:
  --config FILE   default $OTA_CONFIG, then ` + config.DefaultPath + `
  --root DIR      the version store, instead of the configured one

` + cli.ExitCodes

// command is what the command line asks for.
type command struct {
	name         string
	arg          string // of the commands that take one
	urlFile      string // install reads its arg from there; empty: it does not
	config, root string
	sysroot      string // of doctor
	json, dryRun bool
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
	c, err := parse(args)
	if err == nil && c.name == serveInstall {
		c, stdout, stderr, err = takeRequest(stderr)
	}
	out := &cli.Output{W: stdout}
	cli.Answer(out, "ota-apply", usage, err)
	if err == nil {
		err = c.run(ctx, out, stderr)
	}
	err = out.Err(err)
	if errors.Is(err, context.Canceled) && bootcheck.Advice(err) == "" {
		err = (&bootcheck.Error{Exit: bootcheck.Exit(err), Code: bootcheck.ReportCode(err), Err: err}).
			WithAdvice("asked again, it goes on where it stopped")
	}
	var code exitOf
	if errors.As(err, &code) {
		return bootcheck.ExitCode(code) // it has said itself what was wrong
	}
	return cli.Fail(stderr, "ota-apply", err)
}

func parse(all []string) (*command, error) {
	name, args := cli.Command(all, "config", "root")
	if name == "" {
		return nil, cli.Usagef("ota-apply", "a command is missing")
	}
	c := &command{name: name, idle: idleDefault, args: all}
	fs := cli.Flags("ota-apply " + c.name)
	fs.StringVar(&c.config, "config", "", "")
	fs.StringVar(&c.root, "root", "", "")
	arguments := 1
	switch c.name {
	case "install":
		fs.StringVar(&c.urlFile, "url-file", "", "")
		fs.Func("size", "", func(s string) (err error) {
			if c.install.size, err = strconv.ParseInt(s, 10, 64); err != nil || c.install.size <= 0 {
				return errors.New("want a number of bytes above 0")
			}
			return nil
		})
		fs.Func("sha256", "", func(s string) error {
			if sum, err := hex.DecodeString(s); err != nil || len(sum) != sha256.Size {
				return errors.New("want 64 hex digits")
			}
			c.install.sha256 = strings.ToLower(s)
			return nil
		})
		fs.Func("limit-rate", "", func(s string) error {
			r, err := config.ParseRate(s)
			c.limitRate = &r
			return err
		})
		fs.BoolVar(&c.install.dryRun, "dry-run", false, "")
		fs.BoolVar(&c.install.noActivate, "no-activate", false, "")
		fs.BoolVar(&c.install.atReboot, "at-reboot", false, "")
		fs.BoolVar(&c.install.force, "force", false, "")
		fs.BoolVar(&c.install.allowDowngrade, "allow-downgrade", false, "")
		fs.BoolVar(&c.json, "json", false, "")
	case "activate":
		fs.BoolVar(&c.json, "json", false, "")
		fs.BoolVar(&c.install.atReboot, "at-reboot", false, "")
		fs.BoolVar(&c.install.force, "force", false, "")
		fs.BoolVar(&c.install.allowDowngrade, "allow-downgrade", false, "")
	case "doctor":
		fs.StringVar(&c.sysroot, "sysroot", "", "")
		fallthrough
	case "status", "list":
		arguments = 0
		fs.BoolVar(&c.json, "json", false, "")
	case "cleanup":
		arguments = 0
		fs.BoolVar(&c.dryRun, "dry-run", false, "")
	case "serve-progress":
		arguments = 0
		fs.Func("idle", "", func(s string) (err error) {
			if c.idle, err = time.ParseDuration(s); err != nil || c.idle <= 0 {
				return errors.New(`want a time above 0 such as "30s"`)
			}
			return nil
		})
	case "reset-release", serveInstall:
		arguments = 0
	case "check":
		arguments = 0
		fs.BoolVar(&c.json, "json", false, "")
		fs.BoolVar(&c.request, "request", false, "")
	case "verify", "unblock":
	default:
		if err := cli.Asked(c.name); err != nil {
			return nil, err
		}
		return nil, cli.Usagef("ota-apply", "unknown command %q", c.name)
	}
	least := arguments
	if c.name == "install" {
		least = 0
	}
	rest, err := cli.Parse(fs, args, least, arguments)
	if err != nil {
		return nil, err
	}
	if len(rest) == 1 {
		c.arg = rest[0]
	}
	if c.name == "install" && (c.arg == "") == (c.urlFile == "") {
		return nil, cli.Usagef("ota-apply install", "ota-apply install: it takes an address, a file or -, or --url-file")
	}
	if c.install.noActivate && c.install.atReboot {
		return nil, cli.Usagef("ota-apply install", "--no-activate and --at-reboot exclude each other")
	}
	return c, nil
}

func (c *command) run(ctx context.Context, stdout *cli.Output, stderr io.Writer) (err error) {
	a := &applier{out: stdout, log: cli.Log(stderr)}
	if !c.result() {
		a.out = cli.Log(stdout.W)
	}
	if c.json && !c.install.dryRun && (c.name == "install" || c.name == "activate") {
		a.events = newEvents(stdout.W)
		a.out = &a.events.text
		defer func() { a.events.result(a.version, err) }()
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
			WithAdvice("%s", cmp.Or(bootcheck.Advice(err), "correct the configuration, or name another one with --config"))
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
		if c.arg, err = c.readAddress(ctx); err != nil {
			return err
		}
	}
	switch {
	case c.install.dryRun:
		return a.dryRun(ctx, c.arg, c.install, c.json)
	case c.name == "install", c.name == "activate":
		return c.change(ctx, a, stdout.W, stderr)
	}
	if a.store, err = bootcheck.Open(cfg.Root); err != nil {
		return err
	}
	a.store.Run = cfg.Run
	switch c.name {
	case "list":
		return a.list(c.json)
	case "verify":
		return a.verify(ctx, c.arg)
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
	case "activate", "unblock", "reset-release", "serve-progress":
		return false
	}
	return true
}

// change runs the commands that change what runs: in a unit of their own where
// systemd runs, since they restart the service that called them.
func (c *command) change(ctx context.Context, a *applier, stdout, stderr io.Writer) (err error) {
	if c.unit == nil {
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
			defer conn.Close()
			return a.follow(ctx, conn, c.asRequest(a.cfg), stdout, stderr)
		}
		a.show = newProgressBar(stderr)
	} else {
		c.announceBegin()
		defer func() { c.announceEnd(a.version, err) }()
		a.bundle = c.unit.bundle
		a.show = newProgressBar(c.unit.terminal)
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

// prepare finds out, before an install begins, what nobody has to be told about. It
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
		if c.arg, err = filepath.Abs(path); err != nil { // the unit runs in another folder
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
