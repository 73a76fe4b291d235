package bundle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// Contents is what Create puts into a bundle.
type Contents struct {
	Dir       string     // the tree; everything below it
	Version   string     // bootcheck.ValidVersion
	Models    []string   // the devices it is for; at least one
	Release   int64      // 0: not counted
	NotAfter  *time.Time // nil: never expires
	Services  []string   // full unit names; empty: those of the device's configuration
	Key       minisign.PrivateKey
	Unsigned  bool     // Key is not used: the signature comes later, see Attach
	Revoke    []string // IDs of keys that devices must not trust any more; never that of Key
	Level     Level
	Overwrite bool // out may be there already
	// Patterns of path.Match, each for whole paths from the tree's root, or, without a
	// slash, for the last component. See kinds.
	Exclude   []string // not packed, with all that is below; as ignoreFile
	Allow     []string // packed although it is a private key, every user can write to it, or it loses modes, capabilities or ACLs
	AllowLink []string // targets of links that may be External
	// SBOM becomes the file bootcheck.SBOMPath, which the tree then must not have. nil: none.
	SBOM []byte
	// Say is told each line about what a tree loses, or why it is not packed. nil: not
	// called.
	Say func(line string)
	// Progress is told how many bytes of file content are packed, of how many.
	Progress func(doneBytes, total int64)
}

// Create packs a tree into the bundle file out. The same contents and key give
// the same bytes, on any machine, at any time, with any owners of the files:
// those are not packed. Hard links become files of their own.
//
// It refuses what Draft refuses. The result is read back and checked, every file of it,
// before it gets its name: out is replaced as a whole or not touched.
func Create(ctx context.Context, out string, c Contents) (*bootcheck.Manifest, error) {
	m, err := Draft(ctx, out, c)
	if err != nil {
		return nil, err
	}
	// The manifest comes before the payload in the file, but is known after it.
	// Nameless from the start: nothing is left behind, however this ends.
	payload, err := os.CreateTemp(filepath.Dir(out), ".ota-bundle-payload-*")
	if err == nil {
		defer payload.Close()
		err = os.Remove(payload.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("cannot create the bundle: %w", err)
	}
	if err := pack(ctx, payload, m, c); err != nil {
		return nil, err
	}
	raw, err := encodeManifest(m)
	if err != nil {
		return nil, err
	}
	var sig []byte
	var keys *trust.Keys
	if !c.Unsigned {
		sig, keys = Sign(c.Key, raw, Comment(c.Version)), trust.These(c.Key.Public().(minisign.PublicKey))
	}
	if err := writeFile(ctx, out, raw, sig, io.NewSectionReader(payload, 0, math.MaxInt64), keys); err != nil {
		return nil, err
	}
	return m, nil
}

// Attach gives the bundle in the file name the signature sig, text of minisign, in
// place of the one that it has. It checks sig with keys; nil: only that it names a key
// that the bundle does not revoke. The file is replaced as a whole, or, with an error, not
// touched. Errors are *bootcheck.Error: ExitRefused for the signature, ExitDamaged for
// the bundle.
func Attach(ctx context.Context, name string, sig []byte, keys *trust.Keys) (*bootcheck.Manifest, error) {
	b, err := OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	b.Signature = sig
	m, err := b.Parse()
	if err != nil {
		return nil, err
	}
	id := trust.SignedBy(sig)
	if id == "" {
		return nil, refused("cannot sign %s: this is not a signature of minisign", name)
	}
	if slices.Contains(m.RevokedKeys, id) {
		return nil, refused("cannot sign %s: it revokes key %s", name, id).WithAdvice("sign it with a key that devices still trust")
	}
	if keys != nil { // before all its bytes are copied
		if _, _, err := b.Verify(keys); err != nil {
			return nil, err
		}
	}
	payload := io.NewSectionReader(b.File, b.PayloadOffset, payloadSize(m))
	return m, writeFile(ctx, name, b.RawManifest, sig, payload, keys)
}

// Draft is the manifest of the bundle that Create would make at out, without hashes
// and frames. It refuses what a device would refuse (see bootcheck.ParseManifest) and what
// is not meant to be published, and tells c.Say all of that, and what the tree loses. Nothing is
// written. out may be empty. Errors of the tree are *bootcheck.Error with ExitRefused.
func Draft(ctx context.Context, out string, c Contents) (*bootcheck.Manifest, error) {
	m := &bootcheck.Manifest{
		Format:   bootcheck.ManifestFormat,
		Models:   c.Models,
		Version:  c.Version,
		Release:  c.Release,
		Services: c.Services,
	}
	if len(c.Revoke) > 0 {
		m.RevokedKeys = slices.Sorted(slices.Values(c.Revoke))
	}
	if id := trust.KeyID(c.Key.ID()); !c.Unsigned && slices.Contains(m.RevokedKeys, id) {
		return nil, refused("cannot revoke key %s with a bundle that it signs", id).
			WithAdvice("sign it with a key that the devices continue to trust")
	}
	if c.NotAfter != nil {
		t := c.NotAfter.UTC().Truncate(time.Second)
		m.NotAfter = &t
	}
	if out != "" {
		if err := outside(c.Dir, out); err != nil {
			return nil, err
		}
	}
	is, statErr := os.Lstat(out)
	if statErr == nil && is.Mode().Type()&^fs.ModeSymlink != 0 {
		return nil, refused("cannot create %s: it is there, and not a regular file", out) // a rename would replace /dev/null
	}
	found, err := scan(ctx, &c, m)
	if err != nil {
		return nil, err
	}
	if statErr == nil && !c.Overwrite {
		found.add(exists, out, out)
	}
	if err := found.tell(c.Dir, c.Say); err != nil {
		return nil, err
	}
	return m, refuseEarly(m)
}

// outside refuses a bundle inside the tree that goes into it.
func outside(dir, out string) error {
	resolve := func(dir string) (string, error) {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return "", err
		}
		return filepath.Abs(real)
	}
	real, err := resolve(dir)
	if err != nil {
		return fmt.Errorf("cannot pack the tree: %w", err)
	}
	parent, err := resolve(filepath.Dir(out))
	if err != nil {
		return fmt.Errorf("cannot create the bundle: %w", err)
	}
	if parent == real || strings.HasPrefix(parent, strings.TrimSuffix(real, "/")+"/") {
		return refused("cannot create %s: it is inside %s, which is packed", out, dir)
	}
	return nil
}

