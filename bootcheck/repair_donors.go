package bootcheck

// Where a repair takes the files from that a snapshot lost.

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// fillEmpty makes the files of r.wrong that are empty: nobody has to have them.
func (r *repair) fillEmpty() error {
	return r.fillWith(func(e *Entry) (bool, error) {
		if e.Size > 0 {
			return false, nil
		}
		return r.makeFile(e, func(*os.File) error { return nil })
	})
}

// fill makes the files of r.wrong from those that snapshots have, and leaves in
// r.wrong what none has. First this snapshot: no other is so likely to be in the
// cache. Then the newest versions: one manifest is in memory at a time, however
// many versions there are, and no more are read than are needed.
func (r *repair) fill() error {
	for _, donor := range r.donors {
		if err := r.fillFrom(donor); err != nil {
			return err
		}
	}
	if len(r.wrong) == 0 {
		return nil
	}
	versions, err := r.store.VersionNames()
	if err != nil {
		return err
	}
	versions = slices.DeleteFunc(versions, func(version string) bool { return version == r.snapshot.Ref.Version })
	versions = append(versions, r.snapshot.Ref.Version)
	for _, version := range slices.Backward(versions) {
		if len(r.wrong) == 0 {
			break
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		donor := r.snapshot
		if version != r.snapshot.Ref.Version {
			if donor, err = r.store.Snapshot(version); err != nil {
				r.skip(err)
				continue // not a version to take anything from
			}
		}
		if err := r.fillFrom(donor); err != nil {
			return err
		}
	}
	return nil
}

// fillFrom makes what it can of r.wrong from donor.
func (r *repair) fillFrom(donor *Snapshot) error {
	has := make(map[string][]*Entry, len(r.wrong)) // by hash
	damaged := make(map[*Entry]bool, len(r.wrong))
	for _, e := range r.wrong {
		has[e.SHA256], damaged[e] = nil, true
	}
	some := false
	for i := range donor.Manifest.Entries {
		e := &donor.Manifest.Entries[i]
		if same, wanted := has[e.SHA256]; wanted && e.Type == TypeFile && !damaged[e] {
			has[e.SHA256], some = append(same, e), true
		}
	}
	if !some {
		return nil
	}
	root, err := openDir(donor.Dir)
	if err != nil {
		r.skip(err)
		return nil // nothing to be had here
	}
	defer func() { _ = root.Close() }()
	return r.fillWith(func(e *Entry) (bool, error) {
		for _, source := range has[e.SHA256] {
			if source.Size != e.Size {
				continue
			}
			if ok, err := r.take(root, source, e); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	})
}

// fillWith lets f make each of r.wrong, and leaves those that it did not make.
func (r *repair) fillWith(f func(*Entry) (made bool, err error)) error {
	var still []*Entry
	for i, e := range r.wrong {
		made, err := f(e)
		if err != nil {
			if err := r.failure(e, err); err != nil {
				r.wrong = append(still, r.wrong[i:]...)
				return err
			}
			continue
		}
		if made {
			r.done = append(r.done, e.Path)
		} else {
			still = append(still, e)
		}
	}
	r.wrong = still
	return nil
}

// skip remembers that a donor could not be read because of err.
func (r *repair) skip(err error) {
	if Inconclusive(err) {
		r.unread = err
	}
}

// take makes e from source, a file below root. false: the source is damaged, too.
func (r *repair) take(root *os.File, source, e *Entry) (bool, error) {
	from, err := openBeneath(int(root.Fd()), source.Path)
	if err == nil {
		defer func() { _ = from.Close() }()
		var info fs.FileInfo
		if info, err = from.Stat(); err == nil && (!info.Mode().IsRegular() || info.Size() != e.Size) {
			return false, nil // a FIFO must not be read at all
		}
	}
	if err != nil {
		if ends(r.ctx, err) && !errors.Is(err, fs.ErrPermission) {
			return false, err
		}
		r.skip(err)
		return false, nil
	}
	return r.makeFile(e, func(to *os.File) error {
		// Shared blocks, where the file system can: no time and no space. A later
		// change of one file is none of the other, as it would be with a hard link.
		if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
			return nil
		}
		return r.copy(to, from, e.Size)
	})
}

// copy copies size bytes, in parts that ctx can end. The kernel copies
// (copy_file_range) where it can.
func (r *repair) copy(to, from *os.File, size int64) error {
	const part = 8 << 20
	for size > 0 {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(to, from, min(size, part))
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// makeFile makes the file e with what write writes, and gives it its name when it
// has the content that it must have. false: it has not.
func (r *repair) makeFile(e *Entry, write func(to *os.File) error) (bool, error) {
	var to *os.File
	err := r.stage(func(staging int) error {
		fd, err := unix.Openat(staging, repairFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			to = os.NewFile(uintptr(fd), repairFile)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	defer func() { _ = to.Close() }()
	err = write(to)
	if err == nil {
		// Of what was really copied: the source may be damaged, or change.
		err = r.hash(to, e)
	}
	if err != nil {
		if ends(r.ctx, err) {
			return false, err
		}
		return false, nil
	}
	if err := to.Chmod(r.mode(e)); err != nil {
		return false, err
	}
	if err := to.Sync(); err != nil {
		return false, err // never a second time: the file is thrown away
	}
	dir, err := openBeneath(int(r.root.Fd()), path.Dir(e.Path))
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	if err := r.place(dir, path.Base(e.Path)); err != nil {
		return false, err
	}
	return true, nil
}
