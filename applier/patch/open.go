package patch

import (
	"context"
	"fmt"
	"io"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A Patch is a patch whose signature is right and that fits the old version.
type Patch struct {
	Manifest  []byte // of the new version: its hash is right; its signature is not checked
	Signature []byte // of Manifest
	Bundle    int64  // length of the new bundle, bytes; 0: not known
	Size      int64  // of the whole patch, bytes

	old    *bootcheck.Manifest
	frames []Frame // without those of the manifest
	at     []int64 // where they are in the patch
}

// Open reads the head of the patch r, of which HeadSize bytes have to be there, and the
// manifest that it makes of that of the old version: manifest, which is old as it is parsed.
// It looks at nothing before a key of
// keys has signed it, but at the first PrefixSize bytes. Errors are *bootcheck.Error: ExitRefused
// for the signature, ExitDamaged for anything else that is wrong with it, also when it is for another
// version; or those of r.
func Open(ctx context.Context, r io.ReaderAt, manifest []byte, old *bootcheck.Manifest, keys *trust.Keys) (*Patch, error) {
	prefix := make([]byte, PrefixSize)
	if err := bundle.ReadFull(r, "patch", prefix, 0); err != nil {
		return nil, err
	}
	l, err := parsePrefix(prefix)
	if err != nil {
		return nil, err
	}
	first := make([]byte, l.signature+l.head)
	if err := bundle.ReadFull(r, "patch", first, PrefixSize); err != nil {
		return nil, err
	}
	packed := first[l.signature:]
	if _, err := keys.Verify(packed, first[:l.signature]); err != nil {
		return nil, err
	}
	refuse := func(err error) (*Patch, error) {
		return nil, damaged(bootcheck.CodeInvalidManifest, "the patch is refused: %w", err)
	}
	raw, err := bundle.DecodeFrame(packed, maxHeadSize)
	if err != nil {
		return refuse(err)
	}
	h, err := parseHead(raw, l, int64(len(manifest)))
	if err != nil {
		return refuse(err)
	}
	if sum := bundle.Sum(manifest); sum != h.From {
		return refuse(fmt.Errorf("it is for the version with the manifest %s, not %s", h.From, sum))
	}
	p := &Patch{Signature: []byte(h.Signature), Bundle: h.Bundle, Size: l.total(), old: old, frames: h.Frames[h.Manifest:]}
	if p.Manifest, err = makeManifest(ctx, r, h, l, manifest); err != nil {
		return nil, err
	}
	if sum := bundle.Sum(p.Manifest); sum != h.To {
		return nil, damaged(bootcheck.CodeHashMismatch, "the manifest that the patch makes has the SHA-256 %s, want %s", sum, h.To)
	}
	for i := range p.frames {
		f := &p.frames[i]
		p.at = append(p.at, p.Size)
		p.Size += f.Length
		if err := f.Window.check(maxRanges, maxWindow, fileSize(old)); err != nil {
			return refuse(fmt.Errorf("window: %w", err))
		}
	}
	return p, nil
}

// makeManifest makes the new manifest of the old one.
func makeManifest(ctx context.Context, r io.ReaderAt, h *Head, l lengths, old []byte) ([]byte, error) {
	d, err := newReader(r, nil)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	made := make([]byte, 0, h.Size)
	at := l.total() - l.manifest
	for i := range h.Manifest {
		f := &h.Frames[i]
		out, err := f.make(ctx, d, at, func(window []byte) error {
			n := 0
			for p := range f.Window.parts() {
				n += copy(window[n:], old[p.offset:p.offset+p.length])
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("cannot make the manifest: %w", err)
		}
		made = append(made, out...)
		at += f.Length
	}
	return made, nil
}

// fileSize says how long the files of m are; -1 for an entry that is no file.
func fileSize(m *bootcheck.Manifest) func(entry int64) int64 {
	return func(entry int64) int64 {
		if entry < 0 || entry >= int64(len(m.Entries)) || m.Entries[entry].Type != bootcheck.TypeFile {
			return -1
		}
		return m.Entries[entry].Size
	}
}

// newReader is for the frames of the patch r. Its rest is for a window, and for what is made.
func newReader(r io.ReaderAt, again bundle.Again) (*bundle.FrameReader, error) {
	return bundle.NewFrameReader(r, "patch", again, maxLength, maxSize, maxWindow+maxOut)
}

// make makes what f, whose bytes are at offset at, says; read fills its window. The result
// is that of d, until the next call.
func (f *Frame) make(ctx context.Context, d *bundle.FrameReader, at int64, read func(window []byte) error) ([]byte, error) {
	if err := d.Read(ctx, "the patch", at, f.Length, f.SHA256); err != nil {
		return nil, err
	}
	var dict []byte
	window := d.Rest[:f.Window.total()]
	if len(window) > 0 {
		if err := read(window); err != nil {
			return nil, err
		}
	}
	if f.Op&OpDict != 0 {
		dict = window
	}
	out, err := d.Decode(f.Size, dict)
	if err == nil && f.Op&OpAdd != 0 {
		diff := out
		out = d.Rest[maxWindow:][:f.Out.total()]
		err = applyDiff(out, window, diff)
	}
	if err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "the patch is refused: its bytes %d to %d: %v", at, at+f.Length, err)
	}
	return out, nil
}
