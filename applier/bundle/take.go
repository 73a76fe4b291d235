package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

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
}

// Take gets from donor what it has of the files that are missing, by their
// SHA-256: nothing of these is unpacked. Nobody has written to the donor's file
// since it was verified (see bootcheck.IsVerified), or it is hashed again; one
// that is damaged is left alone, and so is whatever cannot be opened or shared.
// The error is ctx's or that of a disk that is full; then some files may have
// been taken.
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
	for range min(maxWorkers, runtime.GOMAXPROCS(0), len(pairs)) {
		wg.Go(func() {
			t := taker{
				ctx: ctx, noClone: &noClone, share: donor.Share,
				from: dirCache{root: donor.Root}, to: dirCache{root: u.root},
			}
			defer t.from.close()
			defer t.to.close()
			for failed.Load() == nil {
				i := int(next.Add(1) - 1)
				if i >= len(pairs) {
					return
				}
				e := &u.m.Entries[pairs[i].entry]
				err := t.take(pairs[i].from, e)
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
			err = writeAndClose(f, nil, e.Mode, e.SHA256)
		}
		if err != nil {
			return fmt.Errorf("cannot unpack %q: %w", e.Path, err)
		}
		u.have[i] = true
	}
	return nil
}

// A pair is a missing entry and the donor's that has its content.
type pair struct {
	entry int
	from  *bootcheck.Entry
}

func (u *Unpacker) pairs(donor *bootcheck.Manifest) []pair {
	has := make(map[string]*bootcheck.Entry, len(donor.Entries))
	for i := range donor.Entries {
		if e := &donor.Entries[i]; e.Type == bootcheck.TypeFile {
			has[e.SHA256] = e
		}
	}
	var pairs []pair
	for i := range u.m.Entries {
		if e := &u.m.Entries[i]; e.Type == bootcheck.TypeFile && !u.have[i] {
			if from := has[e.SHA256]; from != nil && from.Size == e.Size {
				pairs = append(pairs, pair{i, from})
			}
		}
	}
	return pairs
}

// A taker is what one goroutine keeps from file to file.
type taker struct {
	ctx      context.Context
	share    bool
	noClone  *atomic.Bool // the file system cannot
	from, to dirCache
	buf      []byte
}

var errUnfit = errors.New("the donor's file is not what its manifest says")

// take makes e from the donor's file from.
func (t *taker) take(from, e *bootcheck.Entry) error {
	dir, err := t.from.open(from.Path)
	if err != nil {
		return err
	}
	src, err := dir.OpenFile(path.Base(from.Path), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != e.Size {
		return errUnfit
	}
	if t.share {
		if err := t.clone(src, info, e); err == nil || !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
		if err := t.link(src, info, e); err == nil || !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return t.make(e, time.Now(), func(to *os.File) error {
		sum := sha256.New()
		if _, err := t.copy(io.MultiWriter(to, sum), src, e.Size); err != nil {
			return err
		}
		return checkSum(e, sum.Sum(nil))
	})
}

// clone makes e of the blocks of src. errors.ErrUnsupported: this file system
// cannot.
func (t *taker) clone(src *os.File, info fs.FileInfo, e *bootcheck.Entry) error {
	if t.noClone.Load() {
		return errors.ErrUnsupported
	}
	verified := bootcheck.IsVerified(info, e.SHA256)
	return t.make(e, info.ModTime(), func(to *os.File) error {
		if err := unix.IoctlFileClone(int(to.Fd()), int(src.Fd())); err != nil {
			if bootcheck.IsNoSpace(err) {
				return err
			}
			t.noClone.Store(true)
			return errors.ErrUnsupported
		}
		if verified {
			return nil
		}
		// The clone is hashed, which nobody else can write to.
		return t.hash(to, e)
	})
}

// link gives src, which must have the mode and the owner that e would have, one
// more name. errors.ErrUnsupported: it has not, or cannot be linked here.
func (t *taker) link(src *os.File, info fs.FileInfo, e *bootcheck.Entry) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode() != e.Mode.Perm() || int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		return errors.ErrUnsupported
	}
	if !bootcheck.IsVerified(info, e.SHA256) {
		if err := t.hash(src, e); err != nil {
			return err
		}
		bootcheck.MarkVerified(src, e.SHA256, info.ModTime())
	}
	fd, err := t.to.fd(e.Path)
	if err != nil {
		return err
	}
	// The very file that is open, whatever its name has come to mean.
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(src.Fd())), fd, path.Base(e.Path), unix.AT_SYMLINK_FOLLOW)
	if err != nil && !bootcheck.IsNoSpace(err) {
		return errors.ErrUnsupported // another file system, too many links, no /proc: a copy does it
	}
	return err
}

// make makes the file e with what write writes, and removes it when that fails.
func (t *taker) make(e *bootcheck.Entry, written time.Time, write func(to *os.File) error) error {
	to, err := t.to.create(e.Path)
	if err != nil {
		return err
	}
	if err = write(to); err == nil {
		err = to.Chmod(e.Mode.Perm())
	}
	if err == nil {
		bootcheck.MarkVerified(to, e.SHA256, written)
	}
	err = errors.Join(err, to.Close())
	if err != nil {
		if dir, openErr := t.to.open(e.Path); openErr == nil {
			_ = dir.Remove(path.Base(e.Path)) // else Finish cannot make it, and says so
		}
	}
	return err
}

// hash compares what f has with e.
func (t *taker) hash(f *os.File, e *bootcheck.Entry) error {
	sum := sha256.New()
	if _, err := t.copy(sum, io.NewSectionReader(f, 0, e.Size), e.Size); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != e.SHA256 {
		return errUnfit
	}
	return nil
}

// copy copies size bytes, until ctx ends.
func (t *taker) copy(to io.Writer, from io.Reader, size int64) (int64, error) {
	if t.buf == nil {
		t.buf = make([]byte, 256<<10)
	}
	var n int64
	for n < size {
		if err := t.ctx.Err(); err != nil {
			return n, err
		}
		part := t.buf[:min(int64(len(t.buf)), size-n)]
		if _, err := io.ReadFull(from, part); err != nil {
			return n, err
		}
		if _, err := to.Write(part); err != nil {
			return n, err
		}
		n += int64(len(part))
	}
	return n, nil
}
