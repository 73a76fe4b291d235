package bundle

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// A Donor is another version that is on the device.
type Donor struct {
	Root     *os.Root
	Manifest *bootcheck.Manifest
	// Share lets a file of the donor and of the new version be the same blocks: a
	// clone, where the file system can, else one file with two names. Else it is
	// copied.
	Share bool
	// NoCopy leaves what cannot be shared to a later Take, or to the bundle: a copy
	// takes room.
	NoCopy bool
	// Damaged is told each file of the donor that is not what its manifest says,
	// once, and why. Calls do not overlap. nil: nobody wants to know.
	Damaged func(path string, why error)
}

const (
	maxTakers  = 16        // how many files are hashed at once, at most: each needs a buffer
	takeAtOnce = 128 << 10 // bytes that are read at once, and the size of that buffer
)

// Take gets from donor what it has of the files that are missing, by their
// SHA-256: nothing of these is unpacked. Every byte is hashed, of the very file
// that is then in the new version, on all cores. A file of the donor that is
// damaged, or that cannot be read, is not used. The error is ctx's or that of a
// disk that is full; then some files may have been taken.
func (u *Unpacker) Take(ctx context.Context, donor Donor) error {
	if err := u.makeEmpty(); err != nil {
		return err
	}
	pairs := u.pairs(donor.Manifest)
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var mu sync.Mutex
	var wg sync.WaitGroup
	var noClone atomic.Bool
	damaged := make(map[string]bool) // files of the donor
	tell := func(from *bootcheck.Entry, why error) {
		mu.Lock()
		defer mu.Unlock()
		if !damaged[from.Path] && donor.Damaged != nil {
			donor.Damaged(from.Path, why)
		}
		damaged[from.Path] = true
	}
	// More than cores, as each waits for the disk, too; a disk wants to be asked for
	// several things at once. One that waits keeps its place of GOMAXPROCS until Go sees
	// that, which takes longer than to read a file: each has a place of its own.
	takers := min(8*u.cores, maxTakers, len(pairs))
	if u.cores == runtime.NumCPU() && takers > u.cores { // else a test wants the same order each time
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(takers))
	}
	for range takers {
		wg.Go(func() {
			t := taker{
				ctx: ctx, noClone: &noClone, share: donor.Share, noCopy: donor.NoCopy, damaged: tell,
				from: dirCache{root: donor.Root}, to: dirCache{root: u.root},
			}
			defer t.close()
			for failed.Load() == nil {
				i := int(next.Add(1) - 1)
				if i >= len(pairs) {
					return
				}
				e := &u.m.Entries[pairs[i].entry]
				err := t.takeAny(pairs[i].from, e)
				if ctxErr := ctx.Err(); ctxErr != nil {
					err = ctxErr
				}
				if err != nil {
					if ctx.Err() != nil || bootcheck.IsNoSpace(err) {
						err = fmt.Errorf("cannot take %q from another version: %w", e.Path, err)
						failed.Store(&err)
					}
					continue
				}
				mu.Lock()
				u.have[pairs[i].entry] = true
				u.done += e.Size
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// makeEmpty makes the files that are empty: for these alone no part of the bundle
// has to be there.
func (u *Unpacker) makeEmpty() error {
	dirs := dirCache{root: u.root}
	defer dirs.close()
	for i := range u.m.Entries {
		e := &u.m.Entries[i]
		if e.Type != bootcheck.TypeFile || e.Size > 0 || u.have[i] {
			continue
		}
		f, err := dirs.create(e.Path)
		if err == nil {
			err = writeAndClose(f, nil, e.Mode)
		}
		if err != nil {
			return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
		}
		u.have[i] = true
	}
	return nil
}

// A pair is a missing entry and those of the donor that have its content.
type pair struct {
	entry int
	from  []*bootcheck.Entry
}

// pairs are the largest files first, as one file keeps one core busy: that must not
// be the last that is waited for.
func (u *Unpacker) pairs(donor *bootcheck.Manifest) []pair {
	has := make(map[string][]*bootcheck.Entry) // by content
	for i := range u.m.Entries {
		if e := &u.m.Entries[i]; e.Type == bootcheck.TypeFile && !u.have[i] {
			has[e.SHA256] = nil
		}
	}
	for i := range donor.Entries {
		e := &donor.Entries[i]
		if same, wanted := has[e.SHA256]; wanted && e.Type == bootcheck.TypeFile {
			has[e.SHA256] = append(same, e)
		}
	}
	var pairs []pair
	for i := range u.m.Entries {
		if e := &u.m.Entries[i]; e.Type == bootcheck.TypeFile && !u.have[i] {
			if from := has[e.SHA256]; len(from) > 0 && from[0].Size == e.Size {
				pairs = append(pairs, pair{i, from})
			}
		}
	}
	const large = 1 << 20 // bytes; smaller ones stay in the order of their folders
	slices.SortStableFunc(pairs, func(x, y pair) int {
		a, b := u.m.Entries[x.entry].Size, u.m.Entries[y.entry].Size
		return cmp.Compare(max(b, large), max(a, large))
	})
	return pairs
}

// A taker is what one goroutine keeps from file to file.
type taker struct {
	ctx      context.Context
	share    bool
	noCopy   bool
	damaged  func(from *bootcheck.Entry, why error)
	noClone  *atomic.Bool // the file system cannot
	from, to dirCache
	buf      []byte
	sum      hash.Hash
}

// A damage is what is wrong with a file of the donor.
type damage struct{ error }

func damagef(format string, args ...any) error { return damage{fmt.Errorf(format, args...)} }

// takeAny makes e from the first of the donor's files from that is whole.
func (t *taker) takeAny(from []*bootcheck.Entry, e *bootcheck.Entry) (err error) {
	for _, f := range from {
		if err = t.take(f, e); err == nil {
			return nil
		}
		if d, ok := errors.AsType[damage](err); ok {
			t.damaged(f, d.error)
		}
	}
	return err
}

// take makes e from the donor's file from.
func (t *taker) take(from, e *bootcheck.Entry) error {
	dir, err := t.from.open(from.Path)
	var src *os.File
	if err == nil {
		const flags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
		if src, err = dir.OpenFile(path.Base(from.Path), flags|unix.O_DIRECT, 0); errors.Is(err, unix.EINVAL) {
			src, err = dir.OpenFile(path.Base(from.Path), flags, 0) // this file system has none
		}
	}
	if err != nil {
		if bootcheck.Inconclusive(err) {
			return err
		}
		return damage{err}
	}
	defer func() { _ = src.Close() }()
	info, err := src.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return damagef("it is not a file")
	case info.Size() != e.Size:
		return damagef("size %d, want %d", info.Size(), e.Size)
	}
	if t.share {
		if err := t.clone(src, e); err == nil || !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); Linkable(st.Mode, st.Uid, st.Gid, e) {
			if err := t.link(src, e); err == nil || !errors.Is(err, errors.ErrUnsupported) {
				return err
			}
		}
	}
	if t.noCopy {
		return errors.ErrUnsupported
	}
	return t.make(e, func(to *os.File) error { return t.copy(to, src, e) })
}

// clone makes e of the blocks of src. errors.ErrUnsupported: this file system
// cannot.
func (t *taker) clone(src *os.File, e *bootcheck.Entry) error {
	if t.noClone.Load() {
		return errors.ErrUnsupported
	}
	return t.make(e, func(to *os.File) error {
		if err := unix.IoctlFileClone(int(to.Fd()), int(src.Fd())); err != nil {
			if bootcheck.IsNoSpace(err) {
				return err
			}
			t.noClone.Store(true)
			return errors.ErrUnsupported
		}
		// The clone, which nobody else can write to; src may belong to a service.
		return t.copy(nil, to, e)
	})
}

// Linkable reports whether a file with that mode, of stat(2), and that owner can be e,
// under one more name: it has the mode and the owner that e would have, and nobody but
// this owner, root, can write to it, before or after it was hashed.
func Linkable(mode, uid, gid uint32, e *bootcheck.Entry) bool {
	return mode == unix.S_IFREG|uint32(e.Mode) && mode&0o022 == 0 && int(uid) == os.Geteuid() && int(gid) == os.Getegid()
}

// link gives src, which is Linkable, one more name. errors.ErrUnsupported: it cannot
// be linked here.
func (t *taker) link(src *os.File, e *bootcheck.Entry) error {
	if err := t.copy(nil, src, e); err != nil {
		return err
	}
	fd, err := t.to.fd(e.Path)
	if err != nil {
		return err
	}
	// The very file that was hashed, whatever its name has come to mean.
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(src.Fd())), fd, path.Base(e.Path), unix.AT_SYMLINK_FOLLOW)
	if err != nil && !bootcheck.IsNoSpace(err) {
		return errors.ErrUnsupported // another file system, too many links, no /proc: a copy does it
	}
	return err
}

