// Package bundlecmd is the command ota-bundle, for the release engineer's
// machine: it makes keys, packs, signs, shows and checks bundles. It needs no
// configuration and no root.
package bundlecmd

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/tope-ota/ota/applier/doctor"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
)

// Main runs the command line args (without the program's name) and returns the
// exit code. Results go to stdout, everything else to stderr; stdin is asked for
// a password if it is a terminal.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) bootcheck.ExitCode {
	// Private keys and passwords must not reach a core dump, nor a debugger of the
	// same user. Where that cannot be had, it is still a program that signs.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	out := &cli.Output{W: stdout}
	c := &command{stdin: stdin, stdout: out, stderr: cli.Log(stderr)}
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		c.screen = f
	}
	err := c.program().Run(ctx, args, out, c.stderr)
	return cli.Fail(c.stderr, "ota-bundle", out.Err(err))
}

type command struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	screen         *os.File // stderr, if it is a terminal; else nil
}

// makesFile is for a command whose result is a file: a reader of its output that is
// gone is no error.
func (c *command) makesFile() { c.stdout = cli.Log(c.stdout.(*cli.Output).W) }

// Program is the command line, for its help and its manual.
func Program() *cli.Program { return new(command).program() }

func (c *command) program() *cli.Program {
	var (
		noPassword, force, asJSON bool
		passwordFile              string
		keys                      list
		o                         creation
		d                         doctor.Options
	)
	return &cli.Program{
		Name: "ota-bundle", Summary: "makes and checks the bundles that ota-apply installs",
		Verbs: []cli.Verb{
			{Name: "keygen", Args: "NAME", Help: "write NAME.key, which signs, and NAME.pub, which devices trust\n" +
				"Keep NAME.key secret. Asks for a password on a terminal, elsewhere the key is not encrypted.",
				Flags: func(fs *flag.FlagSet) {
					fs.BoolVar(&noPassword, "no-password", false, "do not encrypt the key")
					fs.StringVar(&passwordFile, "password-file", "", "the first line of `F` is the key's password")
					fs.BoolVar(&force, "force", false, "replace keys that exist")
				},
				Run: func(ctx context.Context, args []string) error {
					c.makesFile()
					return c.keygen(ctx, args[0], passwordFile, noPassword, force)
				}},
			{Name: "create", Help: "pack a directory and sign it\n" +
				"The same directory, flags and key give the same bytes. All that is wrong with DIR is told in one run,\nand the bundle is not made (exit code 4).",
				Example: "ota-bundle create --dir DIR --version V --model M --key NAME.key -o FILE.ota",
				Flags:   o.flags,
				Run: func(ctx context.Context, _ []string) error {
					c.makesFile()
					return c.create(ctx, &o)
				}},
			{Name: "inspect", Args: "FILE.ota", Help: "show what a bundle says of itself; checks neither signature nor content",
				Flags: func(fs *flag.FlagSet) { fs.BoolVar(&asJSON, "json", false, "one JSON object") },
				Run:   func(_ context.Context, args []string) error { return c.inspect(args[0], asJSON) }},
			{Name: "verify", Args: "FILE.ota", Help: "check the signature, every frame and every file, as a device does",
				Example: "ota-bundle verify --key NAME.pub FILE.ota",
				Flags: func(fs *flag.FlagSet) {
					fs.Var(&keys, "key", "a trusted key, or a folder of them, `PUB`; again for each further one")
				},
				Run: func(ctx context.Context, args []string) error { return c.verify(ctx, args[0], keys) }},
			{Name: "index", Args: "DIR", Help: "print a JSON object that lists the bundles in DIR, for a web server\n" +
				"Of each: file, version, release, models, size, sha256. Checks neither signatures nor content.",
				Run: func(ctx context.Context, args []string) error { return c.index(ctx, args[0]) }},
			{Name: "doctor", Help: "is the image of a device set up right? As ota-apply doctor on a device",
				Flags: func(fs *flag.FlagSet) {
					fs.BoolVar(&d.JSON, "json", false, "one JSON object")
					fs.StringVar(&d.Config, "config", "", "the configuration, a `FILE`")
					fs.StringVar(&d.Root, "root", "", "the version store, a `DIR`")
					fs.StringVar(&d.Sysroot, "sysroot", "", "the image of a device below `DIR`, instead of this device")
				},
				Run: func(ctx context.Context, _ []string) error { return doctor.Diagnose(ctx, c.stdout, d) }},
		},
		Exits: `Exit codes:
  0 done                     4 refused (signature, key, what cannot be packed)
  1 failed, nothing changed  5 damaged or hostile bundle
  2 usage                    7 no space
`,
	}
}

// list is a flag that may stand several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ", ") }

func (l *list) Set(s string) error {
	if slices.Contains(*l, s) {
		return fmt.Errorf("%q is there twice", s)
	}
	*l = append(*l, s)
	return nil
}
