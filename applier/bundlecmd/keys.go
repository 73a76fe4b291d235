package bundlecmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/term"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

func (c *command) keygen(ctx context.Context, name, passwordFile string, noPassword, force bool) (err error) {
	if noPassword && passwordFile != "" {
		return cli.Usagef("ota-bundle keygen", "--no-password and --password-file contradict each other")
	}
	if strings.HasSuffix(name, "/") {
		return cli.Usagef("ota-bundle keygen", "NAME %q is not the beginning of a file name", name)
	}
	private, public := name+".key", name+".pub"
	if !force {
		// Before the password is asked for. save makes sure.
		for _, file := range []string{private, public} {
			if _, err := os.Lstat(file); err == nil {
				return exists(file, sureOfKey)
			}
		}
	}

	password := ""
	switch {
	case passwordFile != "":
		password, err = readPasswordFile(passwordFile)
	case !noPassword && c.terminal() != nil:
		password, err = c.askNew(ctx)
	}
	if err != nil {
		return err
	}
	var keyText, pubText []byte
	pub, key, err := minisign.GenerateKey(nil)
	if err == nil && password != "" {
		keyText, err = minisign.EncryptKey(password, key)
	} else if err == nil {
		keyText, err = key.MarshalText()
	}
	if err == nil {
		pubText, err = pub.MarshalText()
	}
	if err != nil {
		return fmt.Errorf("cannot make a key: %w", err)
	}
	if err := save("the key", force, sureOfKey, made{private, append(keyText, '\n'), 0o600}, made{public, append(pubText, '\n'), 0o644}); err != nil {
		return err
	}
	c.answer.Set("key_id", trust.KeyID(pub.ID()))
	c.answer.Set("private_key", private)
	c.answer.Set("public_key", public)
	how := "private key, not encrypted: keep it secret"
	if password != "" {
		how = "private key, encrypted: keep the password too, it cannot be recovered"
	}
	fmt.Fprintf(c.stdout, "key %s\n%s  %s\n%s  public key: copy it to the devices\n", trust.KeyID(pub.ID()), private, how, public)
	return nil
}

const sureOfKey = "bundles signed with a lost key cannot be replaced; if you are sure: --force"

func exists(name, advice string) error {
	return bootcheck.Errorf(bootcheck.ExitFailed, "", "%s exists: it is not overwritten", name).WithAdvice("%s", advice)
}

// A made is a file that a command makes.
type made struct {
	name    string
	content []byte
	mode    fs.FileMode
}

// save writes files of one directory, which together are what. Each is elsewhere first: to replace
// never leaves a damaged file, or two keys that do not fit, where good ones were because the disk
// is full. Without replace, advice is for a file that is there.
func save(what string, replace bool, advice string, files ...made) error {
	// Its own: of commands that make one key at once each has its pair.
	temp, err := os.MkdirTemp(filepath.Dir(files[0].name), ".ota-bundle-*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", what, err)
	}
	defer func() { _ = os.Remove(temp) }() // RemoveAll would read the directory that it is in
	first := func(f made) string { return filepath.Join(temp, filepath.Base(f.name)) }
	for _, f := range files {
		defer func() { _ = os.Remove(first(f)) }()
		if err := bootcheck.ReplaceFile(first(f), f.content, f.mode, true); err != nil {
			return fmt.Errorf("cannot write %s: %w", what, err)
		}
	}
	place := os.Link // unlike a rename, it never replaces
	if replace {
		place = os.Rename
	}
	for i, f := range files {
		err := place(first(f), f.name)
		if err == nil {
			continue
		}
		if i > 0 && !replace {
			_ = os.Remove(files[0].name) // half a pair is of no use
		}
		if errors.Is(err, fs.ErrExist) {
			return exists(f.name, advice)
		}
		return fmt.Errorf("cannot write %s: %w", what, err)
	}
	return nil
}

// signingKey reads the private key that o names.
func (c *command) signingKey(ctx context.Context, o *signing) (key minisign.PrivateKey, err error) {
	file := o.keyFile
	text, err := read("the signing key", file, maxSmall)
	if err != nil {
		return key, err
	}
	if !minisign.IsEncrypted(text) {
		if err := key.UnmarshalText(text); err != nil {
			return key, fmt.Errorf("%s is not a minisign private key", file)
		}
		return key, nil
	}
	var password string
	switch {
	case o.passwordFile != "":
		password, err = readPasswordFile(o.passwordFile)
	case c.terminal() != nil:
		password, err = c.ask(ctx, "password of "+file+": ")
	default:
		err = bootcheck.Errorf(bootcheck.ExitFailed, "", "%s is encrypted, and there is no terminal to ask for its password", file).
			WithAdvice("give it with --password-file")
	}
	if err != nil {
		return key, err
	}
	key, err = minisign.DecryptKey(password, text)
	if err != nil {
		return key, fmt.Errorf("cannot decrypt %s: the password is wrong, or the file is damaged", file)
	}
	return key, nil
}

// maxSmall is the longest key, password or signature that is read, bytes.
const maxSmall = 4 << 10

// read reads what, a file of at most max bytes; what is longer comes with an error.
func read(what, file string, max int) (data []byte, err error) {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		data, err = readAll(f, max)
	}
	if err != nil {
		err = fmt.Errorf("cannot read %s: %w", what, err)
	}
	return data, err
}

func readAll(f *os.File, max int) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, int64(max)+1))
	if err == nil && len(data) > max {
		err = fmt.Errorf("%s is longer than %d bytes", f.Name(), max)
	}
	return data, err
}

func readPasswordFile(file string) (string, error) {
	text, err := read("the password", file, maxSmall)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	line = strings.TrimSuffix(line, "\r")
	if line == "" {
		return "", fmt.Errorf("the first line of %s, the password, is empty", file)
	}
	return line, nil
}

// terminal is stdin if that is a terminal, else nil.
func (c *command) terminal() *os.File {
	if f, ok := c.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}

func (c *command) askNew(ctx context.Context) (string, error) {
	password, err := c.ask(ctx, "password for the new key: ")
	if err != nil {
		return "", err
	}
	if password == "" {
		return "", bootcheck.Errorf(bootcheck.ExitFailed, "", "the password is empty").
			WithAdvice("for a key that is not encrypted: --no-password")
	}
	again, err := c.ask(ctx, "the same password again: ")
	if err != nil {
		return "", err
	}
	if again != password {
		return "", errors.New("the two passwords differ")
	}
	return password, nil
}

// ask reads a line that is not shown. The terminal is as before when it returns,
// also when ctx ends.
func (c *command) ask(ctx context.Context, prompt string) (string, error) {
	fd := int(c.terminal().Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("cannot ask for the password: %w", err)
	}
	fmt.Fprint(c.stderr, prompt)
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		fmt.Fprintln(c.stderr)
		if a.err != nil {
			return "", fmt.Errorf("cannot ask for the password: %w", a.err)
		}
		return string(a.text), nil
	case <-ctx.Done():
		_ = term.Restore(fd, state)
		fmt.Fprintln(c.stderr)
		return "", ctx.Err()
	}
}
