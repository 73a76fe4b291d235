package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tope-ota/ota/bootcheck"
)

// Progress is told how many bytes of file content are done, of how many, after each frame.
// Calls do not overlap and never go back. It must not block for long: the work waits. nil:
// not called.
type Progress func(doneBytes, total int64)

// Again is called when the part s of a bundle or a patch is not what it should be; wrong says
// so. It returns nil when that part was fetched again and can be read again, else the error
// that is the end. It may wait. nil: the part does not change.
type Again func(ctx context.Context, s Span, wrong error) error

// A Maker makes all that files needs.
type Maker func(ctx context.Context, files *Files) error

// Files are the files of a version that a Maker makes, or that are only checked.
type Files struct {
	M *bootcheck.Manifest

	fill     *bootcheck.Fill // where they are made; nil: they are only checked
	keep     []byte          // gets the content of the one file that is needed, if not nil
	have     []bool          // by entry: files that are there, or that others make
	all      bool            // frames are read, also of files that are there
	cores    int             // before Fill.Take raises GOMAXPROCS
	progress Progress

	mu    sync.Mutex
	done  int64 // bytes of content
	large []*large
	turns map[turn]chan *large
}

// A large is a file that is made in parts.
type large struct {
	out *os.File // nil: it is only checked
	sum hash.Hash
}

// A turn is that of a part of a large file: the one before hands the file over.
type turn struct {
	entry  int
	offset int64
}

func newFiles(m *bootcheck.Manifest, fill *bootcheck.Fill, have []bool, progress Progress) *Files {
	return &Files{M: m, fill: fill, have: have, progress: progress, cores: runtime.GOMAXPROCS(0), turns: make(map[turn]chan *large)}
}

// Needs reports whether entry i is a file that has to be made.
func (f *Files) Needs(i int) bool { return f.M.Entries[i].Type == bootcheck.TypeFile && !f.have[i] }

// A Worker is what one goroutine has to read frames and to write files.
type Worker struct {
	*FrameReader
	dirs bootcheck.Dirs
}

// Work calls do for each of frames, with one of at most most workers at once. They take one after
// another, in their order, so that a Write that waits for the frame before its own always continues.
func (f *Files) Work(ctx context.Context, frames []int, most int, newReader func() (*FrameReader, error), do func(ctx context.Context, w *Worker, i int) error) error {
	defer func() {
		for _, l := range f.large {
			_ = l.out.Close() // what an error leaves open
		}
	}()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	work := func() error {
		r, err := newReader()
		if err != nil {
			return err
		}
		defer r.Close()
		w := &Worker{FrameReader: r}
		if f.fill != nil {
			w.dirs = f.fill.Dirs()
			defer w.dirs.Close()
		}
		for k := next.Add(1) - 1; k < int64(len(frames)); k = next.Add(1) - 1 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := do(ctx, w, frames[k]); err != nil {
				return err
			}
			f.tell()
		}
		return nil
	}
	var wg sync.WaitGroup
	for range min(most, f.cores, len(frames)) {
		wg.Go(func() {
			if err := work(); err != nil {
				stop(err) // only the first counts
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (f *Files) tell() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.progress != nil {
		f.progress(f.done, f.M.Size)
	}
}

// Write hashes content, which the file of entry i has from offset on, and writes it, if the
// file is needed. Parts of one file come from frames that follow each other: each waits for the
// one before. The SHA-256 of the whole file is compared with the manifest before its last byte is
// written; then it gets its mode.
func (f *Files) Write(ctx context.Context, w *Worker, i int, offset int64, content []byte) error {
	e := &f.M.Entries[i]
	if int64(len(content)) < e.Size {
		if err := f.writePart(ctx, &w.dirs, i, offset, content); err != nil {
			return err
		}
	} else {
		if err := checkSum(e, Sum(content)); err != nil {
			return err
		}
		if f.fill != nil && f.Needs(i) {
			file, err := w.dirs.Create(e.Path)
			if err == nil {
				err = bootcheck.WriteAndClose(file, content, e.Mode)
			}
			if err != nil {
				return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
			}
		}
	}
	if !f.Needs(i) {
		return nil
	}
	if f.keep != nil {
		copy(f.keep[offset:], content)
	}
	f.mu.Lock()
	f.done += int64(len(content))
	f.mu.Unlock()
	return nil
}

func (f *Files) writePart(ctx context.Context, dirs *bootcheck.Dirs, i int, offset int64, content []byte) (err error) {
	e := &f.M.Entries[i]
	var l *large
	if offset == 0 {
		l = &large{sum: sha256.New()}
		if f.fill != nil {
			if l.out, err = dirs.Create(e.Path); err != nil {
				return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
			}
		}
		f.mu.Lock()
		f.large = append(f.large, l)
		f.mu.Unlock()
	} else {
		select {
		case l = <-f.turn(i, offset):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.sum.Write(content)
	next := offset + int64(len(content))
	if next == e.Size {
		if err := checkSum(e, hex.EncodeToString(l.sum.Sum(nil))); err != nil {
			return err
		}
	}
	switch {
	case f.fill == nil:
	case next < e.Size:
		err = bootcheck.Write(l.out, content)
	default:
		err = bootcheck.WriteAndClose(l.out, content, e.Mode)
	}
	if err != nil {
		return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
	}
	f.turn(i, next) <- l
	return nil
}

// turn is where the part of entry i that begins at offset gets the file.
func (f *Files) turn(i int, offset int64) chan *large {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := turn{i, offset}
	if f.turns[t] == nil {
		f.turns[t] = make(chan *large, 1)
	}
	return f.turns[t]
}

func checkSum(e *bootcheck.Entry, sum string) error {
	if sum != e.SHA256 {
		return damaged(bootcheck.CodeHashMismatch, "file %q: sha256 %s, the manifest says %s", e.Path, sum, e.SHA256)
	}
	return nil
}

// Sum is the SHA-256 of b, hex.
func Sum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
