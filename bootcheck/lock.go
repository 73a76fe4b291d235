package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy is returned by Lock: another program changes the store. Asking again later is right.
var ErrBusy = errors.New("another install or the guardian is at work")

// Lock takes the store's lock, waiting for it at most wait. The lock dies with
// its holder, so nobody ever has to clear it by hand. The error is an *Error
// with ExitBusy that wraps ErrBusy, or ctx's.
func (s *Store) Lock(ctx context.Context, wait time.Duration) (unlock func(), err error) {
	return lockAt(ctx, s.path(lockFile), wait)
}

// LockInstalls takes the lock that one install holds from its first byte to its
// verdict. It is not the store's lock: the guardian confirms and falls back
// while an install downloads or waits.
func (s *Store) LockInstalls(ctx context.Context) (unlock func(), err error) {
	// A moment of patience: a guardian that sweeps a full disk has it for so long.
	return lockAt(ctx, s.path(installLock), 200*time.Millisecond)
}

func lockAt(ctx context.Context, name string, wait time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP) {
		// Nothing of ours: in its place nobody could ever decide anything.
		if err = os.Remove(name); err == nil {
			return lockAt(ctx, name, wait)
		}
	}
	if errors.Is(err, unix.EROFS) {
		f, err = os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return func() {}, nil // nobody changes anything on this disk: reading it must not fail for that
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock the version store: %w", err)
	}
	deadline := time.Now().Add(wait)
	for {
		if err := ctx.Err(); err != nil {
			f.Close()
			return nil, err
		}
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case err == unix.EINTR:
			continue
		case err != unix.EWOULDBLOCK:
			f.Close()
			return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
		case !time.Now().Before(deadline):
			f.Close()
			return nil, Errorf(ExitBusy, "", "busy: %w", ErrBusy).WithAdvice("try again when it is done; `ota-apply status` says what it does")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
