// Package bundlecmd is the command ota-bundle, for the release engineer's
// machine: it makes keys, packs, signs, shows and checks bundles. It needs no
// configuration and no root.
package bundlecmd

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
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
	log.SetOutput(io.Discard) // package net/http prints what servers send that was not asked for
	out := &cli.Output{W: stdout}
	c := &command{stdin: stdin, stdout: out, stderr: cli.Log(stderr)}
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		c.screen = f
	}
	err := c.program().Run(ctx, args, out, c.stderr)
	return c.end(out.Err(err))
}

// end says with which error the command ended, on a line of its own.
func (c *command) end(err error) bootcheck.ExitCode {
	if c.drawn {
		fmt.Fprint(c.screen, clearLine)
	}
	return cli.Fail(c.stderr, "ota-bundle", err)
}

type command struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	screen         *os.File    // stderr, if it is a terminal; else nil
	drawn          bool        // it shows a line of progress
	asJSON         bool        // --json
	answer         *cli.Answer // with --json, of a command that tells what it did; else nil
}

// Program is the command line, for its help and its manual.
func Program() *cli.Program { return new(command).program() }

func (c *command) program() *cli.Program {
	var (
		noPassword, force bool
		keys              list
		o                 creation
		signs             signing
		manifest, sbom    bool
		authFile          string
		d                 doctor.Options
	)
	p := &cli.Program{
		Name: "ota-bundle", Summary: "makes and checks the bundles that ota-apply installs",
		Verbs: []cli.Verb{
			{Name: "keygen", Args: "NAME", Help: "make a key: NAME.key signs, devices trust NAME.pub\n" +
				"Keep NAME.key secret. Asks for a password on a terminal, elsewhere the key is not encrypted.",
				Flags: func(fs *flag.FlagSet) {
					c.withJSON(fs)
					fs.BoolVar(&noPassword, "no-password", false, "do not encrypt the key")
					signs.passwordFlag(fs)
					fs.BoolVar(&force, "force", false, "replace keys that exist")
				},
				Run: c.makes(func(ctx context.Context, args []string) error {
					return c.keygen(ctx, args[0], signs.passwordFile, noPassword, force)
				}, "key_id", "private_key", "public_key")},
			{Name: "create", Help: "pack a directory and sign it\n" +
				"The same directory, flags and key give the same bytes.\nAll problems of DIR are named in one run, and no bundle is made (exit code 4).",
				Example: "ota-bundle create --dir DIR --version V --model M --key NAME.key -o FILE.ota",
				Flags:   func(fs *flag.FlagSet) { c.withJSON(fs); o.flags(fs) },
				Run:     c.makes(func(ctx context.Context, _ []string) error { return c.create(ctx, &o) }, "file", "content", "key_id")},
			{Name: "inspect", Args: "FILE.ota", Help: "show what a bundle says of itself, unchecked\nNeither the signature nor the content is checked: verify does that.",
				Flags: func(fs *flag.FlagSet) {
					c.withJSON(fs)
					fs.BoolVar(&manifest, "manifest", false, "the manifest, the bytes that are signed, and nothing else")
					fs.BoolVar(&sbom, "sbom", false, "the SBOM, and nothing else")
				},
				Run: func(ctx context.Context, args []string) error { return c.inspect(ctx, args[0], manifest, sbom) }},
			{Name: "sign", Args: "FILE", Help: "sign a bundle with a key, or by a program\n" +
				"FILE is a bundle, which gets the signature, or what inspect --manifest printed: the signature goes to FILE.minisig.",
				Example: "ota-bundle sign --with './sign_pkcs11.sh sign' --pub NAME.pub FILE.ota",
				Flags:   func(fs *flag.FlagSet) { c.withJSON(fs); signs.flags(fs) },
				Run:     c.makes(func(ctx context.Context, args []string) error { return c.sign(ctx, args[0], &signs) }, "file", "content", "key_id")},
			{Name: "attach", Args: "FILE.ota SIG", Help: "give a bundle a signature that was made elsewhere",
				Example: "ota-bundle attach --pub NAME.pub FILE.ota manifest.json.minisig",
				Flags:   func(fs *flag.FlagSet) { c.withJSON(fs); signs.pubFlag(fs) },
				Run:     c.makes(func(ctx context.Context, args []string) error { return c.attach(ctx, args[0], args[1], &signs) }, "file", "content", "key_id")},
			{Name: "verify", Args: "FILE.ota", Help: "check every byte and the signature, as a device does",
				Example: "ota-bundle verify --key NAME.pub FILE.ota",
				Flags: func(fs *flag.FlagSet) {
					c.withJSON(fs)
					fs.Var(&keys, "key", "a trusted key, or a directory of them, `PUB`; again for each further one")
				},
				Run: c.answers(func(ctx context.Context, args []string) error { return c.verify(ctx, args[0], keys) }, "key_id")},
			{Name: "push", Args: "FILE.ota ADDRESS", Help: "upload a bundle to an OCI registry\n" +
				"ADDRESS: oci://HOST/NAME:TAG. Prints that and the address by digest, which never means another bundle.",
				Example: "ota-bundle push 1.2.0.ota oci://registry.example.com/printers/x1:1.2.0",
				Flags: func(fs *flag.FlagSet) {
					c.withJSON(fs)
					fs.StringVar(&authFile, "auth", "", "the registry's credentials, a `FILE` as docker login writes it; default $REGISTRY_AUTH_FILE, then those of podman login and docker login")
				},
				Run: c.makes(func(ctx context.Context, args []string) error { return c.push(ctx, args[0], args[1], authFile) }, "file", "content", "key_id", "address", "pinned_address")},
			{Name: "patch", Args: "OLD.ota NEW.ota", Help: "make a patch: what devices with OLD lack of NEW\n" +
				"It is written to NEW.ota.from/SHA256.otp, by the manifest of OLD. Publish that directory beside NEW.ota.",
				Example: "ota-bundle patch --key NAME.key 1.1.0.ota 1.2.0.ota",
				Flags:   func(fs *flag.FlagSet) { c.withJSON(fs); signs.keyFlags(fs) },
				Run: c.makes(func(ctx context.Context, args []string) error { return c.patch(ctx, args[0], args[1], &signs) },
					"file", "content", "key_id", "from", "patch_bytes", "frame_bytes")},
			{Name: "index", Args: "DIR", Help: "list the bundles in DIR as JSON, for a web server\n" +
				"Of each: file, version, release, models, size, sha256. Checks neither signatures nor content.",
				Flags: c.withJSON, // which it is anyway
				Run:   func(ctx context.Context, args []string) error { return c.index(ctx, args[0]) }},
			{Name: "doctor", Help: "check the setup of a device's image, with hints",
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
  1 failed, nothing changed  5 damaged bundle
  2 usage                    7 no space
`,
	}
	p.Verbs = append(p.Verbs, c.channelVerbs()...)
	return p
}

// run is what a command does.
type run = func(ctx context.Context, args []string) error

func (c *command) withJSON(fs *flag.FlagSet) {
	fs.BoolVar(&c.asJSON, "json", false, "one JSON object")
}

// answers is for a command that tells in words what it did: with --json that is an
// object, with keys of the command's own, null until it sets them.
func (c *command) answers(do run, keys ...string) run {
	return func(ctx context.Context, args []string) error {
		if !c.asJSON {
			return do(ctx, args)
		}
		to := c.stdout
		c.answer = new(cli.Answer)
		c.stdout = &c.answer.Text
		for _, key := range keys {
			c.answer.Set(key, nil)
		}
		return c.answer.Give(to, do(ctx, args))
	}
}

// makes is for one of these whose result is a file: a reader of its output that is gone
// is no error.
func (c *command) makes(do run, keys ...string) run {
	return func(ctx context.Context, args []string) error {
		c.stdout = cli.Log(c.stdout.(*cli.Output).W)
		return c.answers(do, keys...)(ctx, args)
	}
}

// list is a flag that may stand several times.
type list []string

func (l *list) String() string { return strings.Join(*l, ", ") }

func (l *list) Set(s string) error {
	if slices.Contains(*l, s) {
		return fmt.Errorf("%q is given twice", s)
	}
	*l = append(*l, s)
	return nil
}
