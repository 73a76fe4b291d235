package bundlecmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// inspection is the object of `inspect --json`.
type inspection struct {
	Trusted    bool       `json:"trusted"` // always false: inspect checks nothing
	Format     int        `json:"format"`
	Version    string     `json:"version"`
	Release    int64      `json:"release"`
	Models     []string   `json:"models"`
	Services   []string   `json:"services"`
	NotAfter   *time.Time `json:"not_after"`
	Revoked    []string   `json:"revoked_keys"`
	Digest     string     `json:"digest"`
	KeyID      string     `json:"key_id"` // who claims to have signed; empty: not signed
	Size       int64      `json:"size"`   // of the files, unpacked
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

func (c *command) inspect(name string, asJSON bool) error {
	f, h, err := open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	m, err := h.Parse()
	if err != nil {
		return err
	}
	i := inspection{
		Format: m.Format, Version: m.Version, Release: m.Release, Models: m.Models, Services: m.Services,
		NotAfter: m.NotAfter, Revoked: m.RevokedKeys, Digest: bootcheck.Digest(h.RawManifest), KeyID: claimedKey(h.Signature),
		Size: m.Size, BundleSize: h.Size(m), Frames: len(m.Frames),
	}
	i.Files, i.Dirs, i.Links = count(m)
	i.External = []external{}
	for _, e := range m.Entries {
		if e.External {
			i.External = append(i.External, external{e.Path, e.Target})
		}
	}
	if asJSON {
		for _, list := range []*[]string{&i.Services, &i.Revoked} {
			if *list == nil {
				*list = []string{}
			}
		}
		e := json.NewEncoder(c.stdout)
		e.SetIndent("", "  ")
		return e.Encode(i)
	}
	services := strings.Join(i.Services, ", ")
	if services == "" {
		services = "those of the device's configuration"
	}
	expires := "never expires"
	if i.NotAfter != nil {
		expires = i.NotAfter.Format(time.RFC3339)
	}
	revokes := "no key"
	if len(i.Revoked) > 0 {
		revokes = strings.Join(i.Revoked, ", ")
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
`, i.Version, i.Release, strings.Join(i.Models, ", "), services, expires, revokes, contentText(m),
		cli.Size(i.Size), cli.Size(i.BundleSize), cli.Plural(i.Frames, "frame", "frames"), i.Digest, signed)
	for _, e := range i.External {
		fmt.Fprintf(c.stdout, "external   %s -> %s\n", e.Path, e.Target)
	}
	return nil
}

func (c *command) verify(ctx context.Context, name string, paths []string) error {
	if len(paths) == 0 {
		return cli.Usagef("ota-bundle verify", "verify needs --key: a public key to believe")
	}
	for _, p := range paths {
		// For a device a missing folder means no keys; here it is a mistake.
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("cannot read the public key: %w", err)
		}
	}
	keys, err := trust.Named(paths)
	if err != nil {
		return err
	}
	f, h, err := open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	m, keyID, err := h.Verify(keys)
	if err != nil {
		return err
	}
	if err := bundle.Check(ctx, f, h, m, bundle.Options{Progress: c.progress("checking")}); err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s: good: version %s for %s, %s, signed by %s\n",
		name, m.Version, strings.Join(m.Models, ", "), contentText(m), keyID)
	return nil
}

// open reads the head of the bundle in the file name. It may come from anywhere.
func open(name string) (*os.File, *bundle.Head, error) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(48 << 20) // as ota-apply does, see TestHostileMemory of package bundle
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("cannot read the bundle: %s is not a regular file", name)
	}
	var h *bundle.Head
	if err == nil {
		h, err = bundle.ReadHead(f, st.Size())
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, h, nil
}

// claimedKey is the ID in a signature that nobody has checked.
func claimedKey(sig []byte) string {
	var s minisign.Signature
	if s.UnmarshalText(sig) != nil {
		return ""
	}
	return trust.KeyID(s.KeyID)
}

func count(m *bootcheck.Manifest) (files, dirs, links int) {
	for i := range m.Entries {
		switch m.Entries[i].Type {
		case bootcheck.TypeFile:
			files++
		case bootcheck.TypeDir:
			dirs++
		case bootcheck.TypeLink:
			links++
		}
	}
	return files, dirs, links
}

func contentText(m *bootcheck.Manifest) string {
	files, dirs, links := count(m)
	s := fmt.Sprintf("%s (%s)", cli.Plural(files, "file", "files"), cli.Size(m.Size))
	if dirs > 0 {
		s += ", " + cli.Plural(dirs, "directory", "directories")
	}
	if links > 0 {
		s += ", " + cli.Plural(links, "link", "links")
	}
	return s
}
