package guardian

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

const usage = `ota-guardian decides which version a device runs, and never leaves it without one.

Run by systemd:
  ota-guardian boot [--boot-id ID] [--last-boot clean|unclean|hard]
                                      before the services: count this boot, fall back if needed
  ota-guardian confirm                after them: watch their health, then confirm or fall back
  ota-guardian recover [UNIT]         a service crash-loops (default: $MONITOR_UNIT, then the first of services)
  ota-guardian shutdown               leave the mark of an orderly shutdown

For a person:
  ota-guardian status [--json | --os-release]
                                      what runs, what is on trial, what is blocked and why;
                                      --os-release: the lines of the file below
  ota-guardian history [--json]       the last 32 changes
  ota-guardian why [--json] [VERSION]
                                      the evidence of the last rollback, or of the last one from VERSION
  ota-guardian rollback [previous|factory|VERSION]
                                      run another version now (default: previous), block this one
  ota-guardian factory create [--untried] [VERSION]
                                      make a confirmed version (default: current) the last resort;
                                      with --untried, one that was not, but that an install would take
  ota-guardian factory verify         check every byte of it
  ota-guardian factory repair         check it, and put right what other versions have the files for
  ota-guardian verify [--repair] [VERSION...]
                                      check every byte of all versions (or these), and put right
                                      what other versions have the files for
  ota-guardian check [--json]         run the health checks once; nothing is changed
  ota-guardian --version              the version of this program

To set a device up:
  ota-guardian adopt [--dry-run]      make the version store, or take over the plain links of another
                                      program (current -> v1.0.0); no version is moved or written to
  ota-guardian config [KEY]           the configuration as it counts: KEY=VALUE lines, or of KEY the values

Flags of every command:
  --config FILE   default $OTA_CONFIG, then ` + config.DefaultPath + `
  --root DIR      the version store, instead of the configured one

For the tools of a fleet, in memory and never older than the last switch or boot:
  /run/ota/release                    OTA_VERSION="1.2.0", OTA_RELEASE, OTA_DIGEST, OTA_PHASE, OTA_MODEL,
                                      OTA_PREVIOUS, OTA_FACTORY: one a line, as in /etc/os-release
  [metrics] file                      figures for Prometheus, where the configuration asks for them

` + cli.ExitCodes

// options are the flags of all commands; each command takes its own of them.
type options struct {
	config, root string
	bootID       string
	last         string
	json         bool
	repair       bool
	osRelease    bool
	dryRun       bool
	untried      bool
}

// Main runs the command line args (without the program's name) and returns the
// exit code. Results go to stdout, everything else to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) bootcheck.ExitCode {
	// Services run as other users and go through the folders that Commit makes.
	syscall.Umask(0o022)
	debug.SetMemoryLimit(48 << 20) // the largest manifests take less, as long as what is dead is collected
	out, log := &cli.Output{W: stdout}, cli.Log(stderr)
	err := dispatch(ctx, args, out, log)
	cli.Answer(out, "ota-guardian", usage, err)
	return cli.Fail(log, "ota-guardian", out.Err(err))
}

