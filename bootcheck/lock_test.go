package bootcheck

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLockOfAnother holds that a lock file which others can open, as an older
// program, a copy or an operator may have left it, is no way to stop this one.
func TestLockOfAnother(t *testing.T) {
	s := newStore(t)
	for name, lock := range map[string]func() (func(), error){
		lockFile:    func() (func(), error) { return s.Lock(t.Context(), 0) },
		installLock: func() (func(), error) { return s.LockInstalls(t.Context()) },
	} {
		if err := errors.Join(os.WriteFile(s.path(name), nil, 0o644), os.Chmod(s.path(name), 0o644)); err != nil {
			t.Fatal(err)
		}
		other, err := os.Open(s.path(name))
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		unlock, err := lock()
		if err != nil {
			t.Fatalf("%s, which another holds through a descriptor for reading: %v", name, err)
		}
		if info, err := os.Lstat(s.path(name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v (%v), want 0600", name, info.Mode(), err)
		}
		if _, err := lock(); !errors.Is(err, ErrBusy) {
			t.Errorf("%s is locked, and a second lock of it: %v, want busy", name, err)
		}
		unlock()
		if unlock, err = lock(); err != nil {
			t.Fatalf("%s, unlocked: %v", name, err)
		}
		unlock()
	}
}

// TestLockReplaced holds that one at a time has the lock while it is replaced.
func TestLockReplaced(t *testing.T) {
	s := newStore(t)
	for range 10 {
		if err := errors.Join(os.WriteFile(s.path(lockFile), nil, 0o644), os.Chmod(s.path(lockFile), 0o644)); err != nil {
			t.Fatal(err)
		}
		other, err := os.Open(s.path(lockFile))
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(other.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		var inside atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				unlock, err := s.Lock(context.Background(), lockPatience)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				time.Sleep(time.Millisecond) // else they would hardly meet
				inside.Add(-1)
				unlock()
			})
		}
		wg.Wait()
		other.Close()
		if _, err := os.Lstat(s.path(lockFile + ".new")); err == nil {
			t.Error("a file .lock.new stays")
		}
	}
}
