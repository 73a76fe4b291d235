package bootcheck

// How a Fill gets files from the versions that are on the device.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sharing says how much a new file may have in common with the donor's.
type Sharing int

const (
	ShareNothing Sharing = iota // it is copied
	ShareBlocks                 // a clone, where the file system can: a later change of one is none of the other
	ShareFile                   // else one file with two names
)

// A Donor is another version that is on the device, or a damaged copy of the same.
type Donor struct {
	Dir      string
	Manifest *Manifest
	Share    Sharing
	// NoCopy leaves what cannot be shared to a later Take: a copy takes room.
	NoCopy bool
	// Old: the new tree takes its place. A file that has no other name gets its mode.
	Old bool
	// Hashed reports that the content of a file was compared with the manifest a moment
	// ago. nil: that of none was.
	Hashed func(*Entry) bool
	// Damaged is told each file of the donor that is not what its manifest says,
	// once, and why. Calls do not overlap. nil: not called.
	Damaged func(path string, why error)
}

// Take gets from donor what it has of the files that are missing, by their SHA-256.
// Every byte is hashed, of the very file that is then in the new version, on all cores. A
// file of the donor that is damaged, or that cannot be read, is not used. The error is
// ctx's or that of a disk that is full; then some files may have been taken.
func (f *Fill) Take(ctx context.Context, donor Donor) error {
	batches := f.batches(f.pairs(donor.Manifest))
	root, err := openDir(donor.Dir)
	if err != nil {
		if Inconclusive(err) {
			f.Unread = err
		}
		return nil // nothing to be had here
	}
	defer root.Close()
	var mu sync.Mutex
	var failed error
	var noClone, stop atomic.Bool
	damaged := make(map[string]bool) // files of the donor
	one := func(t *taker, p pair) {
		e := &f.M.Entries[p.entry]
		var err error
		for _, from := range p.from {
			if err = t.take(from, e); err == nil {
				break
			}
			if d, ok := errors.AsType[contentDamage](err); ok {
				mu.Lock()
				if !damaged[from.Path] && donor.Damaged != nil {
					donor.Damaged(from.Path, d.error)
				}
				damaged[from.Path] = true
				mu.Unlock()
			}
		}
		err = cmp.Or(ctx.Err(), err)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			f.Have[p.entry] = true
			f.Taken += e.Size
		case ctx.Err() != nil || IsNoSpace(err) || errors.Is(err, unix.EROFS):
			failed = cmp.Or(failed, fmt.Errorf("cannot take %q from another version: %w", e.Path, err))
			stop.Store(true)
		case Inconclusive(err):
			f.Unread = err
		}
	}
	Parallel(len(batches), func(share iter.Seq[int]) {
		t := taker{hasher: hasher{ctx: ctx}, Donor: &donor, fill: f, noClone: &noClone, from: Dirs{root: root}, to: f.Dirs()}
		defer t.close()
		for i := range share {
			for _, p := range batches[i] {
				if stop.Load() {
					return
				}
				one(&t, p)
			}
		}
	})
	return failed
}

// A pair is a missing entry and those of the donor that have its content.
type pair struct {
	entry int
	from  []*Entry
}

// pairs are the largest files first, as one file keeps one core busy: that must not
// be the last that is waited for.
func (f *Fill) pairs(donor *Manifest) []pair {
	has := make(map[string][]*Entry) // by content
	for i := range f.M.Entries {
		if e := &f.M.Entries[i]; e.Type == TypeFile && !f.Have[i] {
			has[e.SHA256] = nil
		}
	}
	for i := range donor.Entries {
		e := &donor.Entries[i]
		if same, wanted := has[e.SHA256]; wanted && e.Type == TypeFile {
			has[e.SHA256] = append(same, e)
		}
	}
	var pairs []pair
	for i := range f.M.Entries {
		if e := &f.M.Entries[i]; e.Type == TypeFile && !f.Have[i] {
			from := slices.DeleteFunc(slices.Clone(has[e.SHA256]), func(d *Entry) bool { return d.Size != e.Size })
			// Of a damaged copy of the same, the file in the same place first.
			slices.SortStableFunc(from, func(a, b *Entry) int {
				return cmp.Compare(strconv.FormatBool(a.Path != e.Path), strconv.FormatBool(b.Path != e.Path))
			})
			if len(from) > 0 {
				pairs = append(pairs, pair{i, from})
			}
		}
	}
	slices.SortStableFunc(pairs, func(x, y pair) int {
		a, b := f.M.Entries[x.entry].Size, f.M.Entries[y.entry].Size
		return cmp.Compare(max(b, largeFile), max(a, largeFile))
	})
	return pairs
}

// largeFile is from when on, bytes, a file is not left to where its directory comes.
const largeFile = 1 << 20

