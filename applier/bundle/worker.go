package bundle

import (
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/bootcheck"
)

// maxWorkers is how many frames are worked on at once, at most: each needs two
// buffers of up to 4 MiB, and the eMMC is the limit before three cores are.
const maxWorkers = 3

// Maker makes files from the bundle r, which may still grow: its ReadAt waits for what is
// not there yet, and gives up when ctx ends. A read at the bundle's end returns io.EOF when
// all of it arrived.
//
// Each frame is hashed before it is decoded.
func (h *Head) Maker(r io.ReaderAt, again Again) Maker {
	return func(ctx context.Context, files *Files) error {
		shares, err := planFrames(files.M)
		if err != nil {
			return err
		}
		start := func() (Worker, error) {
			return newWorker(worker{Files: files, h: h, r: r, again: again, shares: shares})
		}
		if err := files.Work(ctx, needed(shares, files.all, files.Needs), maxWorkers, start); err != nil {
			return err
		}
		// A file may not be longer than what was signed.
		n, err := r.ReadAt(make([]byte, 1), h.Size(files.M))
		switch {
		case n > 0:
			return damaged(bootcheck.CodeSizeMismatch, "something follows the end of the bundle")
		case err != nil && !atEnd(err):
			return fmt.Errorf("cannot read the bundle: %w", err)
		}
		return nil
	}
}

// A worker is what one goroutine keeps from frame to frame.
type worker struct {
	*Files
	h      *Head
	r      io.ReaderAt
	again  Again
	shares []share

	zstd          *zstd.Decoder
	buffer        []byte
	packed, frame []byte // of buffer
	dirs          bootcheck.Dirs
}

// newWorker is w with what it needs of its own.
func newWorker(w worker) (_ *worker, err error) {
	// Once, and as large as any frame needs.
	var packed, frame int64
	for i := range w.M.Frames {
		packed, frame = max(packed, w.M.Frames[i].Length), max(frame, w.M.Frames[i].Size)
	}
	if w.buffer, err = bootcheck.Buffer(packed + frame + DecodeSlack); err != nil {
		return nil, err
	}
	w.packed, w.frame = w.buffer[:packed], w.buffer[packed:]
	if w.zstd, err = NewDecoder(bootcheck.MaxFrameSize); err != nil {
		bootcheck.Unmap(w.buffer)
		return nil, err
	}
	w.dirs = w.Dirs()
	return &w, nil
}

func (w *worker) Close() {
	w.zstd.Close()
	w.dirs.Close()
	bootcheck.Unmap(w.buffer)
}

func (w *worker) Frame(ctx context.Context, i int) error {
	tar, err := w.readFrame(ctx, i)
	if err != nil {
		return err
	}
	return w.share(ctx, i, tar)
}

// readFrame reads, checks and decodes frame i.
func (w *worker) readFrame(ctx context.Context, i int) ([]byte, error) {
	f := &w.M.Frames[i]
	packed, at := w.packed[:f.Length], w.h.PayloadOffset+f.Offset
	for {
		if err := ReadFull(w.r, "bundle", packed, at); err != nil {
			return nil, fmt.Errorf("cannot read frame %d of the bundle: %w", i, err)
		}
		got := Sum(packed)
		if got == f.SHA256 {
			break
		}
		err := damaged(bootcheck.CodeHashMismatch, "frame %d of the bundle is damaged: sha256 %s, the manifest says %s", i, got, f.SHA256)
		if w.again == nil {
			return nil, err
		}
		if err := w.again(ctx, Span{at, at + f.Length}, err); err != nil {
			return nil, err
		}
	}
	tar, err := DecodeInto(w.zstd, packed, w.frame[:0], f.Size)
	if err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "frame %d of the bundle refused: %v", i, err)
	}
	return tar, nil
}

// share does what frame i, decoded, asks for: it has whole members, or a part of one.
// Directories and links are made from the manifest, see bootcheck.Fill.
func (w *worker) share(ctx context.Context, i int, tar []byte) error {
	s := &w.shares[i]
	if s.count == 0 && !zero(tar) {
		return damaged(bootcheck.CodeInvalidManifest, "the archive continues after the last entry of the manifest")
	}
	at := s.offset // in the member
	for k := s.first; k < s.first+s.count; k++ {
		mem := entryMember(&w.M.Entries[k])
		part := tar[:min(int64(len(tar)), mem.memberLen()-at)]
		tar = tar[len(part):]
		if at == 0 {
			if err := checkHeader(part, mem, w.M.Entries); err != nil {
				return damaged(bootcheck.CodeInvalidManifest, "%w", err)
			}
			at = mem.headerLen()
			part = part[at:]
		}
		offset := at - mem.headerLen() // in the file
		content := part[:min(int64(len(part)), mem.size-offset)]
		if !zero(part[len(content):]) {
			return damaged(bootcheck.CodeInvalidManifest, "member %q: its padding is not zero", mem.name)
		}
		// A part may be a header alone.
		if mem.kind == typeFile && (len(content) > 0 || mem.size == 0) {
			if err := w.Write(ctx, &w.dirs, k, offset, content); err != nil {
				return err
			}
		}
		at = 0
	}
	return nil
}
