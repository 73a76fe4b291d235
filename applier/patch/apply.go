package patch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// maxWorkers is how many frames are made at once, at most: each needs 7 MiB, and a window
// in the decoder.
const maxWorkers = 2

// Options of Apply.
type Options struct {
	// Progress is told how many bytes of content are there, of how many, after each frame.
	// Calls do not overlap. nil: not called.
	Progress func(doneBytes, total int64)
	Again    Again
	// Have are the files that need not be made, by entry, of which there are Done bytes of
	// content. nil: fill.Have, and what it took.
	Have []bool
	Done int64
	// Damaged is told the file of the old version that is not what its manifest says, and why.
	// nil: not called.
	Damaged func(path string, why error)
}

// Apply makes the files that fill, of the manifest that p makes, has not, from r, the same as that of Open, and from the
// old version in the directory from. r may still grow: see bundle.Unpacker.Finish. Each file of the old version
// that is used is hashed once, whole, through the descriptor that is read afterwards. Each file has the SHA-256 of
// the manifest before it counts in fill.Have. done is opt.Done, with what it made.
//
// Errors are *bootcheck.Error with ExitDamaged for the patch, the old version and a file that comes out
// wrong, else those of r, of ctx and of the disk. What an error leaves behind the caller
// removes.
func (p *Patch) Apply(ctx context.Context, r io.ReaderAt, from string, fill *bootcheck.Fill, opt Options) (done int64, err error) {
	root, err := os.OpenRoot(from)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	if opt.Have == nil {
		opt.Have, opt.Done = fill.Have, fill.Taken
	}
	a := &application{Patch: p, fill: fill, root: root, opt: opt, links: make([]link, len(p.files))}
	if err := a.plan(); err != nil {
		return 0, err
	}
	defer func() {
		for _, f := range p.old {
			f.close()
			f.uses = 0
		}
	}()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var wg sync.WaitGroup
	for range min(maxWorkers, runtime.GOMAXPROCS(0), len(p.files)) {
		wg.Go(func() {
			if err := a.work(ctx, r); err != nil {
				stop(err) // only the first counts
			}
		})
	}
	wg.Wait()
	for i := range a.links {
		if l := a.links[i].large; l != nil && l.out != nil {
			l.out.Close()
		}
	}
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	return a.opt.Done, a.ends(r)
}

// An application is one Apply.
type application struct {
	*Patch
	fill  *bootcheck.Fill
	root  *os.Root // of the old version
	opt   Options
	next  atomic.Int64 // the frame that the next free worker takes
	links []link       // by frame

	mu sync.Mutex
}

// A link is what a frame that makes a part of a file has to do with the others of it.
type link struct {
	offset int64         // of the frame, from the beginning of the patch
	large  *large        // nil: the frame makes whole files
	done   chan struct{} // of a part: closed when the next may be written
}

// A large is one file that several frames make, one after another.
type large struct {
	out *os.File // nil: not begun, or at its end
	sum hash.Hash
}

// plan compares the frames with the new manifest.
func (a *application) plan() error {
	m := a.fill.M
	if err := checkFrames(a.files, func(int) int64 { return bootcheck.MaxFileSize }, fileSize(m)); err != nil {
		return damaged(bootcheck.CodeInvalidManifest, "the patch is refused: %w", err)
	}
	made := make([]bool, len(m.Entries))
	at := a.offset
	var now *large
	for i := range a.files {
		f := &a.files[i]
		a.links[i].offset = at
		at += f.Length
		for k := range f.Window.count() {
			a.old[f.Window.part(k).entry].uses++
		}
		for k := range f.Out.count() {
			made[f.Out.part(k).entry] = true
		}
		p := f.Out.part(0)
		if size := m.Entries[p.entry].Size; p.length < size {
			if p.offset == 0 {
				now = new(large)
			}
			a.links[i].large, a.links[i].done = now, make(chan struct{})
		}
	}
	for i := range m.Entries {
		if m.Entries[i].Type == bootcheck.TypeFile && !a.opt.Have[i] && !made[i] {
			return damaged(bootcheck.CodeHashMismatch, "the patch does not make %q, and no version here has it", m.Entries[i].Path)
		}
	}
	return nil
}

// ends reports whether r ends where it must.
func (a *application) ends(r io.ReaderAt) error {
	n, err := r.ReadAt(make([]byte, 1), a.Size)
	if n > 0 {
		return damaged(bootcheck.CodeSizeMismatch, "something follows the end of the patch")
	}
	if err != nil && err != io.EOF {
		return err
	}
	return nil
}

// work makes one frame after another, in their order, until none is left. A worker waits
// only for the frame before its own, so one of them always continues.
func (a *application) work(ctx context.Context, r io.ReaderAt) error {
	w, err := newWorker(r, a.opt.Again)
	if err != nil {
		return err
	}
	defer w.close()
	dirs := a.fill.Dirs()
	defer dirs.Close()
	for {
		i := int(a.next.Add(1) - 1)
		if i >= len(a.files) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.frame(ctx, w, &dirs, i); err != nil {
			return err
		}
	}
}

