package guardian

import (
	"cmp"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// Main runs the command line args (without the program's name) and returns the
// exit code. Results go to stdout, everything else to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) bootcheck.ExitCode {
	// Services run as other users and go through the folders that Commit makes.
	syscall.Umask(0o022)
	debug.SetMemoryLimit(48 << 20) // the largest manifests take less, as long as what is dead is collected
	out, log := &cli.Output{W: stdout}, cli.Log(stderr)
	err := Program(out, log).Run(ctx, args, out, log)
	return cli.Fail(log, "ota-guardian", out.Err(err))
}

// Program is the command line.
func Program(stdout *cli.Output, stderr io.Writer) *cli.Program {
	var (
		g            = &guardian{out: stdout, log: stderr, ask: health.Ask}
		file, root   string // --config, --root
		asJSON, flag bool   // --json; the flag that a command has besides
		last         string
	)
	type run = func(ctx context.Context, args []string) error
	// configures is for a command that needs no store.
	configures := func(do run) run {
		return func(ctx context.Context, args []string) error {
			if err := g.configure(file, root); err != nil {
				return err
			}
			return do(ctx, args)
		}
	}
	// shows is for one whose output is its result.
	shows := func(do run) run {
		return configures(func(ctx context.Context, args []string) (err error) {
			if g.store, err = bootcheck.Open(g.cfg.Root); err != nil {
				return err
			}
			g.store.Run = g.cfg.Run
			return do(ctx, args)
		})
	}
	// acts is for one that does something: a reader of its output that hangs must not
	// keep its lock.
	acts := func(do run) run {
		return shows(func(ctx context.Context, args []string) error {
			defer g.publish()
			g.out = cli.Log(stdout.W)
			return do(ctx, args)
		})
	}
	return &cli.Program{
		Name: "ota-guardian", Summary: "decides which version a device runs, and never leaves it without one",
		Flags: func(fs *flags) {
			fs.StringVar(&file, "config", "", "the configuration, a `FILE`; default $OTA_CONFIG, then "+config.DefaultPath)
			fs.StringVar(&root, "root", "", "the version store, a `DIR`, instead of the configured one")
		},
		Verbs: []cli.Verb{
			{Group: "Run by systemd", Name: "boot", Help: "before the services: count this boot, fall back if needed",
				Flags: func(fs *flags) {
					fs.StringVar(&g.bootID, "boot-id", "", "the `ID` of this boot; default: the kernel's")
					fs.StringVar(&last, "last-boot", "", "how the boot before ended: `clean|unclean|hard`; default: what the device says")
				},
				Run: func(ctx context.Context, args []string) error {
					switch LastBoot(last) {
					case "", LastClean, LastUnclean, LastHard:
						return acts(func(ctx context.Context, _ []string) error { return g.boot(ctx, LastBoot(last)) })(ctx, args)
					}
					return cli.Usagef("ota-guardian boot", "--last-boot %q is not one of clean, unclean, hard", last)
				}},
			{Name: "confirm", Help: "after them: watch their health, then confirm or fall back",
				Run: acts(func(ctx context.Context, _ []string) error { return g.confirm(ctx) })},
			{Name: "recover", Args: "[UNIT]", Help: "a service crash-loops (default: $MONITOR_UNIT, then the first of services)",
				Run: acts(func(ctx context.Context, args []string) error {
					return g.recover(ctx, cmp.Or(first(args), os.Getenv("MONITOR_UNIT"), first(g.cfg.Services)))
				})},
			{Name: "shutdown", Help: "leave the mark of an orderly shutdown",
				Run: shows(func(ctx context.Context, _ []string) error { return g.shutdown(ctx) })},

			{Group: "For the operator", Name: "status", Help: "what runs, what is on trial, what is blocked and why",
				Flags: func(fs *flags) {
					fs.BoolVar(&asJSON, "json", false, "one JSON object")
					fs.BoolVar(&flag, "os-release", false, "the lines of /run/ota/release")
				},
				Run: shows(func(context.Context, []string) error { return g.status(asJSON, flag) })},
			{Name: "history", Help: "the last 32 changes",
				Flags: func(fs *flags) { fs.BoolVar(&asJSON, "json", false, "one JSON object") },
				Run:   shows(func(context.Context, []string) error { return g.history(asJSON) })},
			{Name: "why", Args: "[VERSION]", Help: "the evidence of the last rollback, or of the last one from VERSION",
				Flags: func(fs *flags) { fs.BoolVar(&asJSON, "json", false, "one JSON object") },
				Run: shows(func(_ context.Context, args []string) error {
					return g.why(strings.TrimPrefix(first(args), "v"), asJSON)
				})},
			{Name: "rollback", Args: "[previous|factory|VERSION]", Help: "run another version now (default: previous), block this one",
				Example: "ota-guardian rollback 1.1.0",
				Run: acts(func(ctx context.Context, args []string) error {
					return g.rollback(ctx, cmp.Or(first(args), bootcheck.LevelPrevious))
				})},
			{Name: "factory create", Args: "[VERSION]", Help: "make a confirmed version (default: current) the last resort",
				Flags: func(fs *flags) {
					fs.BoolVar(&flag, "untried", false, "also one that was not confirmed, but that an install would take")
				},
				Run: acts(func(ctx context.Context, args []string) error {
					return g.factoryCreate(ctx, cmp.Or(first(args), "current"), flag)
				})},
			{Name: "factory verify", Help: "check every byte of it",
				Run: shows(func(ctx context.Context, _ []string) error {
					defer g.publish()
					return g.factoryVerify(ctx)
				})},
			{Name: "factory repair", Help: "check it, and repair it from the files of other versions",
				Run: acts(func(ctx context.Context, _ []string) error { return g.factoryRepair(ctx) })},
			{Name: "verify", Args: "[VERSION...]", Help: "check every byte of all versions (or these)",
				Example: "ota-guardian verify --repair current",
				Flags: func(fs *flags) {
					fs.BoolVar(&flag, "repair", false, "repair them from the files of other versions")
				},
				Run: shows(func(ctx context.Context, args []string) error {
					defer g.publish()
					return g.verify(ctx, args, flag)
				})},
			{Name: "check", Help: "run the health checks once; nothing is changed",
				Flags: func(fs *flags) { fs.BoolVar(&asJSON, "json", false, "one JSON object") },
				Run:   shows(func(ctx context.Context, _ []string) error { return g.check(ctx, asJSON) })},

			{Group: "To set a device up", Name: "adopt", Help: "make the version store, or take over the links of another program\n" +
				"The links are plain ones (current -> v1.0.0); no version is moved or written to.",
				Flags: func(fs *flags) { fs.BoolVar(&flag, "dry-run", false, "only say what would be done") },
				Run: configures(func(ctx context.Context, _ []string) error {
					g.out = cli.Log(stdout.W)
					return adopt(ctx, g, flag)
				})},
			{Name: "config", Args: "[KEY]", Help: "the configuration as it counts: KEY=VALUE lines, or of KEY the values",
				Run: configures(func(_ context.Context, args []string) error { return printConfig(g, first(args)) })},
		},
		Notes: `
For the tools of a fleet, in memory and never older than the last switch or boot:
  /run/ota/release     OTA_VERSION="1.2.0", OTA_RELEASE, OTA_DIGEST, OTA_PHASE, OTA_MODEL,
                       OTA_PREVIOUS, OTA_FACTORY: one a line, as in /etc/os-release
  [metrics] file       figures for Prometheus, where the configuration asks for them
`,
		Exits: cli.ExitCodes,
	}
}

type flags = flag.FlagSet

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// configure reads the configuration. One that is damaged or missing never stops
// the guardian: it says so and uses defaults.
func (g *guardian) configure(file, root string) error {
	cfg, err := config.Find(file)
	g.cfg, g.bootID = cfg, cmp.Or(g.bootID, bootcheck.BootID())
	if err != nil {
		g.logf("config: %v; using defaults", err)
	}
	if root != "" {
		return cfg.SetRoot(root)
	}
	return nil
}

func (g *guardian) status(asJSON, osRelease bool) error {
	if osRelease {
		text, err := g.desk().Release()
		if err == nil {
			_, err = g.out.Write(text)
		}
		return err
	}
	status, err := g.store.Status(filepath.Join(g.cfg.Run, "progress.json"))
	switch {
	case status == nil:
	case asJSON:
		if printErr := printJSON(g.out, status); err == nil {
			err = printErr
		}
	default:
		t := g.cfg.Trial
		status.Print(g.out, bootcheck.BootLimits{Hard: t.Hard, Unclean: t.Unclean, Clean: t.Clean}, time.Now())
	}
	return err
}
