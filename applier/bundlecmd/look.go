package bundlecmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// inspection is the object of `inspect --json`.
type inspection struct {
	Schema  int  `json:"schema"`
	Trusted bool `json:"trusted"` // always false: inspect checks nothing
	Format  int  `json:"format"`
	bootcheck.VersionInfo
	Models     []string   `json:"models"`
	Services   []string   `json:"services"`
	NotAfter   *time.Time `json:"not_after"`
	Revoked    []string   `json:"revoked_keys"`
	KeyID      string     `json:"key_id"` // the key that claims to have signed; empty: not signed
	BundleSize int64      `json:"bundle_size"`
	Files      int        `json:"files"`
	Dirs       int        `json:"dirs"`
	Links      int        `json:"links"`
	Frames     int        `json:"frames"`
	External   []external `json:"external"` // links that are absolute or leave the tree
}

type external struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

func (c *command) inspect(ctx context.Context, name string, manifest, sbom bool) error {
	switch {
	case c.asJSON && manifest:
		return cli.Usagef("ota-bundle inspect", "--json and --manifest contradict each other")
	case sbom && (c.asJSON || manifest):
		return cli.Usagef("ota-bundle inspect", "--sbom stands alone: it prints the SBOM, which is JSON")
	}
	b, m, err := parse(name)
	if err != nil {
		return err
	}
	defer b.Close()
	if manifest {
		_, err := c.stdout.Write(b.RawManifest)
		return err
	}
	if sbom {
		text, err := b.ReadFile(ctx, b.File, m, bootcheck.SBOMPath, bootcheck.MaxSBOM)
		if errors.Is(err, fs.ErrNotExist) {
			return (&bootcheck.Error{Err: fmt.Errorf("%s has no SBOM", name)}).WithAdvice("`ota-bundle create --sbom FILE` packs one")
		}
		if err != nil {
			return err
		}
		_, err = c.stdout.Write(text)
		return err
	}
	i := inspection{
		Schema: bootcheck.OutputSchema, Format: m.Format, VersionInfo: info(b.Head, m), Models: m.Models, Services: m.Services,
		NotAfter: m.NotAfter, Revoked: m.RevokedKeys, KeyID: trust.SignedBy(b.Signature),
		BundleSize: b.Size(m), Frames: len(m.Frames),
		Files: count(m, bootcheck.TypeFile), Dirs: count(m, bootcheck.TypeDir), Links: count(m, bootcheck.TypeLink),
		External: []external{},
	}
	for _, e := range m.Entries {
		if e.External {
			i.External = append(i.External, external{e.Path, e.Target})
		}
	}
	if c.asJSON {
		for _, list := range []*[]string{&i.Services, &i.Revoked} {
			if *list == nil {
				*list = []string{}
			}
		}
		return bootcheck.WriteJSON(c.stdout, i)
	}
	expires := "never expires"
	if i.NotAfter != nil {
		expires = i.NotAfter.Format(time.RFC3339)
	}
	signed := "not signed"
	if i.KeyID != "" {
		signed = "says key " + i.KeyID
	}
	fmt.Fprintf(c.stdout, `NOT CHECKED: this is what the bundle says of itself (to check it: ota-bundle verify)
version    %s
release    %d
models     %s
services   %s
not after  %s
revokes    %s
content    %s
size       %s unpacked, %s as a bundle of %s
digest     %s
signature  %s
`, i.Version, *i.Release, strings.Join(i.Models, ", "),
		cmp.Or(strings.Join(i.Services, ", "), "those of the device's configuration"), expires, cmp.Or(strings.Join(i.Revoked, ", "), "no key"), contentText(m),
		bootcheck.Size(*i.Size), bootcheck.Size(i.BundleSize), cli.Plural(i.Frames, "frame", "frames"), *i.Digest, signed)
	for _, e := range i.External {
		fmt.Fprintf(c.stdout, "external   %s -> %s\n", e.Path, e.Target)
	}
	return nil
}

func (c *command) verify(ctx context.Context, name string, paths []string) error {
	c.answer.Set("versions", []bootcheck.Verified{})
	if len(paths) == 0 {
		return cli.Usagef("ota-bundle verify", "verify needs --key: a trusted public key")
	}
	keys, err := trust.Named(paths)
	if err != nil {
		return err
	}
	b, err := open(name)
	if err != nil {
		return err
	}
	defer b.Close()
	m, keyID, err := b.Verify(keys)
	if err != nil {
		return err
	}
	err = bundle.Check(ctx, b.File, b.Head, m, c.progress("checking"))
	seen := bootcheck.NewVerified(info(b.Head, m), nil, err)
	seen.File = bootcheck.OrNull(name)
	c.answer.Set("versions", []bootcheck.Verified{seen})
	c.answer.Set("key_id", keyID)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s: good: version %s for %s, %s, signed by %s\n",
		name, m.Version, strings.Join(m.Models, ", "), contentText(m), keyID)
	return nil
}

// answerBundle says with --json which bundle was made: the one in the file name.
func (c *command) answerBundle(name string) error {
	if c.answer == nil {
		return nil
	}
	b, m, err := parse(name)
	if err != nil {
		return err
	}
	c.answerFile(name, info(b.Head, m), trust.SignedBy(b.Signature))
	return b.Close()
}

// answerFile says with --json that the file name was made, for the version content; keyID
// is of its signature, empty: it has none.
func (c *command) answerFile(name string, content bootcheck.VersionInfo, keyID string) {
	c.answer.Set("file", name)
	c.answer.Set("content", content)
	c.answer.Set("key_id", bootcheck.OrNull(keyID))
}

// open reads the head of the bundle in the file name. It may come from anywhere.
func open(name string) (*bundle.File, error) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(48 << 20) // as ota-apply does, see TestHostileMemory of package bundle
	}
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read the bundle: %s is not a regular file", name)
	}
	return bundle.OpenFile(name)
}

// info is the version with the manifest m, whose bytes h has.
func info(h *bundle.Head, m *bootcheck.Manifest) bootcheck.VersionInfo {
	return m.Info(bootcheck.Digest(h.RawManifest))
}

// parse is open, and what the manifest says, unchecked.
func parse(name string) (*bundle.File, *bootcheck.Manifest, error) {
	b, err := open(name)
	if err != nil {
		return nil, nil, err
	}
	m, err := b.Parse()
	if err != nil {
		b.Close()
		return nil, nil, err
	}
	return b, m, nil
}

func count(m *bootcheck.Manifest, t bootcheck.EntryType) (n int) {
	for i := range m.Entries {
		if m.Entries[i].Type == t {
			n++
		}
	}
	return n
}

func contentText(m *bootcheck.Manifest) string {
	s := fmt.Sprintf("%s (%s)", cli.Plural(count(m, bootcheck.TypeFile), "file", "files"), bootcheck.Size(m.Size))
	if dirs := count(m, bootcheck.TypeDir); dirs > 0 {
		s += ", " + cli.Plural(dirs, "directory", "directories")
	}
	if links := count(m, bootcheck.TypeLink); links > 0 {
		s += ", " + cli.Plural(links, "link", "links")
	}
	return s
}
