package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// Options of an Unpacker and of Check.
type Options struct {
	// Progress is told how many bytes of file content are done, of how many,
	// after each frame. Calls do not overlap and never go back. It must not
	// block for long: the work waits. nil: not called.
	Progress func(doneBytes, total int64)

	// Again is called when a part of the bundle is not what the manifest says; wrong
	// says so. It returns nil when that part was fetched again and can be read again,
	// else the error that ends the unpacking. It may wait. nil: the bundle does not
	// change.
	Again func(ctx context.Context, s Span, wrong error) error
}

// maxWorkers is how many frames are worked on at once, at most: each needs two
// buffers of up to 4 MiB, and the eMMC is the limit before three cores are.
const maxWorkers = 3

// An Unpacker writes the version of one bundle to a directory, in these steps:
//
//	Begin    makes the directories
//	Start    unpacks what no other version has, while Take works; may be left out
//	Take     gets files that other versions of the device have, from each of them
//	Finish   unpacks the rest, then makes the links
//	Sync     makes all of it durable
//
// Between Take and Finish, Missing says which parts of the bundle Finish reads:
// nothing else of it need be there. What an error leaves behind the caller removes.
//
// A bundle that is not what its manifest says is an *bootcheck.Error with
// ExitDamaged. Errors of the bundle's reader and of the disk are in the error: a
// full disk is found by bootcheck.IsNoSpace.
type Unpacker struct {
	h      *Head
	m      *bootcheck.Manifest
	root   *os.Root        // nil: only check
	fill   *bootcheck.Fill // of root
	shares []share
	have   []bool // by entry: files that are there, or that started makes
	done   int64  // bytes of content of those that Take took
	cores  int    // GOMAXPROCS, which Take raises while it works

	started *started // nil: nothing was
}

// A started is the unpacking that Start began.
type started struct {
	stop  context.CancelFunc
	ended chan struct{} // closed at its end; then:
	done  int64         // bytes of content that it unpacked
	err   error
}

// Begin makes the directories of the version in root, an empty directory of the
// caller's, and .ota with what is in it. h is the head of the bundle and m its
// manifest, both from Verify.
func Begin(h *Head, m *bootcheck.Manifest, root *os.Root) (*Unpacker, error) {
	u, err := newUnpacker(h, m)
	if err != nil {
		return nil, err
	}
	u.root = root
	if err := u.begin(); err != nil {
		u.Close()
		return nil, fmt.Errorf("cannot unpack into %s: %w", root.Name(), err)
	}
	return u, nil
}

func (u *Unpacker) begin() (err error) {
	if u.fill, err = bootcheck.NewFill(u.root.Name(), u.m, u.h.RawManifest, u.h.Signature, false); err != nil {
		return twin(u.root, err)
	}
	u.have = u.fill.Have
	u.fill.Resolve = func(link string) error {
		_, err := u.root.Stat(link)
		return err
	}
	return checkNames(u.root, u.m)
}

func newUnpacker(h *Head, m *bootcheck.Manifest) (*Unpacker, error) {
	shares, err := planFrames(m)
	if err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "manifest refused: %v", err)
	}
	return &Unpacker{h: h, m: m, shares: shares, have: make([]bool, len(m.Entries)), cores: runtime.GOMAXPROCS(0)}, nil
}

// Close ends what Start began and lets go of what Begin opened.
func (u *Unpacker) Close() {
	if u.started != nil {
		u.started.stop()
		<-u.started.ended
	}
	if u.fill != nil {
		u.fill.Close()
	}
}

// A Span is some bytes of a bundle: from First on, up to End, exclusive.
type Span struct{ First, End int64 }

// Missing are the parts of the bundle that Finish has still to read, in order.
func (u *Unpacker) Missing() []Span {
	var spans []Span
	for i := range u.shares {
		if !u.all() && !u.needs(i, u.have) {
			continue
		}
		f := &u.m.Frames[i]
		s := Span{u.h.PayloadOffset + f.Offset, u.h.PayloadOffset + f.Offset + f.Length}
		if n := len(spans); n > 0 && spans[n-1].End == s.First {
			spans[n-1].End = s.End
		} else {
			spans = append(spans, s)
		}
	}
	return spans
}

// Has reports whether entry i is there already: Take took it, or what Start began
// unpacks it.
func (u *Unpacker) Has(i int) bool { return u.have[i] }

// Take gets from donor what it has of the files that are missing, see Fill: nothing of
// these is unpacked.
func (u *Unpacker) Take(ctx context.Context, donor bootcheck.Donor) error {
	err := u.fill.Take(ctx, donor)
	u.done = u.fill.Taken
	return err
}

// Missing are the parts of the bundle whose manifest is m that hold the files that
// are not there yet, in order. When none is there, that is all of the payload: then
// all of it is checked.
func (h *Head) Missing(m *bootcheck.Manifest, have func(entry int) bool) []Span {
	u, err := newUnpacker(h, m)
	if err != nil {
		return nil // Verify has seen to that
	}
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeFile && (e.Size == 0 || have(i)) {
			u.have[i] = true
			u.done += e.Size
		}
	}
	return u.Missing()
}

// all reports whether all frames are read, as nothing was taken: then the whole bundle
// is checked.
func (u *Unpacker) all() bool { return u.done == 0 && u.started == nil }