func dispatch(ctx context.Context, args []string, stdout *cli.Output, stderr io.Writer) error {
	name, rest := cli.Command(args, "config", "root")
	if name == "" {
		fmt.Fprint(stderr, usage)
		return cli.Usagef("ota-guardian", "a command is missing")
	}
	var o options
	if name == "factory" {
		if i := slices.IndexFunc(rest, func(s string) bool { return s == "create" || s == "verify" || s == "repair" }); i >= 0 {
			name, rest = "factory "+rest[i], slices.Delete(slices.Clone(rest), i, i+1)
		}
	}
	fs := cli.Flags("ota-guardian " + name)
	fs.StringVar(&o.config, "config", "", "")
	fs.StringVar(&o.root, "root", "", "")
	max := 0
	switch name {
	case "boot":
		fs.StringVar(&o.bootID, "boot-id", "", "")
		fs.StringVar(&o.last, "last-boot", "", "")
	case "status":
		fs.BoolVar(&o.json, "json", false, "")
		fs.BoolVar(&o.osRelease, "os-release", false, "")
	case "history", "check":
		fs.BoolVar(&o.json, "json", false, "")
	case "why":
		fs.BoolVar(&o.json, "json", false, "")
		max = 1
	case "adopt":
		fs.BoolVar(&o.dryRun, "dry-run", false, "")
	case "factory create":
		fs.BoolVar(&o.untried, "untried", false, "")
		max = 1
	case "recover", "rollback", "config":
		max = 1
	case "verify":
		fs.BoolVar(&o.repair, "repair", false, "")
		max = -1
	case "confirm", "shutdown", "factory verify", "factory repair":
	case "factory":
		return cli.Usagef("ota-guardian", "factory: create, verify or repair is missing")
	default:
		if err := cli.Asked(name); err != nil {
			return err
		}
		return cli.Usagef("ota-guardian", "unknown command %q", name)
	}
	rest, err := cli.Parse(fs, rest, 0, max)
	if err != nil {
		return err
	}
	arg := ""
	if len(rest) > 0 {
		arg = rest[0]
	}
	switch LastBoot(o.last) {
	case "", LastClean, LastUnclean, LastHard:
	default:
		return cli.Usagef("ota-guardian", "--last-boot %q is not one of clean, unclean, hard", o.last)
	}
	g, err := o.configured(stdout, stderr)
	if err != nil {
		return err
	}
	switch name {
	case "boot", "confirm", "recover", "shutdown", "rollback", "factory create", "factory repair", "adopt":
		g.out = cli.Log(stdout.W) // what they do is the result, and a reader that hangs must not keep the lock
	}
	switch name { // these need no store
	case "adopt":
		return adopt(ctx, g, o.dryRun)
	case "config":
		return printConfig(g, arg)
	}
	if g.store, err = bootcheck.Open(g.cfg.Root); err != nil {
		return err
	}
	g.store.Run = g.cfg.Run
	switch name {
	case "boot", "confirm", "recover", "rollback", "factory create", "factory verify", "factory repair", "verify":
		defer g.publish()
	}
	switch name {
	case "boot":
		return g.boot(ctx, LastBoot(o.last))
	case "confirm":
		return g.confirm(ctx)
	case "recover":
		return g.recover(ctx, cmp.Or(arg, os.Getenv("MONITOR_UNIT"), firstOf(g.cfg.Services)))
	case "shutdown":
		return g.shutdown(ctx)
	case "history":
		return g.history(o.json)
	case "why":
		return g.why(strings.TrimPrefix(arg, "v"), o.json)
	case "rollback":
		return g.rollback(ctx, cmp.Or(arg, "previous"))
	case "factory create":
		return g.factoryCreate(ctx, cmp.Or(arg, "current"), o.untried)
	case "factory verify":
		return g.factoryVerify(ctx)
	case "factory repair":
		return g.factoryRepair(ctx)
	case "verify":
		return g.verify(ctx, rest, o.repair)
	case "check":
		return g.check(ctx, o.json)
	}
	if o.osRelease {
		text, err := g.desk().Release()
		if err == nil {
			_, err = stdout.Write(text)
		}
		return err
	}
	status, err := g.store.Status(filepath.Join(g.cfg.Run, "progress.json"))
	switch {
	case status == nil:
	case o.json:
		if printErr := printJSON(stdout, status); err == nil {
			err = printErr
		}
	default:
		t := g.cfg.Trial
		status.Print(stdout, bootcheck.BootLimits{Hard: t.Hard, Unclean: t.Unclean, Clean: t.Clean}, time.Now())
	}
	return err
}

// configured reads the configuration. One that is damaged or missing never stops
// the guardian: it says so and uses defaults.
func (o *options) configured(stdout, stderr io.Writer) (*guardian, error) {
	cfg, err := config.Find(o.config)
	g := &guardian{cfg: cfg, bootID: cmp.Or(o.bootID, bootcheck.BootID()), out: stdout, log: stderr, ask: health.Ask}
	if err != nil {
		g.logf("config: %v; using defaults", err)
	}
	if o.root != "" {
		if err := cfg.SetRoot(o.root); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func firstOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}
