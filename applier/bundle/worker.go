package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// unpacking is one run over the frames that hold what is missing.
type unpacking struct {
	*Unpacker
	r      io.ReaderAt
	have   []bool       // by entry: files that are there, or that others make
	all    bool         // frames are read, also of files that are there
	next   atomic.Int64 // the frame that the next free worker takes
	listed func() map[string]bool

	mu       sync.Mutex
	done     int64
	progress func(doneBytes, total int64)
	again    func(ctx context.Context, s Span, wrong error) error
}

// run unpacks, or checks, the frames that hold a file that is not in have, or all; done
// bytes of content were there before. It returns how many are there then.
func (up *Unpacker) run(ctx context.Context, r io.ReaderAt, have []bool, all bool, done int64, opt Options) (int64, error) {
	u := &unpacking{Unpacker: up, r: r, have: have, all: all, done: done, progress: opt.Progress, again: opt.Again}
	u.listed = sync.OnceValue(func() map[string]bool {
		names := make(map[string]bool, len(u.m.Entries))
		for i := range u.m.Entries {
			names[u.m.Entries[i].Path] = true
		}
		return names
	})
	// What a broken frame leaves open.
	defer func() {
		for i := range u.shares {
			if p := u.shares[i].part; p != nil && p.out != nil {
				_ = p.out.Close()
			}
		}
	}()

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	for range min(maxWorkers, u.cores, len(u.shares)) {
		wg.Go(func() {
			if err := u.work(ctx); err != nil {
				stop(err) // only the first counts
			}
		})
	}
	wg.Wait()
	return u.done, context.Cause(ctx)
}

// ends reports whether r ends where it must: a file may not be longer than what was
// signed.
func (u *Unpacker) ends(r io.ReaderAt) error {
	n, err := r.ReadAt(make([]byte, 1), u.h.Size(u.m))
	switch {
	case n > 0:
		return damaged(bootcheck.CodeSizeMismatch, "something follows the end of the bundle")
	case err != nil && !atEnd(err):
		return fmt.Errorf("cannot read the bundle: %w", err)
	}
	return nil
}

// A worker is what one goroutine keeps from frame to frame.
type worker struct {
	*unpacking
	zstd          *zstd.Decoder
	packed, frame []byte // of bootcheck.Buffer
	dirs          bootcheck.Dirs
}

// work takes one frame after another, in their order, until none is left. A
// worker waits only for frames before its own, so one of them always continues.
func (u *unpacking) work(ctx context.Context) error {
	d, err := newDecoder(bootcheck.MaxFrameSize)
	if err != nil {
		return err
	}
	w := &worker{unpacking: u, zstd: d}
	if u.fill != nil {
		w.dirs = u.fill.Dirs()
	}
	defer w.close()
	// Once, and as large as any frame needs.
	var packed, frame int64
	for i := range u.m.Frames {
		packed, frame = max(packed, u.m.Frames[i].Length), max(frame, u.m.Frames[i].Size)
	}
	if w.packed, err = bootcheck.Buffer(packed); err != nil {
		return err
	}
	if w.frame, err = bootcheck.Buffer(frame + decodeSlack); err != nil {
		return err
	}
	for {
		i := int(u.next.Add(1) - 1)
		if i >= len(u.shares) {
			return nil
		}
		if !u.all && !u.needs(i, u.have) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		tar, err := w.readFrame(ctx, i)
		if err != nil {
			return err
		}
		if err := w.share(ctx, i, tar); err != nil {
			return err
		}
	}
}

func (w *worker) close() {
	w.zstd.Close()
	w.dirs.Close()
	for _, b := range [][]byte{w.packed, w.frame} {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
}

// readFrame reads, checks and decodes frame i.
func (w *worker) readFrame(ctx context.Context, i int) ([]byte, error) {
	f := &w.m.Frames[i]
	packed, at := w.packed[:f.Length], w.h.PayloadOffset+f.Offset
	for {
		if err := readFull(w.r, packed, at); err != nil {
			return nil, fmt.Errorf("cannot read frame %d of the bundle: %w", i, err)
		}
		got := sha256.Sum256(packed)
		if hex.EncodeToString(got[:]) == f.SHA256 {
			break
		}
		err := damaged(bootcheck.CodeHashMismatch, "frame %d of the bundle is damaged: sha256 %x, the manifest says %s", i, got, f.SHA256)
		if w.again == nil {
			return nil, err
		}
		if err := w.again(ctx, Span{at, at + f.Length}, err); err != nil {
			return nil, err
		}
	}
	tar, err := decodeFrame(w.zstd, packed, w.frame[:0], f.Size)
	if err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "frame %d of the bundle refused: %v", i, err)
	}
	return tar, nil
}

