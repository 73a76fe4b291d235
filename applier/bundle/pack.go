package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// packed is a frame on its way from the reader of the files, through a
// compressor, to the writer of the payload.
type packed struct {
	tar  []byte
	out  []byte
	done chan struct{} // closed when out is made
}

// pack writes the payload of m to w and fills in the hashes of the files and the
// frames. One goroutine reads the files in order, several compress, and the
// caller's writes in order, so the result does not depend on how many there are.
func pack(ctx context.Context, w io.Writer, m *bootcheck.Manifest, c Contents) error {
	p := packings[c.Level]
	sizes := cutFrames(m.Entries, p.group)
	newCompressor, err := p.compressors()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait() // no goroutine works on m when this returns
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	workers := runtime.GOMAXPROCS(0)
	inOrder := make(chan *packed, workers)
	todo := make(chan *packed, workers)

	t := &tarReader{ctx: ctx, dir: c.Dir, sbom: c.SBOM, entries: m.Entries, sum: sha256.New()}
	wg.Go(func() {
		defer close(todo)
		defer close(inOrder)
		defer t.close()
		if err := t.frames(sizes, func(tar []byte) error {
			p := &packed{tar: tar, done: make(chan struct{})}
			for _, ch := range []chan *packed{inOrder, todo} {
				select {
				case ch <- p:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			return nil
		}); err != nil {
			stop(err)
		}
	})
	for range workers {
		wg.Go(func() {
			compress, err := newCompressor()
			for p := range todo {
				if err == nil {
					p.out, err = compress(ctx, p.tar)
				}
				if err != nil {
					stop(err)
					return
				}
				close(p.done)
			}
		})
	}

	var offset, tarDone, tarTotal int64
	for _, n := range sizes {
		tarTotal += n
	}
	for p := range inOrder {
		select {
		case <-p.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if _, err := w.Write(p.out); err != nil {
			return fmt.Errorf("cannot create the bundle: %w", err)
		}
		sum := sha256.Sum256(p.out)
		m.Frames = append(m.Frames, bootcheck.Frame{
			Offset: offset,
			Length: int64(len(p.out)),
			Size:   int64(len(p.tar)),
			SHA256: hex.EncodeToString(sum[:]),
		})
		offset += int64(len(p.out))
		tarDone += int64(len(p.tar))
		if c.Progress != nil {
			// Headers and padding count too, so scale to the files' size.
			c.Progress(int64(float64(m.Size)*float64(tarDone)/float64(tarTotal)), m.Size)
		}
	}
	return context.Cause(ctx)
}

// A tarReader reads the tree as the tar archive of its entries, and notes the
// hashes of the files while it does.
type tarReader struct {
	ctx     context.Context
	dir     string
	sbom    []byte // the file bootcheck.SBOMPath, which is not in dir; nil: it is, or is not packed
	entries []bootcheck.Entry
	next    int       // the entry after the current one
	header  []byte    // what is left of the current header
	from    io.Reader // the content of the current file
	file    *os.File  // that is closed after it
	left    int64     // what is left of its content
	pad     int64     // zeros after it
	sum     hash.Hash // of its content so far
}

// frames calls yield with each frame's tar stream, cut into sizes.
func (t *tarReader) frames(sizes []int64, yield func(tar []byte) error) error {
	for _, size := range sizes {
		tar := make([]byte, size)
		if err := t.fill(tar); err != nil {
			return err
		}
		if err := yield(tar); err != nil {
			return err
		}
	}
	return nil
}

// fill fills b, which is zero, with what comes next.
func (t *tarReader) fill(b []byte) error {
	for len(b) > 0 {
		switch {
		case len(t.header) > 0:
			n := copy(b, t.header)
			b, t.header = b[n:], t.header[n:]
		case t.left > 0:
			n := min(int64(len(b)), t.left)
			if err := t.content(b[:n]); err != nil {
				return err
			}
			b, t.left = b[n:], t.left-n
			if t.left == 0 {
				if err := t.endFile(); err != nil {
					return err
				}
			}
		case t.pad > 0:
			n := min(int64(len(b)), t.pad)
			b, t.pad = b[n:], t.pad-n
		case t.next < len(t.entries):
			t.next++
			if err := t.begin(t.current()); err != nil {
				return err
			}
		default:
			return nil // the end: zeros
		}
	}
	return nil
}

func (t *tarReader) current() *bootcheck.Entry { return &t.entries[t.next-1] }

func (t *tarReader) begin(e *bootcheck.Entry) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	t.header = entryMember(e).appendHeader(nil)
	if e.Type != bootcheck.TypeFile {
		return nil
	}
	t.left, t.pad = e.Size, roundUp(e.Size)-e.Size
	t.sum.Reset()
	if e.Path == bootcheck.SBOMPath && t.sbom != nil {
		t.from = bytes.NewReader(t.sbom)
		return nil
	}
	f, err := os.OpenFile(filepath.Join(t.dir, filepath.FromSlash(e.Path)), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot pack the tree: %w", err)
	}
	t.file, t.from = f, f
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("cannot pack the tree: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() != e.Size || bootcheck.Mode(st.Mode().Perm()) != e.Mode {
		return changed(e)
	}
	if e.Size == 0 {
		return t.endFile()
	}
	return nil
}

func (t *tarReader) content(b []byte) error {
	_, err := io.ReadFull(t.from, b)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return changed(t.current())
	case err != nil:
		return fmt.Errorf("cannot pack the tree: %w", err)
	}
	t.sum.Write(b)
	return nil
}

// endFile notes the hash, if the file really ends here.
func (t *tarReader) endFile() error {
	e := t.current()
	if n, err := t.from.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		return changed(e)
	}
	e.SHA256 = hex.EncodeToString(t.sum.Sum(nil))
	t.close()
	return nil
}

func (t *tarReader) close() {
	if t.file != nil {
		_ = t.file.Close()
		t.file = nil
	}
}

func changed(e *bootcheck.Entry) error {
	return fmt.Errorf("cannot pack %q: it changed while it was packed", e.Path)
}