// frame makes what frame i is for, unless all of it is there.
func (a *application) frame(ctx context.Context, w *worker, dirs *bootcheck.Dirs, i int) error {
	f, l := &a.files[i], &a.links[i]
	defer a.used(f)
	missing := false
	for k := range f.Out.count() {
		missing = missing || !a.opt.Have[f.Out.part(k).entry]
	}
	if !missing {
		return nil
	}
	out, err := w.make(ctx, f, l.offset, func(window []byte) error { return a.read(ctx, f, window) })
	if err != nil {
		return err
	}
	for k := range f.Out.count() {
		p := f.Out.part(k)
		content := out[:p.length]
		out = out[p.length:]
		if l.large != nil {
			err = a.partOf(ctx, dirs, i, p, content)
		} else if !a.opt.Have[p.entry] {
			err = a.whole(dirs, p.entry, content)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whole makes the file of entry i.
func (a *application) whole(dirs *bootcheck.Dirs, i int, content []byte) error {
	e := &a.fill.M.Entries[i]
	sum := sha256.Sum256(content)
	if err := checkSum(e, sum[:]); err != nil {
		return err
	}
	f, err := dirs.Create(e.Path)
	if err == nil {
		err = bootcheck.WriteAndClose(f, content, e.Mode)
	}
	if err != nil {
		return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
	}
	a.made(i, e.Size, true)
	return nil
}

// partOf writes content, which frame i makes of a file.
func (a *application) partOf(ctx context.Context, dirs *bootcheck.Dirs, i int, p part, content []byte) (err error) {
	l, e := &a.links[i], &a.fill.M.Entries[p.entry]
	file := l.large
	if p.offset > 0 {
		// The part before is with another worker.
		select {
		case <-a.links[i-1].done:
		case <-ctx.Done():
			return ctx.Err()
		}
	} else {
		file.sum = sha256.New()
		if file.out, err = dirs.Create(e.Path); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
		}
	}
	file.sum.Write(content)
	last := p.offset+p.length == e.Size
	if last {
		if err := checkSum(e, file.sum.Sum(nil)); err != nil {
			return err
		}
		out := file.out
		file.out = nil
		err = bootcheck.WriteAndClose(out, content, e.Mode)
	} else {
		err = bootcheck.Write(file.out, content)
	}
	if err != nil {
		return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
	}
	a.made(p.entry, p.length, last)
	close(l.done)
	return nil
}

// made counts n bytes of entry i; whole: it is there now.
func (a *application) made(i int, n int64, whole bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if whole && !a.fill.Have[i] {
		a.fill.Have[i] = true
	}
	a.opt.Done += n
	if a.opt.Progress != nil {
		a.opt.Progress(a.opt.Done, a.fill.M.Size)
	}
}

func checkSum(e *bootcheck.Entry, sum []byte) error {
	if got := hex.EncodeToString(sum); got != e.SHA256 {
		return damaged(bootcheck.CodeHashMismatch, "file %q: sha256 %s, the manifest says %s", e.Path, got, e.SHA256)
	}
	return nil
}

// read fills the window of f, of several old files at once: each has its own wait for the
// disk.
func (a *application) read(ctx context.Context, f *Frame, window []byte) error {
	parts := make([][]byte, f.Window.count())
	for k := range parts {
		n := f.Window.part(k).length
		parts[k], window = window[:n], window[n:]
	}
	var mu sync.Mutex
	var failed error
	bootcheck.Parallel(len(parts), func(share iter.Seq[int]) {
		for k := range share {
			p := f.Window.part(k)
			old := a.old[p.entry]
			if err := old.read(ctx, a.root, parts[k], p.offset); err != nil {
				mu.Lock()
				failed = cmp.Or(failed, a.rotten(old, err))
				mu.Unlock()
				return
			}
		}
	})
	return failed
}

// rotten is err, which says that a file of the old version cannot be used.
func (a *application) rotten(old *oldFile, err error) error {
	if _, ok := errors.AsType[rot](err); !ok {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opt.Damaged != nil && !old.told {
		a.opt.Damaged(old.Path, err)
	}
	old.told = true
	return damaged(bootcheck.CodeHashMismatch, "the patch cannot be used: %q of the old version: %w", old.Path, err)
}

// used lets go of the old files that f was the last to use.
func (a *application) used(f *Frame) {
	for k := range f.Window.count() {
		old := a.old[f.Window.part(k).entry]
		old.mu.Lock()
		if old.uses--; old.uses == 0 {
			old.close()
		}
		old.mu.Unlock()
	}
}

// An oldFile is a file of the old version that windows show.
type oldFile struct {
	bootcheck.Entry
	uses int // windows that are still to be filled

	mu   sync.Mutex
	file *os.File // hashed; nil: not yet
	told bool
}

// A rot is what is wrong with a file of the old version.
type rot struct{ error }

// read reads what f has at offset at into part. Before the first time, it opens and hashes f.
func (f *oldFile) read(ctx context.Context, root *os.Root, part []byte, at int64) error {
	f.mu.Lock()
	err := f.open(ctx, root)
	f.mu.Unlock()
	if err == nil {
		_, err = f.file.ReadAt(part, at)
	}
	return err
}

func (f *oldFile) open(ctx context.Context, root *os.Root) error {
	if f.file != nil {
		return nil
	}
	file, err := root.OpenFile(f.Path, os.O_RDONLY|unix.O_NONBLOCK, 0) // what it is its hash says
	if err == nil {
		if err = f.hash(ctx, file); err == nil {
			f.file = file
			return nil
		}
		file.Close()
	}
	if ctx.Err() != nil || bootcheck.Inconclusive(err) {
		return err
	}
	return rot{err}
}

func (f *oldFile) hash(ctx context.Context, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a file")
	}
	return f.CheckContent(ctx, file)
}

func (f *oldFile) close() {
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
}
