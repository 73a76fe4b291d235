package bootcheck

// How things are deleted: as far as they can be, past what stands in the way of the
// rest, and in an order in which no half of a version ever looks intact.

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RemoveAll deletes name and all that is below it. Unlike os.RemoveAll it never
// enters what is mounted there, which may be other data. What cannot be deleted
// does not keep the rest: the error is about the first of it. A name that is not
// there is no error.
func RemoveAll(name string) error {
	dir, err := openDir(filepath.Dir(name))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer dir.Close()
	return removeAt(int(dir.Fd()), name)
}

// removeAt is RemoveAll of the last element of name in its directory, which is open.
func removeAt(dir int, name string) error {
	base := filepath.Base(name)
	err := unix.Unlinkat(dir, base, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	sub, openErr := openHere(dir, base)
	switch openErr {
	case nil:
	case unix.ENOTDIR, unix.ELOOP:
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	default:
		return &fs.PathError{Op: "remove", Path: name, Err: openErr}
	}
	first := removeIn(sub, name, "")
	sub.Close()
	if err := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT && first == nil {
		first = &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return first
}

// removeIn deletes what is in dir, whose name is name, but for keep.
func removeIn(dir *os.File, name, keep string) error {
	// All at once: what an NFS server gives a new name meanwhile does not come again.
	names, first := dir.Readdirnames(-1)
	for _, n := range names {
		if n != keep {
			if err := removeAt(int(dir.Fd()), filepath.Join(name, n)); first == nil {
				first = err
			}
		}
	}
	return first
}

// openHere opens the directory name in dir, and neither a link nor what is mounted there.
func openHere(dir int, name string) (*os.File, error) {
	n, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV})
	if err == nil {
		return os.NewFile(uintptr(n), name), nil
	}
	if err != unix.ENOSYS && err != unix.EPERM {
		return nil, err
	}
	// Before Linux 5.6, or a sandbox does not know the call.
	f, err := openNoFollow(dir, name, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	var outer, inner unix.Stat_t
	if err = cmp.Or(unix.Fstat(dir, &outer), unix.Fstat(int(f.Fd()), &inner)); err == nil && outer.Dev != inner.Dev {
		err = unix.EXDEV
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ErrUndurable is a removal that was made, and that a power cut may undo.
var ErrUndurable = errors.New("it may be there again after a power cut")

// syncRemoval makes it durable that a name in dir is gone.
func syncRemoval(dir string) error {
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("%w: %w", ErrUndurable, err)
	}
	return nil
}

// trash moves name, below the store's directory, into .trash. When it returns, it is
// durably out of the directory that it was in. That it is in .trash need not be: what
// is there waits to be deleted. What cannot be moved is deleted where it is.
func (s *Store) trash(name string) error {
	_, err := s.moveToTrash(name)
	return err
}

// moveToTrash is trash; to is where it is now, empty if it was deleted.
func (s *Store) moveToTrash(name string) (to string, err error) {
	if _, err := s.makeDirs(trashDir); err != nil {
		return "", err
	}
	from := s.path(name)
	for i := 0; ; i++ {
		to := s.path(trashDir, fmt.Sprintf("%s-%d", strings.TrimPrefix(filepath.Base(name), "."), i))
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		err := os.Rename(from, to)
		if err == nil {
			return to, syncRemoval(filepath.Dir(from))
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) {
			return "", err
		}
		if hereErr := removeHere(from); hereErr != nil {
			return "", fmt.Errorf("%w, and %w", err, hereErr)
		}
		return "", syncRemoval(filepath.Dir(from))
	}
}

// removeHere deletes name in its place, as it cannot be moved: a directory of the lower
// layer of an overlay, or one that must not be changed itself. Of a version the manifest
// goes first, durably, and the directory that it was in last: a rest is a damaged version,
// neither an intact one nor one that never had a manifest. Where that cannot be done,
// nothing is deleted.
func removeHere(name string) error {
	parent, err := openDir(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	dir, err := openHere(int(parent.Fd()), filepath.Base(name))
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return removeAt(int(parent.Fd()), name)
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	// A version that was adopted has no such directory, and would look like itself, half.
	if err := os.Mkdir(filepath.Join(name, ManifestDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Remove(filepath.Join(name, ManifestPath)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := cmp.Or(syncDir(filepath.Join(name, ManifestDir)), dir.Sync()); err != nil {
		return err
	}
	if err := removeIn(dir, name, ManifestDir); err != nil {
		return err
	}
	return removeAt(int(parent.Fd()), name)
}

// clear makes name, below the store's directory, free. What of it cannot be deleted is moved
// into .trash.
func (s *Store) clear(name string) error {
	if RemoveAll(s.path(name)) == nil {
		return nil
	}
	return s.trash(name)
}

// notRemoved is one error for all that could not be removed.
func notRemoved(errs []error) error {
	var first error
	n := 0
	for _, err := range errs {
		if err != nil {
			first = cmp.Or(first, err)
			n++
		}
	}
	if n > 1 {
		return fmt.Errorf("%w (and %d more)", first, n-1)
	}
	return first
}

// openDir opens the directory name, which is no link, with Retry.
func openDir(name string) (*os.File, error) {
	return retried(func() (*os.File, error) { return os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) })
}
