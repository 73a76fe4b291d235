package bundle

import (
	"context"
	"fmt"
	"io"

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
		var packed, size int64
		for i := range files.M.Frames {
			packed, size = max(packed, files.M.Frames[i].Length), max(size, files.M.Frames[i].Size)
		}
		start := func() (Worker, error) {
			frames, _, err := NewFrameReader(r, "bundle", again, packed, size, 0)
			return &worker{files, frames, h, shares, files.Dirs()}, err
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
	*FrameReader
	h      *Head
	shares []share
	dirs   bootcheck.Dirs
}

func (w *worker) Close() {
	w.FrameReader.Close()
	w.dirs.Close()
}

// Frame reads, checks and decodes frame i, and does what it asks for.
func (w *worker) Frame(ctx context.Context, i int) error {
	f, name := &w.M.Frames[i], fmt.Sprintf("frame %d of the bundle", i)
	if err := w.Read(ctx, name, w.h.PayloadOffset+f.Offset, f.Length, f.SHA256); err != nil {
		return err
	}
	tar, err := w.Decode(f.Size, nil)
	if err != nil {
		return damaged(bootcheck.CodeInvalidManifest, "%s refused: %v", name, err)
	}
	return w.share(ctx, i, tar)
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
