package bundlecmd

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// signing is what the flags say of a key and of a signature.
type signing struct {
	keyFile, passwordFile, with, pub string
	force, file                      bool
}

func (o *signing) keyFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.keyFile, "key", "", "the private key that signs, `NAME.key`")
	o.passwordFlag(fs)
}

func (o *signing) passwordFlag(fs *flag.FlagSet) {
	fs.StringVar(&o.passwordFile, "password-file", "", "the first line of `F` is the key's password")
}

func (o *signing) flags(fs *flag.FlagSet) {
	o.keyFlags(fs)
	fs.StringVar(&o.with, "with", "", "`COMMAND` signs: a shell runs it, it reads the manifest from stdin and prints the signature, as minisign writes it")
	fs.BoolVar(&o.file, "file", false, "FILE is neither a bundle nor a manifest: a list of checksums, say")
	fs.BoolVar(&o.force, "force", false, "replace FILE.minisig")
	o.pubFlag(fs)
}

func (o *signing) pubFlag(fs *flag.FlagSet) {
	fs.StringVar(&o.pub, "pub", "", "the signature must be good for this public key, `NAME.pub`; without it nothing checks the signature here")
}

// sign signs a bundle in place, or writes the signature of a manifest beside it.
func (c *command) sign(ctx context.Context, name string, o *signing) error {
	raw, isBundle, err := readManifest(name, o.file)
	if err != nil {
		return err
	}
	what, comment := "", filepath.Base(name)
	c.answer.Set("content", nil)
	if !o.file {
		m, err := bootcheck.ParseManifest(raw)
		if err != nil {
			return err
		}
		c.answer.Set("content", m.Info(bootcheck.Digest(raw)))
		what, comment = "version "+m.Version+", "+contentText(m)+", ", bundle.Comment(m.Version)
	}
	sig, keys, err := c.signature(ctx, raw, comment, o)
	if err != nil {
		return err
	}
	if isBundle {
		return c.attached(ctx, name, sig, keys)
	}
	out := name + ".minisig"
	if err := save("the signature", o.force, "replace it: --force", made{out, sig, 0o644}); err != nil {
		return err
	}
	c.answer.Set("file", out)
	c.answer.Set("key_id", trust.SignedBy(sig))
	fmt.Fprintf(c.stdout, "%s: %ssigned by %s\n", out, what, trust.SignedBy(sig))
	return nil
}

// signature signs raw, as comment says, with the key or the program that o names. keys are
// those for which the signature is good; nil: none is known.
func (c *command) signature(ctx context.Context, raw []byte, comment string, o *signing) (sig []byte, keys *trust.Keys, err error) {
	if (o.keyFile == "") == (o.with == "") {
		return nil, nil, cli.Usagef("ota-bundle sign", "a signature needs --key or --with, one of them")
	}
	if keys, err = o.keys(); err != nil {
		return nil, nil, err
	}
	if o.with != "" {
		sig, err = c.signWith(ctx, o.with, raw)
	} else {
		var key minisign.PrivateKey
		if key, err = c.signingKey(ctx, o); err == nil {
			sig = bundle.Sign(key, raw, comment)
		}
		if keys == nil && err == nil {
			keys = trust.These(key.Public().(minisign.PublicKey))
		}
	}
	if err == nil && keys != nil {
		_, err = keys.Verify(raw, sig)
	}
	return sig, keys, err
}

// attach gives the bundle in the file name the signature in the file sigFile.
func (c *command) attach(ctx context.Context, name, sigFile string, o *signing) error {
	sig, err := read("the signature", sigFile, maxSmall)
	if err != nil {
		return err
	}
	keys, err := o.keys()
	if err != nil {
		return err
	}
	return c.attached(ctx, name, sig, keys)
}

func (c *command) attached(ctx context.Context, name string, sig []byte, keys *trust.Keys) error {
	m, err := bundle.Attach(ctx, name, sig, keys)
	if err != nil {
		return err
	}
	if keys == nil {
		c.say("warning: the signature was not checked: ota-bundle verify --key NAME.pub " + name)
	}
	if err := c.answerBundle(name); err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s: version %s, %s, signed by %s\n", name, m.Version, contentText(m), trust.SignedBy(sig))
	return nil
}

// keys are those that a signature must be good for; nil: none was named.
func (o *signing) keys() (*trust.Keys, error) {
	if o.pub == "" {
		return nil, nil
	}
	key, err := trust.ReadKey(o.pub)
	if err != nil {
		return nil, fmt.Errorf("cannot read the public key: %w", err)
	}
	return trust.These(key), nil
}

// signWith runs command, which reads raw and prints its signature.
func (c *command) signWith(ctx context.Context, command string, raw []byte) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	var sig printed
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &sig, c.stderr
	cmd.WaitDelay = 5 * time.Second // its children may hold stdout and stderr
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended, and a program that it started continues: an agent, perhaps
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(sig) > bootcheck.MaxSignature:
		return nil, fmt.Errorf("cannot sign: %q printed more than %d bytes: a signature is shorter", command, bootcheck.MaxSignature)
	case err != nil:
		return nil, fmt.Errorf("cannot sign: %q: %w", command, err)
	case len(sig) == 0:
		return nil, fmt.Errorf("cannot sign: %q printed no signature", command)
	case trust.SignedBy(sig) == "":
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "cannot sign: what %q printed is not a signature of minisign", command)
	}
	return sig, nil
}

// printed is what a program printed; one that prints more than a signature is ended.
type printed []byte

func (b *printed) Write(p []byte) (int, error) {
	if *b = append(*b, p...); len(*b) > bootcheck.MaxSignature {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}

// readManifest reads the manifest of the bundle in the file name, or the manifest that
// the file is; with plain, of any file.
func readManifest(name string, plain bool) (raw []byte, isBundle bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false, fmt.Errorf("cannot sign: %w", err)
	}
	defer f.Close()
	first := make([]byte, 1)
	if _, err := f.ReadAt(first, 0); plain || err == nil && first[0] == '{' {
		raw, err = readAll(f, bootcheck.MaxManifest)
		return raw, false, err
	}
	b, err := open(name)
	if err != nil {
		return nil, true, err
	}
	return b.RawManifest, true, b.Close()
}