// share does what frame i, decoded, asks for.
func (w *worker) share(ctx context.Context, i int, tar []byte) error {
	s := &w.shares[i]
	var content int64
	switch {
	case s.part != nil:
		n, err := w.partOf(ctx, i, tar)
		if err != nil {
			return err
		}
		content = n
	case s.count == 0:
		if !zero(tar) {
			return damaged(bootcheck.CodeInvalidManifest, "the archive continues after the last entry of the manifest")
		}
	default:
		for k := range s.count {
			e := &w.m.Entries[s.first+k]
			mem := entryMember(e)
			if err := w.small(s.first+k, mem, tar[:mem.memberLen()]); err != nil {
				return err
			}
			tar = tar[mem.memberLen():]
			if !w.have[s.first+k] {
				content += e.Size
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done += content
	if w.progress != nil {
		w.progress(w.done, w.m.Size)
	}
	return nil
}

// small does one whole member, that of entry i.
func (w *worker) small(i int, mem member, tar []byte) error {
	e := &w.m.Entries[i]
	if err := w.header(tar, mem); err != nil {
		return err
	}
	tar = tar[mem.headerLen():]
	content := tar[:e.Size]
	if !zero(tar[e.Size:]) {
		return damaged(bootcheck.CodeInvalidManifest, "member %q: its padding is not zero", e.Path)
	}
	if e.Type != bootcheck.TypeFile {
		return nil // bootcheck.Fill makes it from the manifest
	}
	sum := sha256.Sum256(content)
	if err := checkSum(e, sum[:]); err != nil || w.root == nil || w.have[i] {
		return err
	}
	f, err := w.dirs.Create(e.Path)
	if err == nil {
		err = bootcheck.WriteAndClose(f, content, e.Mode)
	}
	if err != nil {
		return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
	}
	return nil
}

// partOf does frame i, one part of a large member, and says how much of the file's
// content was in it.
func (w *worker) partOf(ctx context.Context, i int, tar []byte) (int64, error) {
	s := &w.shares[i]
	p := s.part
	e := &w.m.Entries[p.entry]
	if s.offset > 0 {
		// The frame before is with another worker.
		select {
		case <-w.shares[i-1].done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	next := s.offset + int64(len(tar))
	if s.offset == 0 {
		mem := entryMember(e)
		if err := w.header(tar, mem); err != nil {
			return 0, err
		}
		tar = tar[mem.headerLen():]
		p.sum = sha256.New()
		if w.root != nil {
			f, err := w.dirs.Create(e.Path)
			if err != nil {
				return 0, fmt.Errorf("cannot unpack %q: %w", e.Path, err)
			}
			p.out = f
		}
	}
	content := tar
	if next == p.size {
		pad := roundUp(e.Size) - e.Size
		content = tar[:int64(len(tar))-pad]
		if !zero(tar[len(content):]) {
			return 0, damaged(bootcheck.CodeInvalidManifest, "member %q: its padding is not zero", e.Path)
		}
	}
	p.sum.Write(content)
	if next == p.size {
		if err := checkSum(e, p.sum.Sum(nil)); err != nil {
			return 0, err
		}
	}
	if p.out != nil {
		var err error
		if next < p.size {
			err = bootcheck.Write(p.out, content)
		} else {
			err = bootcheck.WriteAndClose(p.out, content, e.Mode)
			p.out = nil
		}
		if err != nil {
			return 0, fmt.Errorf("cannot unpack %q: %w", e.Path, err)
		}
	}
	close(s.done)
	return int64(len(content)), nil
}

func (w *worker) header(tar []byte, mem member) error {
	err := checkHeader(tar, mem, func(name string) bool { return w.listed()[name] })
	if err != nil {
		return damaged(bootcheck.CodeInvalidManifest, "%w", err)
	}
	return nil
}

func checkSum(e *bootcheck.Entry, sum []byte) error {
	if got := hex.EncodeToString(sum); got != e.SHA256 {
		return damaged(bootcheck.CodeHashMismatch, "file %q: sha256 %s, the manifest says %s", e.Path, got, e.SHA256)
	}
	return nil
}
