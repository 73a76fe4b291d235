package bootcheck

// What an error of a look at the disk says, and how often the disk is asked.

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
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

// damage is err, of a look at a version, with ExitDamaged, code and the advice that err
// has, unless it is Inconclusive.
func damage(code string, err error) error {
	if Inconclusive(err) {
		return err
	}
	return &Error{Exit: ExitDamaged, Code: code, Advice: Advice(err), Err: err}
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

// retried is what look finds, with Retry.
func retried[T any](look func() (T, error)) (found T, err error) {
	err = Retry(func() (err error) {
		found, err = look()
		return err
	})
	return found, err
}

// lstat is os.Lstat with Retry.
func lstat(name string) (fs.FileInfo, error) {
	return retried(func() (fs.FileInfo, error) { return os.Lstat(name) })
}

// stat is os.Stat with Retry.
func stat(name string) (fs.FileInfo, error) {
	return retried(func() (fs.FileInfo, error) { return os.Stat(name) })
}

// statAt is fstatat with Retry. It follows no link.
func statAt(dir int, name string, st *unix.Stat_t) error {
	return Retry(func() error { return unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW) })
}

// namesIn lists what is in the directory open as d, with Retry.
func namesIn(d *os.File) ([]string, error) {
	return retried(func() ([]string, error) {
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		return d.Readdirnames(-1)
	})
}

// openNoFollow opens name, one component, in the directory fd for reading, with Retry.
func openNoFollow(fd int, name string, flags int) (*os.File, error) {
	n, err := openAt(fd, name, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), name), nil
}

// openAt is openNoFollow without what an os.File costs.
func openAt(fd int, name string, flags int) (int, error) {
	return retried(func() (int, error) {
		return unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	})
}

// openDirectory opens the directory dir; a link leads to it, if there is one.
func openDirectory(dir string) (*os.File, error) {
	return retried(func() (*os.File, error) { return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0) })
}

// There sees whether the directory of version is in the store. The error is Inconclusive,
// or says that it is not.
func (s *Store) There(version string) error { return s.isDirectory(s.dirOf(version)) }

// Missing says why versions are not in the store, as There does, of all that record can roll
// back to and of the next one. Those that are there are not in it. However many were
// confirmed, the store is listed once for them.
func (s *Store) Missing(record *Record) map[string]error {
	missing := make(map[string]error)
	note := func(ref *Ref, err error) {
		if err != nil {
			missing[ref.Version] = err
		}
	}
	for _, ref := range []*Ref{record.Previous, record.Factory} {
		if ref != nil {
			note(ref, s.There(ref.Version))
		}
	}
	if record.Next != nil {
		note(&record.Next.Ref, s.There(record.Next.Version))
	}
	list := sync.OnceValues(s.directories)
	for i := range record.Confirmed {
		ref := &record.Confirmed[i]
		if record.Linked(ref.Version).Ref != nil {
			continue // or current, at which its caller looks more closely
		}
		all, err := list()
		if err == nil && !slices.ContainsFunc(all, func(d versionDir) bool { return d.version == ref.Version }) {
			err = absent(ref.Version)
		}
		note(ref, err)
	}
	return missing
}

// isDirectory is There of a directory of a version, which was found with err.
func (s *Store) isDirectory(name string, err error) error {
	if err != nil {
		return err
	}
	info, err := lstat(s.path(name))
	if err == nil && !info.IsDir() {
		err = errors.New("it is not a directory")
	}
	return err
}

// Sealed reports whether the directory of version is read-only, as that of factory is.
func (s *Store) Sealed(version string) bool {
	info, err := lstat(s.VersionDir(version))
	return err == nil && info.Mode().Perm()&0o222 == 0
}
