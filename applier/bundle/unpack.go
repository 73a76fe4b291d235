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
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// Options of Unpack and Check.
type Options struct {
	// Progress is told how many bytes of file content are done, of how many,
	// after each frame. Calls do not overlap and never go back. It must not
	// block for long: the work waits. nil: nobody wants to know.
	Progress func(doneBytes, total int64)

	// Again is called when a part of the bundle is not what the manifest says; wrong
	// says so. It returns nil when that part was fetched anew and can be read again,
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
	root   *os.Root // nil: only check
	disk   *os.File // root, open since before the first write
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
	if u.disk, err = root.Open("."); err != nil {
		return nil, fmt.Errorf("cannot unpack: %w", err)
	}
	if err := u.begin(); err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

func newUnpacker(h *Head, m *bootcheck.Manifest) (*Unpacker, error) {
	shares, err := planFrames(m)
	if err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "manifest refused: %v", err)
	}
	return &Unpacker{h: h, m: m, shares: shares, have: make([]bool, len(m.Entries)), cores: runtime.GOMAXPROCS(0)}, nil
}

func (u *Unpacker) begin() error {
	if _, err := u.disk.ReadDir(1); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("the directory is not empty")
		}
		return fmt.Errorf("cannot unpack into %s: %w", u.root.Name(), err)
	}
	if err := makeDirs(u.root, u.h, u.m); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	return nil
}

// Close ends what Start began and lets go of what Begin opened.
func (u *Unpacker) Close() {
	if u.started != nil {
		u.started.stop()
		<-u.started.ended
	}
	if u.disk != nil {
		_ = u.disk.Close()
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

// Reused is how much Take took, bytes of content.
func (u *Unpacker) Reused() int64 { return u.done }

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
		u.started.done, u.started.err = u.run(ctx, r, skip, false, 0, opt)
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
	if err := u.Wait(); err != nil {
		return err
	}
	done := u.done
	if u.started != nil {
		done += u.started.done
	}
	if _, err := u.run(ctx, r, u.have, u.all(), done, opt); err != nil {
		return err
	}
	if err := u.ends(r); err != nil {
		return err
	}
	return finish(u.root, u.m)
}

// Sync makes all that was unpacked durable, files and directories, .ota too: by
// one syncfs, on a descriptor that was opened before the first write, so that no
// write error of the device can be missed. Where the kernel is older than 5.8,
// syncfs does not say that the content of a file could not be written: there, each
// is synced by itself. The directory's own name in its parent is the caller's
// business.
func (u *Unpacker) Sync() error {
	if !syncfsTells() {
		if err := u.syncEach(); err != nil {
			return fmt.Errorf("cannot unpack: the disk did not take it: %w", err)
		}
		return nil
	}
	if err := unix.Syncfs(int(u.disk.Fd())); err != nil {
		return fmt.Errorf("cannot unpack: the disk did not take it: %w", os.NewSyscallError("syncfs", err))
	}
	return nil
}

// syncfsTells reports whether syncfs returns the write errors of files: since Linux
// 5.8. syncFile is what is done otherwise. Variables for the tests.
var (
	syncfsTells = sync.OnceValue(func() bool {
		var name unix.Utsname
		var major, minor int
		if unix.Uname(&name) == nil {
			_, _ = fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
		}
		return major > 5 || major == 5 && minor >= 8
	})
	syncFile = (*os.File).Sync
)

// syncEach makes each file and directory durable, the files before the directories
// that they are in.
func (u *Unpacker) syncEach() error {
	dirs := dirCache{root: u.root}
	defer dirs.close()
	one := func(name string) error {
		d, err := dirs.open(name)
		if err != nil {
			return err
		}
		f, err := d.OpenFile(path.Base(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		return errors.Join(syncFile(f), f.Close()) // never a second time: all of it is thrown away
	}
	for i := len(u.m.Entries) - 1; i >= 0; i-- {
		if e := &u.m.Entries[i]; e.Type != bootcheck.TypeLink {
			if err := one(e.Path); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{bootcheck.ManifestPath, bootcheck.SignaturePath, bootcheck.ManifestDir} {
		if err := one(name); err != nil {
			return err
		}
	}
	return syncFile(u.disk)
}

// Unpack does all steps of an Unpacker that takes nothing from other versions.
func Unpack(ctx context.Context, r io.ReaderAt, h *Head, m *bootcheck.Manifest, root *os.Root, opt Options) error {
	u, err := Begin(h, m, root)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := u.Finish(ctx, r, opt); err != nil {
		return err
	}
	return u.Sync()
}

// Check does all that Unpack does but for the writing: every frame, every
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

// makeDirs makes all directories, and .ota with what is in it. Directories get
// their modes in finish: until then this program must be able to write to them.
func makeDirs(root *os.Root, h *Head, m *bootcheck.Manifest) error {
	if err := root.Mkdir(bootcheck.ManifestDir, 0o700); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		bootcheck.ManifestPath:  h.RawManifest,
		bootcheck.SignaturePath: h.Signature,
	} {
		f, err := create(root, name)
		if err != nil {
			return err
		}
		if err := writeAndClose(f, content, 0o644); err != nil {
			return err
		}
	}
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeDir {
			if err := root.Mkdir(e.Path, 0o700); err != nil {
				return twin(root, e.Path, err)
			}
		}
	}
	return checkNames(root, m)
}

// checkNames sees whether the names of m are as many on this disk: before a byte of the
// payload is fetched. A disk that knows .ota by another name folds case, in its own way:
// there, all are tried. root has the directories of m.
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
		if e.Type == bootcheck.TypeDir {
			continue
		}
		f, err := create(root, e.Path)
		if err != nil {
			return twin(root, e.Path, err)
		}
		f.Close()
		made = append(made, e.Path)
	}
	return nil
}

// twin is err, of name that could not be made, or says that the disk takes it for another
// name.
func twin(root *os.Root, name string, err error) error {
	dir, openErr := root.Open(path.Dir(name))
	if !errors.Is(err, fs.ErrExist) || openErr != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	list, _ := dir.ReadDir(-1)
	is, _ := root.Lstat(name)
	for _, d := range list {
		other := path.Join(path.Dir(name), d.Name())
		if info, _ := d.Info(); other != name && os.SameFile(info, is) {
			return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "%q and %q are one name on the file system of the store, which folds case", other, name).
				WithAdvice("rename one of them in the bundle, or put `root` of the configuration on a file system that tells them apart")
		}
	}
	return err
}