// writeFile puts the bundle together beside out, checks it as a device would, with keys
// (nil: all but the signature), and gives it its name.
func writeFile(ctx context.Context, out string, raw, sig []byte, payload io.Reader, keys *trust.Keys) (err error) {
	head, err := EncodeHead(raw, sig)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+"-*")
	if err != nil {
		return fmt.Errorf("cannot create the bundle: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	size, err := Concatenate(ctx, f, head, payload)
	if err == nil {
		if err = readBack(ctx, f, size, keys); err != nil {
			return cmp.Or(ctx.Err(), fmt.Errorf("the bundle came out wrong and was not kept: %w", err))
		}
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(f.Name(), out)
	}
	if err != nil {
		return fmt.Errorf("cannot create the bundle: %w", err)
	}
	return nil
}

// Concatenate makes f, of size bytes, of first and payload, durably and for all users to read.
func Concatenate(ctx context.Context, f *os.File, first []byte, payload io.Reader) (size int64, err error) {
	if _, err := f.Write(first); err != nil {
		return 0, err
	}
	size, err = io.Copy(f, bootcheck.UntilDone(ctx, payload))
	if err == nil {
		err = cmp.Or(f.Chmod(0o644), f.Sync())
	}
	return int64(len(first)) + size, err
}

func readBack(ctx context.Context, r io.ReaderAt, size int64, keys *trust.Keys) error {
	h, err := ReadHead(r, size)
	if err != nil {
		return err
	}
	var m *bootcheck.Manifest
	if keys == nil {
		m, err = h.Parse()
	} else {
		m, _, err = h.Verify(keys)
	}
	if err != nil {
		return err
	}
	return Check(ctx, r, h, m, nil)
}

// refuseEarly has the manifest checked as a device will check it, with stand-ins
// for the hashes.
func refuseEarly(m *bootcheck.Manifest) error {
	draft := *m
	draft.Entries = append([]bootcheck.Entry{}, m.Entries...)
	for i := range draft.Entries {
		if e := &draft.Entries[i]; e.Type == bootcheck.TypeFile {
			e.SHA256 = strings.Repeat("0", 64)
		}
	}
	raw, err := encodeManifest(&draft)
	if err != nil {
		return err
	}
	if _, err := bootcheck.ParseManifest(raw); err != nil {
		return refused("cannot pack the tree, as a device would not take it: %w", errors.Unwrap(errors.Unwrap(err)))
	}
	return nil
}

// Comment is the trusted comment of the signature of a version.
func Comment(version string) string { return "ota-bundle version " + version }

// Sign signs a manifest, or another small file. The same input gives the same text: it
// holds no time, unlike minisign's own.
func Sign(key minisign.PrivateKey, raw []byte, comment string) []byte {
	r := minisign.NewReader(bytes.NewReader(raw))
	_, _ = io.Copy(io.Discard, r) // a bytes.Reader does not fail
	return r.SignWithComments(key, comment, "signature from key "+trust.KeyID(key.ID()))
}

// manifestLines gives each entry and frame a line. Quotes and newlines in a string of JSON are
// escaped: no string has these in it.
var manifestLines = strings.NewReplacer(
	`[{"path":`, "[\n{\"path\":", `,{"path":`, ",\n{\"path\":",
	`[{"offset":`, "[\n{\"offset\":", `,{"offset":`, ",\n{\"offset\":",
	`}],"frames":`, "}\n],\n\"frames\":", "}]}\n", "}\n]}\n",
)

// encodeManifest writes m with one line for each entry and frame, so that people
// can read it and `diff` two of them.
func encodeManifest(m *bootcheck.Manifest) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // "<" is no danger here and hard to read as \u003c
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("cannot write the manifest: %w", err)
	}
	return []byte(manifestLines.Replace(b.String())), nil
}

