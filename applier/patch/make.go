package patch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// Name is that of the patch beside bundle, an address or a path, for a device that runs the version
// whose manifest has the SHA-256 from, hex.
func Name(bundle, from string) string { return bundle + ".from/" + from + ".otp" }

// Made is what Make made.
type Made struct {
	File     string
	From, To bootcheck.VersionInfo
	Size     int64 // bytes
	Frames   int64 // bytes that the same update takes without a patch
}

// Make makes the patch for devices that run the bundle from and install the bundle to, by its
// Name beside that, and signs it with key. The same bundles and key give the same bytes. It is applied, and
// what comes out compared, before it gets its name. Its temporary files, as large as both versions, are in the directory of
// to, and are removed. Progress is told how many bytes of content are done, of how many; nil: not called.
func Make(ctx context.Context, from, to string, key minisign.PrivateKey, progress func(done, total int64)) (*Made, error) {
	work, err := os.MkdirTemp(filepath.Dir(to), ".ota-bundle-patch-*")
	if err != nil {
		return nil, fmt.Errorf("cannot make the patch: %w", err)
	}
	defer os.RemoveAll(work)
	old, err := unpack(ctx, from, filepath.Join(work, "old"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	defer old.root.Close()
	made, err := unpack(ctx, to, filepath.Join(work, "new"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", to, err)
	}
	defer made.root.Close()
	if bytes.Equal(old.RawManifest, made.RawManifest) {
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "%s and %s are the same version", from, to)
	}
	mk := &maker{old: old, made: made, progress: progress}
	manifest, files := plan(old.m, made.m, int64(len(old.RawManifest)), int64(len(made.RawManifest)))
	head := &Head{
		Format: formatVersion, From: bundle.Sum(old.RawManifest), To: bundle.Sum(made.RawManifest), Size: int64(len(made.RawManifest)),
		Signature: string(made.Signature), Bundle: made.Size(made.m), Manifest: len(manifest), Frames: append(manifest, files...),
	}
	payload, err := os.Create(filepath.Join(work, "payload"))
	if err != nil {
		return nil, err
	}
	defer payload.Close()
	if err := mk.frames(ctx, payload, head.Frames); err != nil {
		return nil, fmt.Errorf("cannot make the patch: %w", err)
	}
	first, err := encodeHead(head, key, made.m.Version+", patch from "+old.m.Version)
	if err != nil {
		return nil, err
	}
	file, err := os.Create(filepath.Join(work, "patch"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	size, err := bundle.Concatenate(ctx, file, first, io.NewSectionReader(payload, 0, math.MaxInt64))
	if err != nil {
		return nil, err
	}
	if err := mk.readBack(ctx, file, filepath.Join(work, "check"), key); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("the patch came out wrong and was not kept: %w", err)
	}
	out := Name(to, head.From)
	if err = os.MkdirAll(filepath.Dir(out), 0o755); err == nil {
		err = os.Rename(file.Name(), out)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make the patch: %w", err)
	}
	result := &Made{File: out, From: old.m.Info(bootcheck.Digest(old.RawManifest)), To: made.m.Info(bootcheck.Digest(made.RawManifest)), Size: size, Frames: made.PayloadOffset}
	for _, s := range made.Missing(made.m, mk.reused()) {
		result.Frames += s.End - s.First
	}
	return result, nil
}

// A version is an unpacked bundle.
type version struct {
	*bundle.Head
	m    *bootcheck.Manifest
	dir  string
	root *os.Root
}

// unpack unpacks the bundle name into the new directory dir. All of it is compared with its
// manifest; a device asks which key signed it.
func unpack(ctx context.Context, name, dir string) (*version, error) {
	b, err := bundle.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	v := &version{Head: b.Head, dir: dir}
	if v.m, err = v.Parse(); err != nil {
		return nil, err
	}
	if v.root, err = newRoot(dir); err != nil {
		return nil, err
	}
	u, err := bundle.Begin(v.Head, v.m, v.root, nil)
	if err == nil {
		defer u.Close()
		err = u.Finish(ctx, v.Maker(b.File, nil)) // without Sync: it is removed in a moment
	}
	if err != nil {
		v.root.Close()
		return nil, err
	}
	return v, nil
}

// read reads parts of the version's files, one after another.
func (v *version) read(parts ranges) (b []byte, err error) {
	for p := range parts.parts() {
		if p.entry == theManifest {
			b = append(b, v.RawManifest[p.offset:p.offset+p.length]...)
			continue
		}
		f, err := v.root.Open(v.m.Entries[p.entry].Path)
		if err != nil {
			return nil, err
		}
		at := len(b)
		b = append(b, make([]byte, p.length)...)
		_, err = f.ReadAt(b[at:], p.offset)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return b, nil
}

type maker struct {
	old, made *version
	progress  func(done, total int64)
}

// reused says which entries of the new version have content that the old one has.
func (mk *maker) reused() func(entry int) bool {
	has := make(map[string]bool)
	for i := range mk.old.m.Entries {
		has[mk.old.m.Entries[i].SHA256] = true
	}
	return func(entry int) bool { return has[mk.made.m.Entries[entry].SHA256] }
}

// frames fills in the frames, and writes their bytes to w.
func (mk *maker) frames(ctx context.Context, w io.Writer, frames []Frame) error {
	var done, total int64
	for i := range frames {
		total += frames[i].Out.total()
	}
	each := func(yield func(*Frame) bool) error {
		for i := 0; i < len(frames) && yield(&frames[i]); i++ {
		}
		return nil
	}
	return bundle.InOrder(ctx, each, mk.frame, func(f *Frame, b []byte) error {
		if _, err := w.Write(b); err != nil {
			return err
		}
		if done += f.Out.total(); mk.progress != nil {
			mk.progress(done, total)
		}
		return nil
	})
}

// Where a difference makes a frame this many times shorter than what it stands for, the other
// operations are not tried: they would save 17 % of it at most, see frame. With 1024, the patch
// of a tree of 42 MB is 0.3 % smaller and takes twice the processor time, that of one of 630 MB
// 0.7 % and a third more.
const enough = 16

// frame makes the bytes of f by each operation that may make the fewest, and returns those.
func (mk *maker) frame(_ context.Context, f *Frame) ([]byte, error) {
	window, err := mk.old.read(f.Window)
	if err != nil {
		return nil, err
	}
	out, err := mk.made.read(f.Out)
	if err != nil {
		return nil, err
	}
	plain, err := newEncoder(len(out)+diffSlack, nil)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	var best []byte
	try := func(op Op, enc *zstd.Encoder, content []byte) {
		most := len(best)
		if op&OpDict != 0 {
			most -= most / 50 // a device reads and decodes up to four times as much for it
		}
		if b := enc.EncodeAll(content, nil); best == nil || len(b) < most {
			best, f.Op, f.Size = b, op, int64(len(content))
		}
	}
	d := makeDiff(out, window)
	diff := d.stream(0)
	differs := len(window) > 0 && len(diff) <= len(out)+diffSlack
	whole := f.Window
	if differs {
		// A device reads no more of the old file than it uses.
		used := diff
		if whole.count() == 1 && d.end > 0 {
			f.Window = ranges{whole[0], whole[1] + int64(d.first), int64(d.end - d.first)}
			used = d.stream(d.first)
		}
		try(OpAdd, plain, used)
	}
	switch added := len(best); {
	case len(window) == 0:
		try(0, plain, out)
	case !differs || added > len(out)/enough:
		dict, err := newEncoder(len(out)+diffSlack+len(window), window)
		if err != nil {
			return nil, err
		}
		defer dict.Close()
		try(OpDict, dict, out)
		// Of real programs the dictionary makes a difference up to 17 % smaller, not more.
		if differs && added*3/4 < len(best) {
			try(OpAdd|OpDict, dict, diff)
		}
		if f.Op&OpDict != 0 {
			f.Window = whole
		}
	}
	f.Length, f.SHA256 = int64(len(best)), bundle.Sum(best)
	return best, nil
}

// newEncoder makes an encoder of frames of at most size bytes, dict included; nil: without
// one. A window of the encoder that does not hold both, or another level, makes patches several
// times larger: TestRatio. Its dictionary is prepared once for all that it encodes.
func newEncoder(size int, dict []byte) (*zstd.Encoder, error) {
	window := zstd.MinWindowSize
	for window < size {
		window *= 2
	}
	options := []zstd.EOption{
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window),
		zstd.WithSingleSegment(true), // else it leaves out the size of what is short
		zstd.WithEncoderCRC(false),
	}
	if dict != nil {
		options = append(options, zstd.WithEncoderDictRaw(0, dict))
	}
	return zstd.NewWriter(nil, options...)
}

// encodeHead makes all that stands before the frames. comment is signed, too.
func encodeHead(h *Head, key minisign.PrivateKey, comment string) ([]byte, error) {
	raw, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	manifest := int64(0)
	for i := range h.Manifest {
		manifest += h.Frames[i].Length
	}
	if len(raw) > maxHeadSize || manifest > MaxManifest || countHead(raw) != nil {
		return nil, bootcheck.Errorf(bootcheck.ExitRefused, "", "too much changes for a patch: %d frames, and a list of them of %d bytes", len(h.Frames), len(raw))
	}
	return encodeRaw(raw, manifest, key, comment)
}

// encodeRaw is encodeHead of JSON.
func encodeRaw(raw []byte, manifest int64, key minisign.PrivateKey, comment string) ([]byte, error) {
	enc, err := newEncoder(len(raw), nil)
	if err != nil {
		return nil, err
	}
	defer enc.Close()
	packed := enc.EncodeAll(raw, nil)
	sig := bundle.Sign(key, packed, comment)
	l := lengths{signature: int64(len(sig)), head: int64(len(packed)), manifest: manifest}
	return bytes.Join([][]byte{l.prefix(), sig, packed}, nil), nil
}

// readBack makes what is new of the new version in the new directory dir, as a device does.
func (mk *maker) readBack(ctx context.Context, r io.ReaderAt, dir string, key minisign.PrivateKey) error {
	p, err := Open(ctx, r, mk.old.RawManifest, mk.old.m, trust.These(key.Public().(minisign.PublicKey)))
	if err != nil {
		return err
	}
	root, err := newRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u, err := bundle.Begin(bundle.NewHead(p.Manifest, p.Signature), mk.made.m, root, nil)
	if err != nil {
		return err
	}
	defer u.Close()
	u.Start(ctx, mk.reused(), p.Maker(r, mk.old.dir, nil, nil))
	return u.Wait()
}

func newRoot(dir string) (*os.Root, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}