// finish makes the links, sees where each leads on this disk, and gives the
// directories their modes, the deepest first.
func finish(root *os.Root, m *bootcheck.Manifest) error {
	links := func(external bool) error {
		for i := range m.Entries {
			if e := &m.Entries[i]; e.Type == bootcheck.TypeLink && e.External == external {
				if err := root.Symlink(e.Target, e.Path); err != nil {
					return fmt.Errorf("cannot unpack: %w", err)
				}
			}
		}
		return nil
	}
	if err := links(false); err != nil {
		return err
	}
	// ParseManifest has resolved the links on paper. This is the same by the
	// kernel, in case the two do not agree, before there is a link that leads out.
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeLink && !e.External {
			if _, err := root.Stat(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return damaged(bootcheck.CodeInvalidManifest, "link %q -> %q refused: %w", e.Path, e.Target, err)
			}
		}
	}
	if err := links(true); err != nil {
		return err
	}
	for i := len(m.Entries) - 1; i >= 0; i-- {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeDir {
			if err := chmodDir(root, e.Path, e.Mode); err != nil {
				return fmt.Errorf("cannot unpack: %w", err)
			}
		}
	}
	for _, dir := range []string{bootcheck.ManifestDir, "."} {
		if err := chmodDir(root, dir, 0o755); err != nil {
			return fmt.Errorf("cannot unpack: %w", err)
		}
	}
	return nil
}

// chmodDir changes the mode of an open directory: Root.Chmod follows links
// (CVE-2026-32282).
func chmodDir(root *os.Root, dir string, mode bootcheck.Mode) error {
	d, err := root.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return setMode(d, mode)
}

// setMode gives f, which belongs to this process, its mode.
func setMode(f *os.File, mode bootcheck.Mode) error {
	err := f.Chmod(mode.Perm())
	if errors.Is(err, unix.EPERM) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) {
		return bootcheck.Unfit(f.Name(), fmt.Sprintf("cannot keep the mode %v", mode)) // vfat
	}
	return err
}

func create(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600) // a clone is read, too
}

// writeAndClose writes the end of f.
func writeAndClose(f *os.File, content []byte, mode bootcheck.Mode) error {
	_, err := f.Write(content)
	if err == nil {
		err = setMode(f, mode)
	}
	// Close reports what a network file system or a quota has kept for it.
	return errors.Join(err, f.Close())
}