// needs reports whether frame i holds a file that is not in have.
func (u *Unpacker) needs(i int, have []bool) bool {
	s := &u.shares[i]
	for k := s.first; k < s.first+s.count; k++ {
		if u.m.Entries[k].Type == bootcheck.TypeFile && !have[k] {
			return true
		}
	}
	return false
}

// Start begins to unpack the files of the bundle r that are missing and that offered
// does not name: those Take gets, at the same time. Wait returns its error.
func (u *Unpacker) Start(ctx context.Context, r io.ReaderAt, offered func(entry int) bool, opt Options) {
	u.StartWith(ctx, offered, func(ctx context.Context, _ *bootcheck.Fill, have []bool, done int64) (int64, error) {
		return u.run(ctx, r, have, false, done, opt)
	})
}

// A Maker makes, in the place of the bundle, the files of fill that have does not name,
// by entry. done bytes of content were there before; it returns how many are there then.
type Maker func(ctx context.Context, fill *bootcheck.Fill, have []bool, done int64) (int64, error)

// StartWith is Start without the bundle.
func (u *Unpacker) StartWith(ctx context.Context, offered func(entry int) bool, maker Maker) {
	skip := slices.Clone(u.have)
	for i := range u.m.Entries {
		e := &u.m.Entries[i]
		skip[i] = skip[i] || e.Type == bootcheck.TypeFile && (e.Size == 0 || offered(i)) // Take makes what is empty
		u.have[i] = u.have[i] || e.Type == bootcheck.TypeFile && !skip[i]
	}
	ctx, stop := context.WithCancel(ctx)
	u.started = &started{stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(u.started.ended)
		u.started.done, u.started.err = maker(ctx, u.fill, skip, 0)
	}()
}

// Wait waits until all that Start began to unpack is there, and returns its error.
func (u *Unpacker) Wait() error {
	if u.started == nil {
		return nil
	}
	<-u.started.ended
	return u.started.err
}

// Finish unpacks what is missing from the bundle r, which may still grow: its
// ReadAt waits for what is not there yet, and gives up when ctx ends. A read at
// the bundle's end returns io.EOF when all of it arrived.
//
// Each frame is hashed before it is decoded and each file before, or for a large
// one while, it is written; a file that is there already is never written to and
// no link is followed. Links are made last, and each must then lead to a place
// inside the directory, or to none.
func (u *Unpacker) Finish(ctx context.Context, r io.ReaderAt, opt Options) error {
	return u.FinishWith(ctx, func(ctx context.Context, _ *bootcheck.Fill, have []bool, done int64) (int64, error) {
		done, err := u.run(ctx, r, have, u.all(), done, opt)
		if err == nil {
			err = u.ends(r)
		}
		return done, err
	})
}

// FinishWith is Finish without the bundle.
func (u *Unpacker) FinishWith(ctx context.Context, maker Maker) error {
	if err := u.Wait(); err != nil {
		return err
	}
	done := u.done
	if u.started != nil {
		done += u.started.done
	}
	if _, err := maker(ctx, u.fill, u.have, done); err != nil {
		return err
	}
	if err := u.fill.Finish(); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	return nil
}

// Sync makes all that was unpacked durable, see Fill.
func (u *Unpacker) Sync() error {
	if err := u.fill.Sync(); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	return nil
}

// Check does all that an Unpacker does but for the writing: every frame, every
// member and every file is compared with the manifest.
func Check(ctx context.Context, r io.ReaderAt, h *Head, m *bootcheck.Manifest, opt Options) error {
	u, err := newUnpacker(h, m)
	if err != nil {
		return err
	}
	defer u.Close()
	if _, err := u.run(ctx, r, u.have, true, 0, opt); err != nil {
		return err
	}
	return u.ends(r)
}

// checkNames sees whether the names of m are as many on this disk: before a byte of the
// payload is fetched. A disk that knows .ota by another name folds case, in its own way:
// there, all are tried. root has the directories and the empty files of m.
func checkNames(root *os.Root, m *bootcheck.Manifest) error {
	if _, err := root.Lstat(strings.ToUpper(bootcheck.ManifestDir)); err != nil {
		return nil
	}
	var made []string
	defer func() {
		for _, name := range made {
			_ = root.Remove(name) // else it cannot be unpacked, and that says why
		}
	}()
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type == bootcheck.TypeDir || e.Type == bootcheck.TypeFile && e.Size == 0 {
			continue
		}
		f, err := root.OpenFile(e.Path, os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return twin(root, err)
		}
		f.Close()
		made = append(made, e.Path)
	}
	return nil
}

// twin is err, of a name that could not be made, or says that the disk takes it for
// another name.
func twin(root *os.Root, err error) error {
	at, ok := errors.AsType[*fs.PathError](err)
	if !ok || !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, openErr := root.Open(path.Dir(at.Path))
	if openErr != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	list, _ := dir.ReadDir(-1)
	is, _ := root.Lstat(at.Path)
	for _, d := range list {
		other := path.Join(path.Dir(at.Path), d.Name())
		if info, _ := d.Info(); other != at.Path && os.SameFile(info, is) {
			return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "%q and %q are one name on the file system of the store, which folds case", other, at.Path).
				WithAdvice("rename one of them in the bundle, or put `root` of the configuration on a file system that tells them apart")
		}
	}
	return err
}
