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

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// Main runs the command line args (without the program's name) and returns the
// exit code. Results go to stdout, everything else to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) bootcheck.ExitCode {
	// Services run as other users and go through the directories that Commit makes.
	syscall.Umask(0o022)
	debug.SetMemoryLimit(48 << 20) // the largest manifests take less, as long as what is dead is collected
	out, log := &cli.Output{W: stdout}, cli.Log(stderr)
	err := Program(out, log).Run(ctx, args, out, log)
	return cli.Fail(log, "ota-guardian", out.Err(err))
}

// A command is one run of the program: it tells an operator what the guardian does.
type command struct {
	*guardian
	out    io.Writer
	answer *cli.Answer // with --json, of a command that acts; else nil
	to     io.Writer   // that goes there
	cfgErr string      // what is wrong with the configuration; empty: nothing
}

// Program is the command line.
func Program(stdout *cli.Output, stderr io.Writer) *cli.Program {
	var (
		c            = &command{guardian: &guardian{log: stderr, ask: health.Ask}, out: stdout}
		file, root   string // --config, --root
		asJSON, flag bool   // --json; the flag that a command has besides
		last         string
		look         verifyOptions
	)
	type run = func(ctx context.Context, args []string) error
	// configures is for a command that needs no store.
	configures := func(do run) run {
		return func(ctx context.Context, args []string) error {
			if err := c.configure(file, root); err != nil {
				return err
			}
			return do(ctx, args)
		}
	}
	// shows is for one whose output is its result.
	shows := func(do run) run {
		return configures(func(ctx context.Context, args []string) (err error) {
			if c.store, err = bootcheck.Open(c.cfg.Root); err != nil {
				return err
			}
			c.store.Run = c.cfg.Run
			return do(ctx, args)
		})
	}
	// acts is for one that does something: a reader of its output that hangs must not
	// keep its lock.
	acts := func(do run) run {
		return shows(func(ctx context.Context, args []string) error {
			defer c.publish()
			c.printTo(cli.Log(stdout.W))
			return do(ctx, args)
		})
	}
	// answers is for one that tells in words what it did: with --json that is an object.
	answers := func(do run) run {
		return func(ctx context.Context, args []string) error {
			if !asJSON {
				return do(ctx, args)
			}
			c.answer = new(cli.Answer)
			c.printTo(stdout)
			err := do(ctx, args)
			return c.answer.GiveLinks(c.to, c.store, err)
		}
	}
	withJSON := func(fs *flags) { fs.BoolVar(&asJSON, "json", false, "one JSON object") }
	return &cli.Program{
		Name: "ota-guardian", Summary: "decides which version a device runs, and never leaves it without one",
		Flags: func(fs *flags) {
			fs.StringVar(&file, "config", "", "read `FILE`; default $OTA_CONFIG or "+config.DefaultPath)
			fs.StringVar(&root, "root", "", "the version store, a `DIR`, instead of the configured one")
		},
		Verbs: []cli.Verb{
			{Group: "Run by systemd", Name: "boot", Help: "count this boot, before the services; maybe roll back",
				Flags: func(fs *flags) {
					fs.StringVar(&c.bootID, "boot-id", "", "the `ID` of this boot; default: the kernel's")
					fs.StringVar(&last, "last-boot", "", "how the boot before ended: `clean|unclean|hard`; default: what the device says")
				},
				Run: func(ctx context.Context, args []string) error {
					switch LastBoot(last) {
					case "", LastClean, LastUnclean, LastHard:
						return acts(func(ctx context.Context, _ []string) error { return c.boot(ctx, LastBoot(last)) })(ctx, args)
					}
					return cli.Usagef("ota-guardian boot", "--last-boot %q is not one of clean, unclean, hard", last)
				}},
			{Name: "confirm", Help: "watch the services, then confirm or roll back",
				Run: acts(func(ctx context.Context, _ []string) error { return c.confirm(ctx) })},
			{Name: "recover", Args: "[UNIT]", Help: "roll back: a service crashed too often\nWithout UNIT it is $MONITOR_UNIT, then the first of services.",
				Run: acts(func(ctx context.Context, args []string) error {
					return c.recover(ctx, cmp.Or(first(args), os.Getenv("MONITOR_UNIT"), first(c.cfg.Services)))
				})},
			{Name: "shutdown", Help: "leave the mark of an orderly shutdown",
				Run: shows(func(ctx context.Context, _ []string) error { return c.shutdown(ctx) })},

			{Group: "For the operator", Name: "status", Help: "the versions, the trial, the last rollback",
				Flags: func(fs *flags) {
					withJSON(fs)
					fs.BoolVar(&flag, "os-release", false, "the lines of /run/ota/release")
				},
				Run: shows(func(context.Context, []string) error { return c.status(asJSON, flag) })},
			{Name: "history", Help: "the last 32 changes",
				Flags: withJSON,
				Run:   shows(func(context.Context, []string) error { return c.history(asJSON) })},
			{Name: "why", Args: "[VERSION]", Help: "the evidence of the last rollback (from VERSION)",
				Flags: withJSON,
				Run: shows(func(_ context.Context, args []string) error {
					return c.why(strings.TrimPrefix(first(args), "v"), asJSON)
				})},
			{Name: "rollback", Args: "[previous|factory|VERSION]", Help: "roll back now; this version is blocked\nWithout an argument to the previous version. VERSION is one that was confirmed here.",
				Example: "ota-guardian rollback 1.1.0",
				Flags:   withJSON,
				Run: answers(acts(func(ctx context.Context, args []string) error {
					return c.rollback(ctx, cmp.Or(first(args), bootcheck.LevelPrevious))
				}))},
			{Name: "factory create", Args: "[VERSION]", Help: "make a confirmed version the factory version\nWithout VERSION the current one.",
				Flags: func(fs *flags) {
					withJSON(fs)
					fs.BoolVar(&flag, "untried", false, "also an unconfirmed one, if an install would accept it")
				},
				Run: answers(acts(func(ctx context.Context, args []string) error {
					return c.factoryCreate(ctx, cmp.Or(first(args), "current"), flag)
				}))},
			{Name: "factory verify", Help: "verify every byte of the factory version",
				Flags: withJSON,
				Run: answers(shows(func(ctx context.Context, _ []string) error {
					defer c.publish()
					return c.factoryVerify(ctx)
				}))},
			{Name: "factory repair", Help: "repair it from the files of other versions",
				Flags: withJSON,
				Run:   answers(acts(func(ctx context.Context, _ []string) error { return c.factoryRepair(ctx) }))},
			{Name: "verify", Args: "[VERSION...]", Help: "verify every byte of all versions, or of these",
				Example: "ota-guardian verify --repair current",
				Flags: func(fs *flags) {
					withJSON(fs)
					fs.BoolVar(&look.repair, "repair", false, "repair them from the files of other versions")
					fs.BoolVar(&look.prune, "prune", false, "remove files that are not in the release")
					fs.BoolVar(&look.strict, "strict", false, "fail for files that are not in the release")
				},
				Run: answers(shows(func(ctx context.Context, args []string) error {
					defer c.publish()
					return c.verify(ctx, args, look)
				}))},
			{Name: "check", Help: "run the health checks once; nothing is changed",
				Flags: withJSON,
				Run: shows(func(ctx context.Context, _ []string) error {
					return health.ReportCurrent(ctx, c.out, asJSON, c.cfg, c.store, c.env, c.logf)
				})},

			{Group: "To set a device up", Name: "adopt", Help: "make the store, or adopt another program's links\n" +
				"The links are plain ones (current -> v1.0.0). A version gets a manifest and nothing else.",
				Flags: func(fs *flags) {
					withJSON(fs)
					fs.BoolVar(&flag, "dry-run", false, "show what would be done")
				},
				Run: answers(configures(func(ctx context.Context, _ []string) error {
					c.printTo(cli.Log(stdout.W))
					return c.adoptStore(ctx, flag)
				}))},
			{Name: "config", Args: "[KEY]", Help: "each key, its value, and where that comes from\nOf KEY only its values.",
				Flags: withJSON,
				Run:   configures(func(_ context.Context, args []string) error { return c.printConfig(first(args), asJSON) })},
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
func (c *command) configure(file, root string) error {
	cfg, err := config.Find(file)
	c.cfg, c.bootID = cfg, cmp.Or(c.bootID, bootcheck.BootID())
	if err != nil {
		c.cfgErr = bootcheck.Line(err)
		c.logf("config: %v; using defaults", err)
	}
	if root != "" {
		return cfg.SetRoot(root)
	}
	return nil
}

// printTo makes w what g tells the operator on, or, with --json, where the answer goes.
func (c *command) printTo(w io.Writer) {
	if c.out = w; c.answer != nil {
		c.to, c.out = w, &c.answer.Text
	}
}

func (c *command) status(asJSON, osRelease bool) error {
	if osRelease {
		text, err := c.publisher().Release()
		if err == nil {
			_, err = c.out.Write(text)
		}
		return err
	}
	return c.store.ShowStatus(c.out, filepath.Join(c.cfg.Run, "progress.json"), asJSON, c.cfg.Trial.BootLimits)
}
