package bootcheck

// How a repair changes a snapshot: made in .staging, renamed over what was there,
// and durable.

import (
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// mode is what e gets.
func (r *repair) mode(e *Entry) fs.FileMode {
	if r.sealed {
		return e.Mode.Perm() &^ 0o222
	}
	return e.Mode.Perm()
}

// chmod gives the file or folder name in dir the mode of e, durably.
func (r *repair) chmod(dir *os.File, name string, e *Entry) error {
	f, err := r.open(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := f.Chmod(r.mode(e)); err != nil {
		return err
	}
	return f.Sync()
}

// stage lets f make repairFile in .staging, where nothing of this name is left.
func (r *repair) stage(f func(staging int) error) error {
	if err := r.store.clear(stagingDir + "/" + repairFile); err != nil {
		return err
	}
	return f(int(r.staging.Fd()))
}

// place gives what was made in .staging its name in dir, durably, in the place of
// whatever is there.
func (r *repair) place(dir *os.File, name string) error {
	return r.change(dir, func() error {
		err := unix.Renameat(int(r.staging.Fd()), repairFile, int(dir.Fd()), name)
		if err != unix.EISDIR && err != unix.ENOTDIR {
			return err
		}
		// A folder and something else cannot replace each other. Power cut between
		// these two: the entry is missing, and the next Repair makes it again.
		if err := r.discard(dir, name); err != nil {
			return err
		}
		return unix.Renameat(int(r.staging.Fd()), repairFile, int(dir.Fd()), name)
	})
}

// discard moves name of dir into .trash, or deletes it where it cannot be moved.
func (r *repair) discard(dir *os.File, name string) error {
	if r.ordinaryOwner {
		// Moving a folder changes its "..", which its own mode may forbid.
		if f, err := r.open(dir, name); err == nil {
			if info, err := f.Stat(); err == nil && info.IsDir() {
				_ = f.Chmod(0o700) // if it cannot, the move says so
			}
			_ = f.Close()
		}
	}
	for ; ; r.trashed++ {
		to := "repair-" + strconv.Itoa(r.trashed)
		var st unix.Stat_t
		if err := unix.Fstatat(int(r.trash.Fd()), to, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			continue // a killed repair left it
		}
		if err := unix.Renameat(int(dir.Fd()), name, int(r.trash.Fd()), to); err != nil {
			if removeAt(int(dir.Fd()), name) != nil {
				return err
			}
			return nil
		}
		r.trashed++
		return nil
	}
}

// change lets f change what is in dir, and makes that durable. Root may write to
// a folder that is read-only; anybody else has to make it writable.
func (r *repair) change(dir *os.File, f func() error) error {
	if r.ordinaryOwner {
		info, err := dir.Stat()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o200 == 0 {
			if err := dir.Chmod(mode | 0o200); err != nil {
				return err
			}
			defer func() { _ = dir.Chmod(mode) }()
		}
	}
	if err := f(); err != nil {
		return err
	}
	return dir.Sync()
}
