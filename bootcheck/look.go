package bootcheck

// What an error of a look at the disk says, and how often the disk is asked.

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Inconclusive reports whether err, of a look at a version or a record, says nothing
// about what was looked at: this process may not, lacks memory or descriptors, or was
// told to end. The rule for such an error, everywhere:
//
//   - it was tried again already, see Retry;
//   - it is never damage: nothing is repaired, replaced, blocked or forgotten for it,
//     and no phase ends;
//   - the next candidate is asked, and the journal and the record (Rollback.Skipped)
//     say which one was skipped, and why.
//
// Any other error is about what was looked at, and counts as damage. So does EIO when
// it is still there after Retry: these bytes cannot be read on this device.
func Inconclusive(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// damage is err, of a look at a version, with ExitDamaged and code, unless it is
// Inconclusive.
func damage(code string, err error) error {
	if Inconclusive(err) {
		return err
	}
	return Errorf(ExitDamaged, code, "%w", err)
}

// Retry calls look until its error is one that the next call would return too, or
// none: at most four times within 70 ms. A disk, a cable or a memory that fails once is
// no reason to take anything for lost. look must change nothing.
func Retry(look func() error) error {
	for pause := 10 * time.Millisecond; ; pause *= 2 {
		err := look()
		passes := errors.Is(err, unix.EIO) || errors.Is(err, unix.EINTR) || Inconclusive(err) &&
			!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
		if !passes || pause > 40*time.Millisecond {
			return err
		}
		time.Sleep(pause)
	}
}

// lstat is os.Lstat with Retry.
func lstat(name string) (info fs.FileInfo, err error) {
	err = Retry(func() (err error) {
		info, err = os.Lstat(name)
		return err
	})
	return info, err
}

// statAt is fstatat with Retry. It follows no link.
func statAt(dir *os.File, name string, st *unix.Stat_t) error {
	return Retry(func() error { return unix.Fstatat(int(dir.Fd()), name, st, unix.AT_SYMLINK_NOFOLLOW) })
}

// namesIn lists what is in the directory open as d, with Retry.
func namesIn(d *os.File) (names []string, err error) {
	err = Retry(func() (err error) {
		if _, err = d.Seek(0, io.SeekStart); err == nil {
			names, err = d.Readdirnames(-1)
		}
		return err
	})
	return names, err
}

// There sees whether the folder of version is in the store. The error is Inconclusive,
// or says that it is not.
func (s *Store) There(version string) error { return isFolder(s.VersionDir(version)) }

func isFolder(name string) error {
	info, err := lstat(name)
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a folder")
	}
	return err
}

// Sealed reports whether the folder of version is read-only, as that of factory is.
func (s *Store) Sealed(version string) bool {
	info, err := lstat(s.VersionDir(version))
	return err == nil && info.Mode().Perm()&0o222 == 0
}
