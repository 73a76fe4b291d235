package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// All locks, in the order in which a program takes them. None is held while one before
// it is waited for.
//
//	.follow.lock   run directory  one follower, as long as it runs; its installs are processes of their own
//	.install.lock  store          one install, from its first byte to the end of its trial
//	.lock          the spool      one download
//	.lock          store          what changes the store; seconds
//	.metrics.lock  run directory  what writes the files for the fleet; taken last
//	progress.json  run directory  on the file itself: its writer lives (operation.go)
//
// All but the last are LockFile.

// ErrBusy is returned by Lock: another program changes the store. Asking again later is right.
var ErrBusy = errors.New("another install or ota-guardian holds the store")

// Lock takes the store's lock, waiting for it at most wait. The lock dies with
// its holder, so it never has to be cleared by hand. The error is an *Error
// with ExitBusy that wraps ErrBusy, or ctx's.
func (s *Store) Lock(ctx context.Context, wait time.Duration) (unlock func(), err error) {
	return s.lockAt(ctx, lockFile, wait)
}

// LockInstalls takes the lock that one install holds from its first byte to the
// end of its trial. It is not the store's lock: the guardian confirms and rolls back
// while an install downloads or waits.
func (s *Store) LockInstalls(ctx context.Context) (unlock func(), err error) {
	// A moment of patience: a guardian that sweeps a full disk has it for so long.
	return s.lockAt(ctx, installLock, 200*time.Millisecond)
}

func (s *Store) lockAt(ctx context.Context, name string, wait time.Duration) (unlock func(), err error) {
	unlock, err = LockFile(ctx, s.path(name), wait)
	if err == nil || err == ctx.Err() {
		return unlock, err
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, Errorf(ExitBusy, "", "busy: %w", ErrBusy).WithAdvice("try again when it is done; `ota-apply status` says what it does")
	}
	return nil, fmt.Errorf("cannot lock the version store: %w", err)
}

// LockFile locks the file name, which is made if it is not there, and waits for that
// at most wait. The lock ends with its holder. The file can be opened by this user
// alone: a user who can open a file can lock it, for reading and for ever. Its holder
// may remove it before it unlocks. On a disk
// that is read-only a lock that is not there is not needed. The error is ctx's, or
// unix.EWOULDBLOCK while another process has the lock.
func LockFile(ctx context.Context, name string, wait time.Duration) (unlock func(), err error) {
	for deadline := time.Now().Add(wait); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := tryLock(name)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if err != unix.EWOULDBLOCK || !time.Now().Before(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tryLock locks the file name; nil without an error: there is no need to.
func tryLock(name string) (*os.File, error) {
	f, err := openLock(name)
	if notAFile(err) {
		if f, err = replaceLock(name); errors.Is(err, unix.EROFS) {
			err = nil
		}
		return f, err
	}
	if f == nil {
		return nil, err
	}
	info, err := retried(f.Stat)
	if err != nil {
		f.Close()
		return nil, err
	}
	if !ownLock(info) {
		next, err := replaceLock(name)
		if err == nil || err == unix.EWOULDBLOCK {
			f.Close()
			return next, err
		}
		// On a full disk no other way is left, and a read-only one is not changed.
		if errors.Is(f.Chmod(0o600), unix.EROFS) {
			f.Close()
			return nil, nil
		}
	}
	if err = flock(f); err == nil {
		// What was locked may have been replaced just before.
		is, statErr := lstat(name)
		switch {
		case statErr == nil && os.SameFile(info, is):
			return f, nil
		case statErr == nil || errors.Is(statErr, fs.ErrNotExist):
			err = unix.EWOULDBLOCK
		default:
			err = statErr // not to be waited for as another process's lock is
		}
	}
	f.Close()
	return nil, err
}

// openLock opens the file name, and makes it; nil without an error: it is not there,
// and the disk is read-only.
func openLock(name string) (*os.File, error) {
	for range 2 {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		switch {
		case errors.Is(err, unix.EISDIR):
			// In its place nothing could ever be decided.
			if err := MoveAside(name); err != nil && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) {
				return nil, err
			}
			continue
		case errors.Is(err, unix.EROFS):
			// Nothing changes on this disk: reading it must not fail for that.
			if f, err = os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0); errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
		}
		return f, err
	}
	return nil, unix.EISDIR
}

// notAFile reports whether err, of an open, says that a link or a socket is there.
func notAFile(err error) bool { return errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) }

// MoveAside moves the directory name, and nothing but a directory, into .trash beside
// it: a file that another process puts there meanwhile stays (unix.EISDIR). It need not
// be durable: what a power cut brings back is moved again.
func MoveAside(name string) error {
	trash := filepath.Join(filepath.Dir(name), trashDir)
	if err := os.Mkdir(trash, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for i := 0; ; i++ {
		to := filepath.Join(trash, fmt.Sprintf("%s-%d", strings.TrimPrefix(filepath.Base(name), "."), i))
		err := os.Mkdir(to, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			// A directory replaces an empty one; anything else does not.
			if err = unix.Rename(name, to); err != nil {
				_ = os.Remove(to)
			}
		}
		return err
	}
}

// ownLock reports whether info is of a file that this user alone can open.
func ownLock(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && info.Mode().Perm()&0o077 == 0 && int(st.Uid) == os.Geteuid()
}

// replaceLock puts a file that no other program has ever opened, and that is locked, in the
// place of the lock name, which another user may hold for ever. One process at a
// time does so, the one that has the lock of the new file; the others try again.
func replaceLock(name string) (*os.File, error) {
	f, err := openLock(name + ".new")
	switch {
	case notAFile(err):
		if err = os.Remove(name + ".new"); err == nil {
			err = unix.EWOULDBLOCK // ask again
		}
		return nil, err
	case err == nil && f == nil:
		err = unix.EROFS
	}
	if err != nil {
		return nil, err
	}
	if err = flock(f); err == nil {
		if is, statErr := lstat(name); statErr != nil && !errors.Is(statErr, fs.ErrNotExist) {
			err = statErr
		} else if statErr != nil || ownLock(is) {
			os.Remove(name + ".new")
			err = unix.EWOULDBLOCK // another process did it
		} else if err = os.Rename(name+".new", name); err == nil {
			return f, nil
		}
	}
	f.Close()
	return nil, err
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EINTR {
			return err
		}
	}
}