// best is what bestEncoder made.
var best struct {
	sync.Once
	encoder *zstd.Encoder
	err     error
}

// bestEncoder is for all heads, and frames of LevelBest: its tables take 34 MB for each goroutine.
// It is a function, and no variable with sync.OnceValues: that would link the encoder into
// ota-apply, which makes no bundles and is 260 KB smaller without it.
func bestEncoder() (*zstd.Encoder, error) {
	best.Do(func() { best.encoder, best.err = newEncoder(zstd.SpeedBestCompression) })
	return best.encoder, best.err
}

// EncodeHead makes the beginning of a bundle, prefix and head, from the bytes of a
// manifest and of its signature.
func EncodeHead(raw, sig []byte) ([]byte, error) {
	tar := append(headMember(bootcheck.ManifestPath, raw), headMember(bootcheck.SignaturePath, sig)...)
	enc, err := bestEncoder()
	if err != nil {
		return nil, err
	}
	head := enc.EncodeAll(tar, nil)
	if len(head) > MaxHead {
		return nil, refused("cannot pack the tree: the list of its files compresses to %d bytes, at most %d are allowed", len(head), MaxHead)
	}
	return append(encodePrefix(len(head)), head...), nil
}

func headMember(name string, content []byte) []byte {
	size := int64(len(content))
	tar := append(member{name: name, mode: 0o644, size: size, kind: typeFile}.appendHeader(nil), content...)
	return append(tar, make([]byte, roundUp(size)-size)...)
}

func newEncoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil,
		zstd.WithEncoderLevel(level),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), // calls of EncodeAll at once
		zstd.WithWindowSize(bootcheck.MaxFrameSize),
		zstd.WithEncoderCRC(true), // for `zstd -t`; the manifest's hashes are what counts
	)
}

func refused(format string, args ...any) *bootcheck.Error {
	return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, format, args...)
}
