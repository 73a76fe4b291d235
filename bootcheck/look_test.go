package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRetry(t *testing.T) {
	for _, row := range []struct {
		err   error
		calls int // until it gives up
		says  bool
	}{
		{unix.ENOMEM, 4, false},
		{unix.EMFILE, 4, false},
		{unix.ENFILE, 4, false},
		{unix.EACCES, 4, false},
		{unix.EPERM, 4, false},
		{unix.EIO, 4, true},
		{unix.ENOENT, 1, true},
		{unix.ENOTDIR, 1, true},
		{unix.ELOOP, 1, true},
		{errors.New("size 812, want 800"), 1, true},
		{context.Canceled, 1, false},
		{context.DeadlineExceeded, 1, false},
	} {
		wrapped := fmt.Errorf("version 1.0.0: %w", &fs.PathError{Op: "lstat", Path: "v1.0.0", Err: row.err})
		calls := 0
		err := Retry(func() error { calls++; return wrapped })
		if err != wrapped || calls != row.calls {
			t.Errorf("Retry gave up on %v after %d calls with %v, want %d", row.err, calls, err, row.calls)
		}
		if Inconclusive(wrapped) == row.says {
			t.Errorf("Inconclusive(%v) = %t", row.err, !row.says)
		}
		if is := Exit(damage("", wrapped)) == ExitDamaged; is != row.says {
			t.Errorf("damage(%v) is damage: %t, want %t", row.err, is, row.says)
		}
		if row.calls == 1 {
			continue
		}
		calls = 0
		if err := Retry(func() error {
			if calls++; calls == 1 {
				return wrapped
			}
			return nil
		}); err != nil || calls != 2 {
			t.Errorf("Retry of %v, once: %v after %d calls", row.err, err, calls)
		}
	}
}
