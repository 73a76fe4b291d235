package bundlecmd

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/patch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// creation is what the flags of create say.
type creation struct {
	signing
	models, services, revoke list
	contents                 bundle.Contents
	notAfter, level, release string
	out, sbom                string
	check                    bool
}

func (o *creation) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.contents.Dir, "dir", "", "pack what is in `DIR`")
	fs.StringVar(&o.contents.Version, "version", "", "the version is `V`, such as 1.2.0")
	fs.Var(&o.models, "model", "it is for devices of model `M`; can be repeated")
	fs.StringVar(&o.release, "release", "auto", "its counter `N`: devices refuse a lower one (default: auto)")
	fs.StringVar(&o.notAfter, "not-after", "", "devices refuse it after `DATE` (UTC), as 2027-12-31")
	fs.Var(&o.services, "service", "the service `U` starts from it; can be repeated")
	fs.Var(&o.revoke, "revoke", "devices stop trusting `KEY` (ID, NAME.pub); can be repeated")
	fs.StringVar(&o.keyFile, "key", "", "sign with the private key `NAME.key`")
	fs.BoolVar(&o.contents.Unsigned, "unsigned", false, "without a signature: ota-bundle sign or attach adds it")
	o.passwordFlag(fs)
	fs.StringVar(&o.level, "level", "best", "`LEVEL`: fast, default, best or max, by zstd; unset: best")
	fs.StringVar(&o.out, "o", "", "make the bundle `FILE.ota`")
	fs.StringVar(&o.sbom, "sbom", "", "pack the SBOM `FILE`; ota-apply list --sbom shows it")
	fs.BoolVar(&o.contents.Overwrite, "overwrite", false, "replace FILE.ota")
	fs.BoolVar(&o.check, "check", false, "only list the problems of DIR; needs no other flag")
	fs.Var((*list)(&o.contents.Exclude), "exclude", "leave out the path or name `GLOB`; can be repeated")
	fs.Var((*list)(&o.contents.Allow), "allow", "pack `GLOB` although it is refused; can be repeated")
	fs.Var((*list)(&o.contents.AllowLink), "allow-link", "pack links out of DIR to the target `GLOB`; can be repeated")
}

func (c *command) create(ctx context.Context, o *creation) error {
	contents := &o.contents
	usagef := func(format string, args ...any) error { return cli.Usagef("ota-bundle create", format, args...) }
	var missing []string
	for _, f := range []struct {
		name string
		ok   bool
	}{
		{"--dir", contents.Dir != ""},
		{"--version", o.check || contents.Version != ""},
		{"--model", o.check || len(o.models) > 0},
		{"--key or --unsigned", o.check || o.keyFile != "" || contents.Unsigned},
		{"-o", o.check || o.out != ""},
	} {
		if !f.ok {
			missing = append(missing, f.name)
		}
	}
	if contents.Unsigned && o.keyFile != "" {
		return usagef("--key and --unsigned contradict each other")
	}
	if len(missing) > 0 {
		return usagef("create needs %s", strings.Join(missing, ", "))
	}
	if o.check { // what it does not need to know
		contents.Version, o.models = cmp.Or(contents.Version, "0"), append(o.models, "x")[:max(1, len(o.models))]
	}
	for name, patterns := range map[string][]string{"allow": contents.Allow, "allow-link": contents.AllowLink, "exclude": contents.Exclude} {
		for _, pattern := range patterns {
			if err := bundle.CheckPattern(pattern); err != nil {
				return usagef("--%s %v", name, err)
			}
		}
	}
	if !bootcheck.ValidVersion(contents.Version) {
		return usagef("--version %.80q is not a letter or digit and then at most 63 letters, digits, or any of ._+-", contents.Version)
	}
	for _, m := range o.models {
		if err := bootcheck.CheckModel(m); err != nil {
			return usagef("--model: %v", err)
		}
	}
	if n, err := strconv.ParseInt(o.release, 10, 64); err == nil && n >= 0 {
		contents.Release = n
	} else if o.release != "auto" {
		return usagef("--release %q is neither a number, 0 or more, nor auto", o.release)
	}
	for _, s := range o.services {
		// As systemctl does: a name without a type is a service.
		if !strings.HasSuffix(s, ".service") {
			s += ".service"
		}
		if !bootcheck.ValidService(s) {
			return usagef("--service %.80q is not the name of a systemd service", s)
		}
		contents.Services = append(contents.Services, s)
	}
	for _, r := range o.revoke {
		id, err := keyID(r)
		if err != nil {
			return usagef("--revoke %v", err)
		}
		if !slices.Contains(contents.Revoke, id) {
			contents.Revoke = append(contents.Revoke, id)
		}
	}
	if o.notAfter != "" {
		t, err := parseDate(o.notAfter)
		if err != nil {
			return usagef("--not-after %v", err)
		}
		contents.NotAfter = &t
	}
	if contents.Level = bundle.Level(o.level); !contents.Level.Valid() {
		return usagef("--level %q is not fast, default, best or max", o.level)
	}
	contents.Models = o.models
	contents.Progress = c.progress("packing")
	contents.Say = c.say
	if v, ok := strings.CutPrefix(contents.Version, "v"); ok {
		c.say(fmt.Sprintf("warning: version %s begins with v: devices keep it in v%s; usual is %s", contents.Version, contents.Version, v))
	}
	if contents.NotAfter != nil && contents.NotAfter.Before(time.Now()) {
		c.say(fmt.Sprintf("warning: --not-after %s is over: every device refuses the bundle", o.notAfter))
	}
	if o.sbom != "" {
		text, err := read("the SBOM", o.sbom, bootcheck.MaxSBOM)
		if err != nil && len(text) <= bootcheck.MaxSBOM { // a longer one Draft refuses
			return err
		}
		contents.SBOM = text
	}
	if o.check {
		m, err := bundle.Draft(ctx, o.out, *contents)
		if err == nil {
			fmt.Fprintf(c.stdout, "%s can be packed: %s\n", contents.Dir, contentText(m))
		}
		return err
	}
	if o.release == "auto" {
		var err error
		if contents.Release, err = c.nextRelease(o.out); err != nil {
			return err
		}
	}

	signed := "not signed"
	if !contents.Unsigned {
		key, err := c.signingKey(ctx, &o.signing)
		if err != nil {
			return err
		}
		contents.Key, signed = key, "signed by "+trust.KeyID(key.ID())
	}
	m, err := bundle.Create(ctx, o.out, *contents)
	if err != nil {
		return err
	}
	if o.release == "auto" {
		c.say(fmt.Sprintf("release %d: one more than the highest beside %s", contents.Release, o.out))
	}
	// Without --overwrite, too: the bundle may have been deleted and its patches not.
	dir := filepath.Dir(patch.Name(o.out, ""))
	if _, err := os.Lstat(dir); err == nil {
		c.say(fmt.Sprintf("warning: the patches in %s make the version that they were made for, which this bundle may not be: delete them, and make them again", dir))
	}
	if err := c.answerBundle(o.out); err != nil {
		return err
	}
	st, err := os.Stat(o.out)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s: version %s for %s, %s in %s, %s\n",
		o.out, m.Version, strings.Join(m.Models, ", "), contentText(m), bootcheck.Size(st.Size()), signed)
	return nil
}