// batches cuts pairs to what one taker makes at a time: small files of one directory, which
// it then opens once. As one batch keeps one core busy, it is no more work than a large file.
func (f *Fill) batches(pairs []pair) (batches [][]pair) {
	const most = 32 // files
	first, size := 0, int64(0)
	for i, p := range pairs {
		e := &f.M.Entries[p.entry]
		if i > first && (size+e.Size > largeFile || i-first == most || path.Dir(e.Path) != path.Dir(f.M.Entries[pairs[first].entry].Path)) {
			batches = append(batches, pairs[first:i])
			first, size = i, 0
		}
		size += e.Size
	}
	if first < len(pairs) {
		batches = append(batches, pairs[first:])
	}
	return batches
}

// A taker is what one goroutine keeps from file to file.
type taker struct {
	hasher
	*Donor
	fill     *Fill
	noClone  *atomic.Bool // the file system cannot
	from, to Dirs
}

// take makes e from the donor's file from.
func (t *taker) take(from, e *Entry) error {
	src, err := t.from.openFile(from.Path, unix.O_DIRECT)
	if errors.Is(err, unix.EINVAL) { // this file system has no such
		src, err = t.from.openFile(from.Path, 0)
	}
	if err != nil {
		if Inconclusive(err) {
			return err
		}
		return contentDamage{err}
	}
	defer func() { _ = src.Close() }()
	info, err := e.fits(src)
	if err != nil {
		return err
	}
	hashed := t.Hashed != nil && t.Hashed(from)
	if t.Share >= ShareBlocks {
		if err := t.clone(src, e, hashed); err == nil || !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if t.Share == ShareFile {
		if err := t.link(src, info.Sys().(*syscall.Stat_t), from, e, hashed); err == nil || !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if t.NoCopy {
		return errors.ErrUnsupported
	}
	return t.make(e, func(to *os.File) error { return t.copy(to, src, e) })
}

// clone makes e of the blocks of src. errors.ErrUnsupported: this file system
// cannot.
func (t *taker) clone(src *os.File, e *Entry, hashed bool) error {
	if t.noClone.Load() {
		return errors.ErrUnsupported
	}
	return t.make(e, func(to *os.File) error {
		if err := unix.IoctlFileClone(int(to.Fd()), int(src.Fd())); err != nil {
			if IsNoSpace(err) {
				return err
			}
			t.noClone.Store(true)
			return errors.ErrUnsupported
		}
		if hashed {
			return nil
		}
		// The clone, which no other user can write to; src may belong to a service.
		return t.copy(nil, to, e)
	})
}

// Linkable reports whether a file with that mode, of stat(2), and that owner can be a
// file of the mode want, under one more name: it has the mode and the owner that it would
// have, and only this owner, root, can write to it, before or after it was hashed.
func Linkable(mode, uid, gid uint32, want Mode) bool {
	return mode == unix.S_IFREG|uint32(want) && mode&0o022 == 0 && int(uid) == ownUID && int(gid) == ownGID
}

// Asked once, and not for each file.
var ownUID, ownGID = os.Geteuid(), os.Getegid()

// link gives src one more name. errors.ErrUnsupported: it cannot be linked here.
func (t *taker) link(src *os.File, st *syscall.Stat_t, from, e *Entry, hashed bool) error {
	want := t.fill.mode(e.Mode)
	linkable := Linkable(st.Mode, st.Uid, st.Gid, want)
	if t.Old && st.Nlink == 1 {
		linkable = Linkable(unix.S_IFREG|uint32(want), st.Uid, st.Gid, want)
	} else if t.Old && t.fill.Sealed {
		linkable = false // factory shares nothing with a version that stays
	}
	if t.Old && from.Path != e.Path {
		linkable = false // nor two files of one version
	}
	if !linkable {
		return errors.ErrUnsupported
	}
	if !hashed {
		if err := t.copy(nil, src, e); err != nil {
			return err
		}
	}
	fd, err := t.to.fd(e.Path)
	if err != nil {
		return err
	}
	// The very file that was hashed, also if its name now means another.
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(src.Fd())), fd, path.Base(e.Path), unix.AT_SYMLINK_FOLLOW)
	if err != nil && !IsNoSpace(err) {
		return errors.ErrUnsupported // another file system, too many links, no /proc: a copy does it
	}
	if err == nil && st.Mode != unix.S_IFREG|uint32(want) {
		err = setMode(src, want)
	}
	return err
}

// make makes the file e with what write writes, and removes it when that fails.
func (t *taker) make(e *Entry, write func(to *os.File) error) error {
	to, err := t.to.Create(e.Path)
	if err != nil {
		return err
	}
	if err = write(to); err == nil {
		err = setMode(to, t.fill.mode(e.Mode))
	}
	err = errors.Join(err, to.Close())
	if err != nil {
		_ = t.to.Remove(e.Path) // else it cannot be made in another way, which says so
	}
	return err
}

func (t *taker) close() {
	t.from.Close()
	t.to.Close()
	t.hasher.close()
}
