// Package bundlecmd is the command ota-bundle, for the release engineer's
// machine: it makes keys, packs, signs, shows and checks bundles. It needs no
// configuration and no root.
package bundlecmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
)

const usage = `ota-bundle makes and checks the bundles that ota-apply installs.

  ota-bundle keygen NAME [--no-password | --password-file F] [--force]
                  write NAME.key, which signs (keep it secret), and NAME.pub, which devices trust;
                  asks for a password on a terminal, elsewhere the key is not encrypted
                  --force           replace keys that exist
  ota-bundle create --dir DIR --version V --model M --key NAME.key -o FILE.ota [flags]
                  pack DIR and sign it; the same DIR, flags and key give the same bytes. All that is wrong with
                  DIR is told in one run, and the bundle is not made (exit code 4)
                  --model M         the device it is for; again for each further one
                  --release N       counts up with each release: devices refuse a lower one; 0 is not counted
                                    (default auto: one more than the highest of the bundles beside FILE.ota)
                  --exclude GLOB    leave out what has that path below DIR, or, without a slash, that name;
                                    again for each further one. The file .otaignore in DIR has one a line
                  --allow GLOB      pack a private key, what everybody can write, or, without these, what has
                                    setuid, setgid, sticky, capabilities or ACLs; again for each further one
                  --allow-link GLOB pack links with that target although they are absolute or leave DIR: the
                                    device must have it; again for each further one
                  --check           only tell what is wrong with DIR; needs no other flag
                  --overwrite       replace FILE.ota
                  --not-after DATE  devices refuse it later: 2027-12-31 (to the end of that day, UTC)
                                    or 2027-12-31T12:00:00Z
                  --service U       a systemd service that starts from it; again for each further one
                                    (default: those of the device's configuration)
                  --revoke KEY      devices shall not believe this key any more: its ID (16 hex digits) or its
                                    NAME.pub; again for each further one. Never the key that signs
                  --password-file F the first line of F is the key's password
                  --level L         fastest, default, better or best (default best)
  ota-bundle inspect FILE.ota [--json]
                  show what a bundle says of itself; checks neither signature nor content
  ota-bundle verify --key NAME.pub FILE.ota
                  check the signature, every frame and every file, as a device does; writes nothing
                  --key PUB         a trusted key, or a folder of them; again for each further one
  ota-bundle index DIR
                  print a JSON object that lists the bundles in DIR, for a web server that has them:
                  file, version, release, models, size, sha256; checks neither signatures nor content

For the image of a device, as ota-apply doctor on a device:
  ota-bundle doctor [--json] [--config F] [--root DIR] [--sysroot DIR]
                  is it set up right? What is not, and the cure; nothing is changed. Exit code 1: something fails
                  --sysroot DIR     the image of a device, below DIR, instead of this device
  ota-bundle --version
                  the version of this program

Flags may stand before or after the other arguments.

Exit codes:
  0 done · 1 failed, nothing changed · 2 usage · 4 refused (signature, key, what cannot be packed)
  5 damaged or hostile bundle · 7 no space
`

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
	if len(args) > 0 && (args[0] == "keygen" || args[0] == "create") {
		c.stdout = cli.Log(stdout) // their result is a file
	}
	err := c.dispatch(ctx, args)
	cli.Answer(out, "ota-bundle", usage, err)
	return cli.Fail(c.stderr, "ota-bundle", out.Err(err))
}

type command struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	screen         *os.File // stderr, if it is a terminal; else nil
}

func (c *command) dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(cli.Log(c.stderr), usage)
		return cli.Usagef("ota-bundle", "a command is missing")
	}
	switch name, rest := args[0], args[1:]; name {
	case "keygen":
		return c.keygen(ctx, rest)
	case "create":
		return c.create(ctx, rest)
	case "inspect":
		return c.inspect(rest)
	case "verify":
		return c.verify(ctx, rest)
	case "index":
		return c.index(ctx, rest)
	case "doctor":
		return c.doctor(ctx, rest)
	default:
		if err := cli.Asked(name); err != nil {
			return err
		}
		return cli.Usagef("ota-bundle", "unknown command %q", name)
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