// make makes the file e with what write writes, and removes it when that fails.
func (t *taker) make(e *bootcheck.Entry, write func(to *os.File) error) error {
	to, err := t.to.create(e.Path)
	if err != nil {
		return err
	}
	if err = write(to); err == nil {
		err = setMode(to, e.Mode)
	}
	err = errors.Join(err, to.Close())
	if err != nil {
		if dir, openErr := t.to.open(e.Path); openErr == nil {
			_ = dir.Remove(path.Base(e.Path)) // else Finish cannot make it, and says so
		}
	}
	return err
}

// copy copies from, which must have the content of e, to to, until ctx ends; nil:
// it is only hashed.
func (t *taker) copy(to io.Writer, from *os.File, e *bootcheck.Entry) (err error) {
	if t.buf == nil {
		if t.buf, err = buffer(takeAtOnce); err != nil {
			return err
		}
		t.sum = sha256.New()
	}
	t.sum.Reset()
	for n := int64(0); n < e.Size; {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		part := t.buf[:min(int64(len(t.buf)), e.Size-n)]
		if err := readDirect(from, part, n); err != nil {
			switch {
			case err == io.EOF:
				return damagef("size less than %d", e.Size) // just now
			case bootcheck.Inconclusive(err):
				return err
			}
			return damage{err}
		}
		t.sum.Write(part)
		if to != nil {
			if _, err := to.Write(part); err != nil {
				return err
			}
		}
		n += int64(len(part))
	}
	if got := hex.EncodeToString(t.sum.Sum(nil)); got != e.SHA256 {
		return damagef("sha256 %s, want %s", got, e.SHA256)
	}
	return nil
}

// readDirect fills part, the start of a buffer of takeAtOnce bytes, with what f has at
// offset at. f was opened with O_DIRECT where its file system can: it is the disk that is
// compared with the manifest, no copy in memory, and what the device has in its cache
// stays there. io.EOF: f ends before.
func readDirect(f *os.File, part []byte, at int64) error {
	const block = 4096 // bytes; what O_DIRECT reads has to be made of these, nearly everywhere
	fd := int(f.Fd())
	for n := 0; n < len(part); {
		// Up to the end of a block, which is in the buffer, too.
		k, err := unix.Pread(fd, part[n:(len(part)+block-1)/block*block], at+int64(n))
		switch {
		case err == unix.EINTR:
		case err == unix.EINVAL:
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_DIRECT == 0 {
				return unix.EINVAL
			}
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT); err != nil {
				return err
			}
		case err != nil:
			return &os.PathError{Op: "read", Path: f.Name(), Err: err}
		case k == 0:
			return io.EOF
		default:
			n += k
		}
	}
	return nil
}

func (t *taker) close() {
	t.from.close()
	t.to.close()
	if t.buf != nil {
		_ = unix.Munmap(t.buf)
	}
}