// say writes a line to stderr.
func (c *command) say(line string) { fmt.Fprintln(c.stderr, line) }

// nextRelease is one more than the highest release of the bundles beside out. One that
// cannot be read is none.
func (c *command) nextRelease(out string) (int64, error) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1)) // open lowers it: to pack takes more
	names, _ := bundles(filepath.Dir(out))               // a directory that is not there is told of when out is made
	highest := int64(0)
	for _, name := range names {
		if filepath.Base(name) == filepath.Base(out) {
			continue // which this one replaces
		}
		b, m, err := parse(name)
		if err != nil {
			c.say(fmt.Sprintf("warning: %s is not counted: %v", name, err))
			continue
		}
		b.Close()
		if m.Release == math.MaxInt64 {
			return 0, bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest,
				"no release is higher than %d, that of %s", m.Release, name).WithAdvice("give --release")
		}
		highest = max(highest, m.Release)
	}
	return highest + 1, nil
}

// keyID is the ID that s is, or that of the public key in the file s.
func keyID(s string) (string, error) {
	if id := strings.ToUpper(s); bootcheck.ValidKeyID(id) {
		return id, nil
	}
	key, err := trust.ReadKey(s)
	if err != nil {
		return "", fmt.Errorf("%q is neither the ID of a key, 16 hex digits, nor the file of a public key: %w", s, err)
	}
	return trust.KeyID(key.ID()), nil
}

// parseDate reads a day, which ends at its last second, or a moment.
func parseDate(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.Add(24*time.Hour - time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%q is neither a day like 2027-12-31 nor a time like 2027-12-31T12:00:00Z", s)
	}
	return t.UTC(), nil
}

const clearLine = "\r\x1b[K"

// progress is a line that counts to 100 %, on a terminal; else nil.
func (c *command) progress(what string) func(done, total int64) {
	if c.screen == nil {
		return nil
	}
	shown := int64(-1)
	return func(done, total int64) {
		percent := int64(100)
		if total > 0 {
			percent = done * 100 / total
		}
		if percent == shown {
			return
		}
		shown = percent
		if c.drawn = percent < 100; !c.drawn {
			fmt.Fprint(c.screen, clearLine)
			return
		}
		fmt.Fprintf(c.screen, "\r%s %3d %%", what, percent)
	}
}
