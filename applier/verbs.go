package applier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/doctor"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// Program is the command line, for its help and its manual.
func Program() *cli.Program { return new(command).program() }

// parse reads a command line, and runs nothing. If help was asked for, that goes to
// stdout, and the command has nothing to do.
func parse(args []string, stdout, stderr io.Writer) (*command, error) {
	c := &command{idle: idleDefault, args: args}
	err := c.program().Run(context.Background(), args, stdout, cli.Log(stderr))
	return c, err
}

// program is the command line, which fills c.
func (c *command) program() *cli.Program {
	type flags = *flag.FlagSet
	asJSON := func(fs flags) { fs.BoolVar(&c.json, "json", false, "one JSON object") }
	activation := func(fs flags) {
		fs.BoolVar(&c.quiet, "q", false, "print errors only")
		fs.BoolVar(&c.verbose, "v", false, "print also the health checks and what is reused")
		fs.BoolVar(&c.options.atReboot, "at-reboot", false, "activate it at the next boot; until then nothing changes")
		fs.BoolVar(&c.options.force, "force", false, "install a version that is blocked here")
		fs.BoolVar(&c.options.allowDowngrade, "allow-downgrade", false, "accept a release below the lowest accepted one")
		fs.BoolVar(&c.json, "json", false, "one JSON object a line on stdout, for a program")
	}
	install := func(fs flags) {
		activation(fs)
		fs.StringVar(&c.urlFile, "url-file", "", "read the address from `FILE`, one line: no other user sees it")
		fs.StringVar(&c.urlFrom, "url-from", "", "run `CMD` for the address, and again when that expires")
		fs.Func("size", "the bundle has `N` bytes", func(s string) (err error) {
			if c.options.size, err = strconv.ParseInt(s, 10, 64); err != nil || c.options.size <= 0 {
				return errors.New("want a number of bytes above 0")
			}
			return nil
		})
		digest := func(to *string) func(string) error {
			return func(s string) error {
				if sum, err := hex.DecodeString(s); err != nil || len(sum) != sha256.Size {
					return errors.New("want 64 hex digits")
				}
				*to = strings.ToLower(s)
				return nil
			}
		}
		fs.Func("sha256", "the bundle has this SHA-256, `HEX`; reuses nothing", digest(&c.options.sha256))
		fs.Func("manifest", "the version has this `DIGEST`, as ota-bundle inspect says", func(s string) error {
			sum, ok := strings.CutPrefix(s, "sha256:")
			if err := digest(&c.options.manifest)(sum); !ok || err != nil {
				return errors.New("want sha256: and 64 hex digits")
			}
			c.options.manifest = "sha256:" + c.options.manifest
			return nil
		})
		fs.Func("patch", "download the patch at `URL`, not the one beside the bundle", func(s string) error {
			c.options.patch = s
			return checkPatch(s)
		})
		fs.BoolVar(&c.options.noPatch, "no-patch", false, "download from the bundle, also where there is a patch")
		fs.Func("limit-rate", "at most `RATE` bytes a second, as 500k or 2M; 0: no limit", func(s string) error {
			r, err := config.ParseRate(s)
			c.limitRate = &r
			return err
		})
		fs.BoolVar(&c.options.dryRun, "dry-run", false, "show what is downloaded, written and removed")
		fs.BoolVar(&c.options.noActivate, "no-activate", false, "only stage the version")
	}
	idle := func(fs flags) {
		fs.Func("idle", "end after `TIME` without a connection (default 30s)", func(s string) (err error) {
			if c.idle, err = time.ParseDuration(s); err != nil || c.idle <= 0 {
				return errors.New(`want a time above 0 such as "30s"`)
			}
			return nil
		})
	}
	// configured is for a command that needs no store.
	configured := func(do run) run {
		return func(ctx context.Context, args []string) error {
			if err := c.configure(); err != nil {
				return err
			}
			return do(ctx, args)
		}
	}
	// shows is for one whose output is its result.
	shows := func(do run) run {
		return configured(func(ctx context.Context, args []string) error {
			if err := c.openStore(); err != nil {
				return err
			}
			return do(ctx, args)
		})
	}
	// acts is for one that changes the store.
	acts := func(do run) run {
		return shows(func(ctx context.Context, args []string) error {
			defer c.publish()
			c.actOut()
			return do(ctx, args)
		})
	}
	// answers is for one that tells in words what it did: with --json that is an object.
	answers := func(do run) run {
		return func(ctx context.Context, args []string) error {
			if !c.json {
				return do(ctx, args)
			}
			c.answer = new(cli.Answer)
			c.to, c.out = c.out, &c.answer.Text
			err := do(ctx, args)
			return c.answer.GiveLinks(c.to, c.store, err)
		}
	}
	// changes is for one that changes the current version: with --json it tells a program.
	changes := func(do run) run {
		do = configured(do)
		return func(ctx context.Context, args []string) (err error) {
			if c.options.dryRun {
				return do(ctx, args) // which changes nothing
			}
			if c.actOut(); c.json {
				c.events = newEvents(c.stdout.W)
				c.out = &c.events.text
				defer func() { c.events.result(c.version, err) }()
			}
			return do(ctx, args)
		}
	}
	p := &cli.Program{
		Name: "ota-apply", Summary: "installs and activates versions of the application",
		Flags: func(fs flags) {
			fs.StringVar(&c.file, "config", "", "read `FILE`; default $OTA_CONFIG or "+config.DefaultPath)
			fs.StringVar(&c.root, "root", "", "the version store, a `DIR`, instead of the configured one")
		},
		Verbs: []cli.Verb{
			{Name: "install", Args: "[URL|FILE|-]", Help: "download, verify, stage and activate a bundle\nWaits until the version is confirmed or rolled back.\n" +
				"URL: http, https, oci://HOST/NAME:TAG or file. -: read it, one line, from stdin.",
				Example: "ota-apply install --dry-run https://updates.example.com/1.2.0.ota", Flags: install,
				Run: changes(func(ctx context.Context, _ []string) error { return c.installs(ctx) })},
			{Name: "activate", Args: "VERSION", Help: "make a version of the store current\nIt refuses what install refuses.", Flags: activation,
				Run: changes(func(ctx context.Context, _ []string) error { return c.change(ctx) })},
			{Name: "status", Help: "the versions, the trial, the progress of an install", Flags: asJSON,
				Run: shows(func(context.Context, []string) error { return c.status(c.json) })},
			{Name: "list", Help: "the versions in the store",
				Flags: func(fs flags) {
					asJSON(fs)
					fs.BoolVar(&c.sbom, "sbom", false, "what each version is made of, as its sbom.json says; with --json the documents themselves")
				},
				Run: shows(func(context.Context, []string) error { return c.list(c.json, c.sbom) })},
			{Name: "verify", Args: "VERSION|FILE", Help: "check every byte of a version or of a bundle\nFiles that are not in the release are listed; they are not damage.",
				Flags: func(fs flags) {
					asJSON(fs)
					fs.BoolVar(&c.strict, "strict", false, "fail for files that are not in the release")
					fs.BoolVar(&c.prune, "prune", false, "remove files that are not in the release")
				},
				Run: answers(configured(func(ctx context.Context, _ []string) error { return c.verifyAny(ctx) }))},
			{Name: "cleanup", Help: `remove leftovers and the versions beyond "keep"`,
				Flags: func(fs flags) {
					asJSON(fs)
					fs.BoolVar(&c.dryRun, "dry-run", false, "show what would be removed")
				},
				Run: answers(func(ctx context.Context, args []string) error {
					kind := acts
					if c.dryRun {
						kind = shows
					}
					return kind(func(ctx context.Context, _ []string) error { return c.cleanup(ctx, c.dryRun) })(ctx, args)
				})},
			{Name: "unblock", Args: "VERSION", Help: "allow a blocked version again", Flags: asJSON,
				Run: answers(acts(func(ctx context.Context, _ []string) error { return c.unblock(ctx, c.arg) }))},
			{Name: "reset-release", Help: "lower the lowest accepted release\nIt becomes that of the current version, although a higher one was confirmed here.", Flags: asJSON,
				Run: answers(acts(func(ctx context.Context, _ []string) error { return c.resetRelease(ctx) }))},
			{Name: "serve-progress", Help: "answer screens; ota-progress.socket starts it\nGET / is a page, GET /api/v1.0/progress the state of the install.", Flags: idle,
				Run: func(ctx context.Context, _ []string) error {
					cfg, err := config.Find(c.file)
					return serveProgress(ctx, cfg, err, c.idle, c.log)
				}},
			{Name: "follow", Help: "install what the server of [follow] says\nAsks what should run, installs it, reports the outcome. " +
				"The file inhibit in the run directory holds each version that is not forced, and so does systemd-inhibit.",
				Example: "ota-apply follow --once",
				Flags: func(fs flags) {
					fs.BoolVar(&c.once, "once", false, "ask once, do what can be done now, report, and end")
				},
				Run: configured(func(ctx context.Context, _ []string) error {
					c.actOut()
					return c.followServer(ctx, c)
				})},
			{Name: "doctor", Help: "check the setup of the device, with hints\nNothing is changed. Exit code 1: a check fails.",
				Flags: func(fs flags) {
					asJSON(fs)
					fs.StringVar(&c.sysroot, "sysroot", "", "the image of a device, below `DIR`, instead of this device")
				},
				Run: func(ctx context.Context, _ []string) error { // a configuration that is wrong is a finding
					return doctor.Diagnose(ctx, c.out, doctor.Options{Config: c.file, Root: c.root, Sysroot: c.sysroot, JSON: c.json})
				}},
			{Name: serveInstall},
			{Name: "check", Help: "run the health checks once; nothing is changed",
				Flags: func(fs flags) {
					asJSON(fs)
					fs.BoolVar(&c.request, "request", false, "for ota-health@.service: stdin is a socket, with one request")
				},
				Run: func(ctx context.Context, args []string) error {
					if c.request { // it needs neither the store nor the configuration
						return serveCheck(ctx)
					}
					return shows(func(ctx context.Context, _ []string) error {
						return health.ReportCurrent(ctx, c.out, c.json, c.cfg, c.store, checkEnv, c.logf)
					})(ctx, args)
				}},
		},
		Notes: `
With --json, install and activate print at each change of stage and every 5 %
  {"event":"progress","stage":"downloading","progress":40,"message":"…","schema":1}
    stage     downloading, verifying, toInstall, installing or rebooting
    progress  percent of the stage
    message   for people
and at the end, once
  {"event":"result","exit":0,"stage":"success","version":"1.2.0","message":"…","error":"",
   "digest":"sha256:…","release":7,"size":812,"schema":1}
    exit      the exit code
    stage     success (exit 0) or failed
    version   the version to run; empty if it is not known
    message   for people
    error     empty, or "CODE: …" as in a report to device-api
`,
		Exits: cli.ExitCodes,
	}
	for i := range p.Verbs {
		name, do := p.Verbs[i].Name, p.Verbs[i].Run
		p.Verbs[i].Run = func(_ context.Context, args []string) error {
			if c.name, c.do = name, do; len(args) > 0 {
				c.arg = args[0]
			}
			return c.excludes()
		}
	}
	return p
}

// excludes is an error of flags that exclude each other.
func (c *command) excludes() error {
	given := 0
	for _, from := range []string{c.arg, c.urlFile, c.urlFrom} {
		given += min(len(from), 1)
	}
	switch {
	case c.name == "install" && given != 1:
		return cli.Usagef("ota-apply install", "install needs one of: an address, a file or -, --url-file, --url-from")
	case c.quiet && c.verbose:
		return cli.Usagef("ota-apply "+c.name, "-q and -v exclude each other")
	case c.options.noActivate && c.options.atReboot:
		return cli.Usagef("ota-apply install", "--no-activate and --at-reboot exclude each other")
	}
	return nil
}
