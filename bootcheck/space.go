package bootcheck

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Space is what is free for versions on the file system of the store, without its reserve.
type Space struct {
	Bytes  uint64
	Inodes uint64 // 0 with NoInodes
	Block  uint64 // bytes that the smallest file takes
	// NoInodes: the file system makes inodes as it needs them (btrfs).
	NoInodes bool
}

// Free asks how much room the store has.
func (s *Store) Free() (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	return Space{
		Bytes:    st.Bavail * uint64(st.Bsize),
		Inodes:   st.Ffree,
		Block:    uint64(st.Bsize),
		NoInodes: st.Files == 0,
	}, nil
}

// Occupied is what the file system gets back when versions are removed: the blocks
// and inodes of files that no other version shares; shared are the bytes of those that
// others have, too. Blocks that are shared by a clone are counted all the same. What
// cannot be deleted is not counted: what is immutable, and what is mounted there.
func (s *Store) Occupied(versions ...string) (freed Space, shared uint64, err error) {
	var dirs []string
	for _, version := range versions {
		directories, err := s.dirsOf(version)
		if err != nil {
			return Space{}, 0, err
		}
		for _, d := range directories {
			dirs = append(dirs, s.path(d.name))
		}
	}
	return occupied(dirs)
}

// Leavings is what the file system gets back by Sweep.
func (s *Store) Leavings() (Space, error) {
	freed, _, err := occupied([]string{s.path(trashDir), s.path(stagingDir)})
	return freed, err
}

// occupied is what is freed when dirs are removed, and the bytes of the files in them that
// have names elsewhere.
func occupied(dirs []string) (sum Space, shared uint64, err error) {
	left := make(map[uint64]uint64) // by inode: names of it that are not below dirs
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil // removed meanwhile
				}
				return err
			}
			var st unix.Statx_t
			if unix.Statx(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st) != nil {
				return nil
			}
			const stays = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND | unix.STATX_ATTR_MOUNT_ROOT
			if st.Attributes&stays != 0 {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if links := uint64(st.Nlink); links > 1 && !d.IsDir() {
				n, known := left[st.Ino]
				if !known {
					n = links
					shared += st.Blocks * 512
				}
				n--
				left[st.Ino] = n
				if n > 0 {
					return nil
				}
				shared -= st.Blocks * 512
			}
			sum.Bytes += st.Blocks * 512
			sum.Inodes++
			return nil
		})
		if err != nil {
			return Space{}, 0, err
		}
	}
	return sum, shared, nil
}
