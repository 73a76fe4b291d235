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

	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
)

// Program is the command line, for its help and its manual.
func Program() *cli.Program { return new(command).program() }

// parse reads a command line. If help was asked for, that goes to stdout, and the
// command has no name.
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
		fs.BoolVar(&c.install.atReboot, "at-reboot", false, "run it from the next boot on; until then nothing that runs changes")
		fs.BoolVar(&c.install.force, "force", false, "although the version failed on this device")
		fs.BoolVar(&c.install.allowDowngrade, "allow-downgrade", false, "although its release is older than one that was confirmed here")
		fs.BoolVar(&c.json, "json", false, "tell a program: one JSON object a line on stdout, and nothing else there")
	}
	install := func(fs flags) {
		activation(fs)
		fs.StringVar(&c.urlFile, "url-file", "", "read the address from `FILE`, one line: no other user sees it")
		fs.Func("size", "the bundle has `N` bytes", func(s string) (err error) {
			if c.install.size, err = strconv.ParseInt(s, 10, 64); err != nil || c.install.size <= 0 {
				return errors.New("want a number of bytes above 0")
			}
			return nil
		})
		fs.Func("sha256", "the bundle has this SHA-256, `HEX`", func(s string) error {
			if sum, err := hex.DecodeString(s); err != nil || len(sum) != sha256.Size {
				return errors.New("want 64 hex digits")
			}
			c.install.sha256 = strings.ToLower(s)
			return nil
		})
		fs.Func("limit-rate", "download at most `RATE` bytes a second, as 500k or 2M; 0: as fast as it goes", func(s string) error {
			r, err := config.ParseRate(s)
			c.limitRate = &r
			return err
		})
		fs.BoolVar(&c.install.dryRun, "dry-run", false, "only say what would be downloaded, reused, written, removed, restarted")
		fs.BoolVar(&c.install.noActivate, "no-activate", false, "only put the version into the store")
	}
	idle := func(fs flags) {
		fs.Func("idle", "end after `TIME` without a connection (default 30s)", func(s string) (err error) {
			if c.idle, err = time.ParseDuration(s); err != nil || c.idle <= 0 {
				return errors.New(`want a time above 0 such as "30s"`)
			}
			return nil
		})
	}
	p := &cli.Program{
		Name: "ota-apply", Summary: "installs a version of the application and makes it run",
		Flags: func(fs flags) {
			fs.StringVar(&c.config, "config", "", "the configuration, a `FILE`; default $OTA_CONFIG, then "+config.DefaultPath)
			fs.StringVar(&c.root, "root", "", "the version store, a `DIR`, instead of the configured one")
		},
		Verbs: []cli.Verb{
			{Name: "install", Args: "[URL|FILE|-]", Help: "download, check, unpack, switch, restart, wait for the verdict\n" +
				"-: read the address, one line, from stdin.",
				Example: "ota-apply install --dry-run https://updates.example.com/1.2.0.ota", Flags: install},
			{Name: "activate", Args: "VERSION", Help: "switch to a version that is in the store; refuses what install refuses", Flags: activation},
			{Name: "status", Help: "what runs, what is on trial, what an install does now", Flags: asJSON},
			{Name: "list", Help: "the versions in the store", Flags: asJSON},
			{Name: "verify", Args: "VERSION|FILE", Help: "check every byte of a version or of a bundle\nFiles that the version does not list are named; they are no damage.",
				Flags: func(fs flags) {
					fs.BoolVar(&c.strict, "strict", false, "fail for files that the version does not list")
				}},
			{Name: "cleanup", Help: `remove left-overs and the versions beyond "keep"`,
				Flags: func(fs flags) { fs.BoolVar(&c.dryRun, "dry-run", false, "only say what would be removed") }},
			{Name: "unblock", Args: "VERSION", Help: "let a version that failed here be installed again"},
			{Name: "reset-release", Help: "take releases from that of the current version on, though a higher one was confirmed here"},
			{Name: "serve-progress", Help: "for ota-progress.socket: answer GET /api/v1.0/progress with the state of the install", Flags: idle},
			{Name: "doctor", Help: "is the device set up right? What is not, and the cure; nothing is changed\nExit code 1: something fails.",
				Flags: func(fs flags) {
					asJSON(fs)
					fs.StringVar(&c.sysroot, "sysroot", "", "the image of a device, below `DIR`, instead of this device")
				}},
			{Name: serveInstall},
			{Name: "check", Help: "run the health checks once; nothing is changed",
				Flags: func(fs flags) {
					asJSON(fs)
					fs.BoolVar(&c.request, "request", false, "for ota-health@.service: stdin is a socket, with one request")
				}},
		},
		Notes: `
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
`,
		Exits: cli.ExitCodes,
	}
	for i := range p.Verbs {
		name := p.Verbs[i].Name
		p.Verbs[i].Run = func(_ context.Context, args []string) error {
			if c.name = name; len(args) > 0 {
				c.arg = args[0]
			}
			if name == "install" && (c.arg == "") == (c.urlFile == "") {
				return cli.Usagef("ota-apply install", "ota-apply install: it takes an address, a file or -, or --url-file")
			}
			if c.install.noActivate && c.install.atReboot {
				return cli.Usagef("ota-apply install", "--no-activate and --at-reboot exclude each other")
			}
			return nil
		}
	}
	return p
}
