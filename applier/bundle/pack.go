package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/tope-ota/ota/bootcheck"
)

// InOrder calls do for all that jobs yields, in several goroutines at once, and hands the results
// to use, in the order of the jobs. The first error ends it. No goroutine is at work when it returns.
func InOrder[J, R any](ctx context.Context, jobs func(yield func(J) bool) error, do func(context.Context, J) (R, error), use func(J, R) error) error {
	type task struct {
		job    J
		result chan R
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	workers := runtime.GOMAXPROCS(0)
	inOrder, todo := make(chan task, workers), make(chan task, workers)
	wg.Go(func() {
		defer close(todo)
		defer close(inOrder)
		if err := jobs(func(job J) bool {
			t := task{job, make(chan R, 1)}
			for _, ch := range []chan task{inOrder, todo} {
				select {
				case ch <- t:
				case <-ctx.Done():
					return false
				}
			}
			return true
		}); err != nil {
			stop(err)
		}
	})
	for range workers {
		wg.Go(func() {
			for t := range todo {
				result, err := do(ctx, t.job)
				if err != nil {
					stop(err)
					return
				}
				t.result <- result
			}
		})
	}
	for t := range inOrder {
		select {
		case result := <-t.result:
			if err := use(t.job, result); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return context.Cause(ctx)
}

// pack writes the payload of m to w and fills in the hashes of the files and the
// frames. The result does not depend on how many cores there are.
func pack(ctx context.Context, w io.Writer, m *bootcheck.Manifest, c Contents) error {
	p := packings[c.Level]
	compress, err := p.compressor()
	if err != nil {
		return err
	}
	t := &tarReader{dir: c.Dir, sbom: c.SBOM, sizes: cutFrames(m.Entries, p.group)}
	var offset, tarDone, tarTotal int64
	for _, n := range t.sizes {
		tarTotal += n
	}
	read := func(yield func(tar []byte) bool) error { return t.read(ctx, m.Entries, yield) }
	return InOrder(ctx, read, compress, func(tar, frame []byte) error {
		if _, err := w.Write(frame); err != nil {
			return fmt.Errorf("cannot create the bundle: %w", err)
		}
		length := int64(len(frame))
		m.Frames = append(m.Frames, bootcheck.Frame{Offset: offset, Length: length, Size: int64(len(tar)), SHA256: Sum(frame)})
		offset += length
		tarDone += int64(len(tar))
		if c.Progress != nil {
			// Headers and padding count too, so scale to the files' size.
			c.Progress(int64(float64(m.Size)*float64(tarDone)/float64(tarTotal)), m.Size)
		}
		return nil
	})
}

// A tarReader reads the tree as the tar archive of its entries, cut into frames.
type tarReader struct {
	dir   string
	sbom  []byte  // the file bootcheck.SBOMPath, which is not in dir; nil: it is, or is not packed
	sizes []int64 // of the frames that are still to come
	yield func(tar []byte) bool
	frame []byte
	free  []byte // of frame
}

// read calls yield with one frame after another, and notes the hashes of the files.
func (t *tarReader) read(ctx context.Context, entries []bootcheck.Entry, yield func(tar []byte) bool) error {
	t.yield = yield
	for i := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.member(&entries[i]); err != nil {
			return err
		}
	}
	_, err := t.Write(make([]byte, endSize))
	return err
}

// Write is what comes next in the archive.
func (t *tarReader) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if len(t.free) == 0 {
			t.frame = make([]byte, t.sizes[0])
			t.free, t.sizes = t.frame, t.sizes[1:]
		}
		k := copy(t.free, p[n:])
		n += k
		if t.free = t.free[k:]; len(t.free) == 0 && !t.yield(t.frame) {
			return n, context.Canceled
		}
	}
	return n, nil
}

func (t *tarReader) member(e *bootcheck.Entry) error {
	if _, err := t.Write(entryMember(e).appendHeader(nil)); err != nil || e.Type != bootcheck.TypeFile {
		return err
	}
	from, err := t.open(e)
	if err != nil {
		return err
	}
	defer from.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(t, sum), io.LimitReader(from, e.Size+1))
	switch {
	case err != nil:
		return fmt.Errorf("cannot pack the tree: %w", err)
	case n != e.Size:
		return changed(e)
	}
	e.SHA256 = hex.EncodeToString(sum.Sum(nil))
	_, err = t.Write(make([]byte, roundUp(e.Size)-e.Size))
	return err
}

// open opens the file e, which must be as it was.
func (t *tarReader) open(e *bootcheck.Entry) (io.ReadCloser, error) {
	if e.Path == bootcheck.SBOMPath && t.sbom != nil {
		return io.NopCloser(bytes.NewReader(t.sbom)), nil
	}
	f, err := openNoFollow(filepath.Join(t.dir, filepath.FromSlash(e.Path)))
	if err != nil {
		return nil, fmt.Errorf("cannot pack the tree: %w", err)
	}
	st, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("cannot pack the tree: %w", err)
	case !st.Mode().IsRegular() || st.Size() != e.Size || bootcheck.Mode(st.Mode().Perm()) != e.Mode:
		err = changed(e)
	default:
		return f, nil
	}
	f.Close()
	return nil, err
}

func changed(e *bootcheck.Entry) error {
	return fmt.Errorf("cannot pack %q: it changed while it was packed", e.Path)
}
