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
		start := func() (*FrameReader, error) { return NewFrameReader(r, "bundle", again, packed, size, 0) }
		m := &making{files, h, shares}
		if err := files.Work(ctx, needed(shares, files.all, files.Needs), maxWorkers, start, m.frame); err != nil {
			return err
		}
		return CheckEnd(r, "bundle", h.Size(files.M))
	}
}

// A making is one call of a Maker.
type making struct {
	*Files
	h      *Head
	shares []share
}

// frame reads, checks and decodes frame i, and does what it asks for.
func (m *making) frame(ctx context.Context, w *Worker, i int) error {
	f, name := &m.M.Frames[i], fmt.Sprintf("frame %d of the bundle", i)
	if err := w.Read(ctx, name, m.h.PayloadOffset+f.Offset, f.Length, f.SHA256); err != nil {
		return err
	}
	tar, err := w.Decode(f.Size, nil)
	if err != nil {
		return damaged(bootcheck.CodeInvalidManifest, "%s refused: %v", name, err)
	}
	return m.share(ctx, w, i, tar)
}

// share does what frame i, decoded, asks for: it has whole members, or a part of one.
// Directories and links are made from the manifest, see bootcheck.Fill.
func (m *making) share(ctx context.Context, w *Worker, i int, tar []byte) error {
	s := &m.shares[i]
	if s.count == 0 && !zero(tar) {
		return damaged(bootcheck.CodeInvalidManifest, "the archive continues after the last entry of the manifest")
	}
	at := s.offset // in the member
	for k := s.first; k < s.first+s.count; k++ {
		mem := entryMember(&m.M.Entries[k])
		part := tar[:min(int64(len(tar)), mem.memberLen()-at)]
		tar = tar[len(part):]
		if at == 0 {
			if err := checkHeader(part, mem, m.M.Entries); err != nil {
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
			if err := m.Write(ctx, w, k, offset, content); err != nil {
				return err
			}
		}
		at = 0
	}
	return nil
}
