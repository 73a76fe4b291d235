package patch

import (
	"cmp"
	"context"
	"io"
	"iter"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// maxWorkers is how many frames are made at once, at most: each needs 7 MiB, and a window
// in the decoder.
const maxWorkers = 2

// Maker makes files of the version that p makes from r, the same as that of Open, and from the
// old version in the directory from. r may still grow: see bundle.Head.Maker. Each file of the
// old version that is used is hashed once, whole, through the descriptor that is read afterwards.
// damaged is told those that are not what their manifest says, each once, and why. Calls do not
// overlap. nil: not called.
//
// Errors are *bootcheck.Error with ExitDamaged for the patch, the old version and a file that comes out
// wrong, else those of r, of ctx and of the disk.
func (p *Patch) Maker(r io.ReaderAt, from string, again bundle.Again, damaged func(path string, why error)) bundle.Maker {
	return func(ctx context.Context, files *bundle.Files) error {
		root, err := os.OpenRoot(from)
		if err != nil {
			return err
		}
		defer root.Close()
		a := &application{Patch: p, Files: files, root: root, damaged: damaged, used: make(map[int64]*oldFile)}
		frames, err := a.plan()
		if err != nil {
			return err
		}
		defer func() {
			for _, f := range a.used {
				_ = f.file.Close() // what an error leaves open
			}
		}()
		start := func() (*bundle.FrameReader, error) { return newReader(r, again) }
		if err := files.Work(ctx, frames, maxWorkers, start, a.frame); err != nil {
			return err
		}
		return bundle.CheckEnd(r, "patch", p.Size)
	}
}

// An application is one call of a Maker.
type application struct {
	*Patch
	*bundle.Files
	root *os.Root           // of the old version
	used map[int64]*oldFile // by entry: those that windows show

	mu      sync.Mutex
	damaged func(path string, why error)
}

// plan compares the frames with the new manifest, and lists those that make what is needed.
func (a *application) plan() (needed []int, err error) {
	if err := checkFrames(a.frames, fileSize(a.old), fileSize(a.M)); err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "the patch is refused: %w", err)
	}
	made := make(map[int64]bool)
	for i := range a.frames {
		f, needs := &a.frames[i], false
		for out := range f.Out.parts() {
			made[out.entry] = true
			needs = needs || a.Needs(int(out.entry))
		}
		if !needs {
			continue
		}
		needed = append(needed, i)
		for p := range f.Window.parts() {
			if a.used[p.entry] == nil {
				a.used[p.entry] = &oldFile{Entry: &a.old.Entries[p.entry]}
			}
			a.used[p.entry].uses.Add(1)
		}
	}
	for i := range a.M.Entries {
		if a.Needs(i) && !made[int64(i)] {
			return nil, damaged(bootcheck.CodeHashMismatch, "the patch does not make %q, and no version here has it", a.M.Entries[i].Path)
		}
	}
	return needed, nil
}

// frame makes what frame i is for.
func (a *application) frame(ctx context.Context, w *bundle.Worker, i int) error {
	f := &a.frames[i]
	out, err := f.make(ctx, w.FrameReader, a.at[i], func(window []byte) error { return a.read(ctx, f, window) })
	if err != nil {
		return err
	}
	for p := range f.Window.parts() {
		if old := a.used[p.entry]; old.uses.Add(-1) == 0 {
			_ = old.file.Close()
		}
	}
	for p := range f.Out.parts() {
		content := out[:p.length]
		out = out[p.length:]
		if a.Needs(int(p.entry)) {
			if err := a.Write(ctx, w, int(p.entry), p.offset, content); err != nil {
				return err
			}
		}
	}
	return nil
}

// read fills the window of f, of several old files at once: each has its own wait for the
// disk.
func (a *application) read(ctx context.Context, f *Frame, window []byte) error {
	var reads []func() error
	for p := range f.Window.parts() {
		part := window[:p.length]
		window = window[p.length:]
		reads = append(reads, func() error {
			old := a.used[p.entry]
			err := a.open(ctx, old)
			if err == nil {
				_, err = old.file.ReadAt(part, p.offset)
			}
			return err
		})
	}
	var mu sync.Mutex
	var failed error
	bootcheck.Parallel(len(reads), func(share iter.Seq[int]) {
		for k := range share {
			if err := reads[k](); err != nil {
				mu.Lock()
				failed = cmp.Or(failed, err)
				mu.Unlock()
				return
			}
		}
	})
	return failed
}

// An oldFile is a file of the old version that windows show.
type oldFile struct {
	*bootcheck.Entry
	uses atomic.Int32 // windows that are still to be filled

	opened sync.Once
	file   *os.File // hashed; nil: it cannot be used
	err    error    // why
}

// open opens f, once, and compares it with the manifest of the old version.
func (a *application) open(ctx context.Context, f *oldFile) error {
	f.opened.Do(func() {
		file, err := a.root.OpenFile(f.Path, os.O_RDONLY|unix.O_NONBLOCK, 0) // what it is its hash says
		if err == nil {
			if err = f.CheckContent(ctx, file); err == nil {
				f.file = file
				return
			}
			file.Close()
		}
		if f.err = err; ctx.Err() != nil || bootcheck.Inconclusive(err) {
			return
		}
		if a.damaged != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.damaged(f.Path, err)
		}
		f.err = damaged(bootcheck.CodeHashMismatch, "the patch cannot be used: %q of the old version: %w", f.Path, err)
	})
	return f.err
}
