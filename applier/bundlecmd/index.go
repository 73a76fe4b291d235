package bundlecmd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// published is one bundle of an index.
type published struct {
	File     string     `json:"file"`
	Version  string     `json:"version"`
	Release  int64      `json:"release"`
	Models   []string   `json:"models"`
	NotAfter *time.Time `json:"not_after"` // null: never expires
	Size     int64      `json:"size"`      // of the file, bytes
	SHA256   string     `json:"sha256"`    // of the file
	Digest   string     `json:"digest"`    // of the version: what a device's record has
	KeyID    string     `json:"key_id"`
	// Content is the version in it; its size is that of its files.
	Content bootcheck.VersionInfo `json:"content"`
}

// index lists the bundles of a directory, the lowest release first. The same bundles
// give the same bytes. What it says is what the bundles say of themselves: a device
// trusts their signatures and nothing else.
func (c *command) index(ctx context.Context, dir string) error {
	names, err := bundles(dir)
	if err != nil {
		return fmt.Errorf("cannot list the bundles: %w", err)
	}
	all := []published{}
	for _, name := range names {
		p, err := look(ctx, name)
		if err != nil {
			return fmt.Errorf("cannot list %s: %w", name, err)
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b published) int {
		return cmp.Or(cmp.Compare(a.Release, b.Release), bootcheck.CompareVersions(a.Version, b.Version), strings.Compare(a.File, b.File))
	})
	return bootcheck.WriteJSON(c.stdout, map[string]any{"schema": bootcheck.OutputSchema, "releases": all})
}

// look reads a bundle's head, and its bytes for their hash.
func look(ctx context.Context, name string) (published, error) {
	b, m, err := parse(name)
	if err != nil {
		return published{}, err
	}
	defer b.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, bootcheck.UntilDone(ctx, b.File)) // its head was read with ReadAt
	if err != nil {
		return published{}, err
	}
	return published{
		File: filepath.Base(name), Version: m.Version, Release: m.Release, Models: m.Models, NotAfter: m.NotAfter,
		Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), Digest: bootcheck.Digest(b.RawManifest), KeyID: trust.SignedBy(b.Signature),
		Content: info(b.Head, m),
	}, nil
}

// bundles are the files NAME.ota in dir, sorted.
func bundles(dir string) (names []string, err error) {
	all, err := os.ReadDir(dir)
	for _, e := range all {
		if strings.HasSuffix(e.Name(), ".ota") {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return names, err
}
