package bootcheck

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// dirName is the folder of a version in the store.
func dirName(version string) string { return "v" + version }

// VersionDir is the folder in which version is, or would be.
func (s *Store) VersionDir(version string) string { return s.path(dirName(version)) }

// VersionNames lists the versions whose folders are in the store, whole or not, oldest name first.
func (s *Store) VersionNames() ([]string, error) {
	entries, err := readDir(s.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if version, ok := strings.CutPrefix(e.Name(), "v"); ok && e.IsDir() && ValidVersion(version) {
			names = append(names, version)
		}
	}
	slices.SortStableFunc(names, CompareVersions)
	return names, nil
}

// Snapshot is a version on disk, with the manifest that says what it consists of.
type Snapshot struct {
	Ref      Ref // with the digest that the manifest on disk has
	Dir      string
	Manifest *Manifest
}

// Snapshot reads the manifest of version. It does not look at the tree: see
// Verify. The error wraps fs.ErrNotExist if there is no such version.
func (s *Store) Snapshot(version string) (*Snapshot, error) {
	if !ValidVersion(version) {
		return nil, Errorf(ExitUsage, "", "%q cannot be a version", version)
	}
	dir := s.VersionDir(version)
	if err := s.There(version); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("version %s is not in the store: %w", version, fs.ErrNotExist)
	} else if err != nil {
		return nil, damage("", fmt.Errorf("version %s cannot be used: %w", version, err))
	}
	raw, m, err := ReadManifest(dir)
	if err != nil {
		return nil, damage("", fmt.Errorf("version %s cannot be used: %w", version, err))
	}
	if m.Version != version {
		return nil, Errorf(ExitDamaged, "", "version %s cannot be used: its manifest is that of version %s", version, m.Version)
	}
	return &Snapshot{Ref: Ref{Version: version, Digest: Digest(raw)}, Dir: dir, Manifest: m}, nil
}

// Release is the release counter that the manifest of version says; 0: it does not
// count, or it cannot be read. Of a manifest that this project's programs made, only
// the first lines are read: it is asked for in each boot. Nothing that matters may
// depend on it, as nothing else of the manifest was looked at.
func (s *Store) Release(version string) int64 {
	f, err := os.OpenFile(filepath.Join(s.VersionDir(version), ManifestPath), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, 64<<10)) // of 32 MiB that are one value, all would be kept
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return 0
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return 0
		}
		if key == "release" {
			var release int64
			if dec.Decode(&release) != nil {
				return 0
			}
			return release
		}
		var other json.RawMessage
		if dec.Decode(&other) != nil {
			return 0
		}
	}
	return 0
}

// Verify checks that ref is on disk, is the content that the record knows and
// is whole. depth says how closely. What it returns nil for may be run. Of a version
// without a manifest (NoManifest) it only sees that it is there.
func (s *Store) Verify(ctx context.Context, ref *Ref, depth Depth) error {
	if ref.Plain() {
		return s.verifyPlain(ref.Version)
	}
	snapshot, err := s.Snapshot(ref.Version)
	if err != nil {
		return err
	}
	if !snapshot.Ref.Same(ref) {
		return Errorf(ExitDamaged, CodeHashMismatch, "version %s has the manifest %s, want %s", ref.Version, snapshot.Ref.Digest, ref.Digest)
	}
	if err := CheckTree(ctx, snapshot.Dir, snapshot.Manifest, depth); Inconclusive(err) {
		return fmt.Errorf("cannot check version %s: %w", ref.Version, err)
	} else if err != nil {
		return fmt.Errorf("version %s is damaged: %w", ref.Version, err)
	}
	return nil
}

// Find is the version that a person means by name: "1.2.0", its folder's name
// "v1.2.0", or one of the links "current", "previous", "factory".
func (s *Store) Find(record *Record, name string) (string, error) {
	if record != nil {
		for _, l := range record.Links() {
			if l.Name == name {
				if l.Ref == nil {
					return "", fmt.Errorf("there is no %s version", name)
				}
				return l.Ref.Version, nil
			}
		}
	}
	for _, version := range []string{name, strings.TrimPrefix(name, "v")} {
		if !ValidVersion(version) {
			continue
		}
		if err := s.There(version); err == nil {
			return version, nil
		} else if Inconclusive(err) {
			return "", err
		}
	}
	if !ValidVersion(name) {
		return "", Errorf(ExitUsage, "", "%q cannot be a version", name)
	}
	return "", (&Error{Err: fmt.Errorf("version %s is not in the store: %w", name, fs.ErrNotExist)}).
		WithAdvice("`ota-apply list` shows what is")
}

// Stage makes the empty folder .staging/v<version> to unpack into and returns
// it; whatever was there is gone. The caller closes it.
func (s *Store) Stage(version string) (*os.Root, error) {
	name := filepath.Join(stagingDir, dirName(version))
	if err := s.clear(name); err != nil {
		return nil, err
	}
	dir := s.path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// Unstage throws a staged version away.
func (s *Store) Unstage(version string) error {
	return RemoveAll(s.path(stagingDir, dirName(version)))
}

// Publish makes the staged version a snapshot. Everything in it must be durable
// already: a snapshot that has its final name is whole, after any power cut.
// When Publish returns nil its name is durable too. The lock must be held.
func (s *Store) Publish(version string) error {
	to := s.VersionDir(version)
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("cannot publish version %s: %w", version, &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist})
	}
	// Power cut before this rename: a leftover in .staging. After it: a snapshot
	// that nothing names, or none.
	if err := os.Rename(s.path(stagingDir, dirName(version)), to); err != nil {
		if errors.Is(err, unix.EXDEV) {
			return (&Error{Err: fmt.Errorf("cannot publish version %s: %w", version, err)}).
				WithAdvice("%s must be on one file system with its folder %s", s.dir, stagingDir)
		}
		return fmt.Errorf("cannot publish version %s: %w", version, err)
	}
	// Both folders changed; and Commit must not name a version whose own name
	// may be lost.
	return errors.Join(syncDir(s.dir), syncDir(s.path(stagingDir)))
}

// Remove deletes the snapshot of version: out of sight first, durably, so that
// a half that a power cut leaves is never taken for a version. One that the
// record links to is refused. With an error, part of it is left: in .trash, or, where
// it cannot be moved, as a damaged version under its name; or nothing was done. With
// ErrUndurable, a power cut may bring it back. The lock must be held.
func (s *Store) Remove(record *Record, version string) error {
	if record != nil {
		for _, l := range record.Links() {
			if l.Ref != nil && l.Ref.Version == version {
				return fmt.Errorf("cannot remove version %s: it is %s", version, l.Name)
			}
		}
	}
	to, err := s.moveToTrash(dirName(version))
	if err != nil || to == "" {
		return err
	}
	return RemoveAll(to)
}

// Surplus lists the versions that may go when keep snapshots are kept beside
// current, previous, factory and what the next boot runs, the ones to go first first: versions that
// failed here, then those that once proved themselves, oldest first, then those
// that were never run.
func (s *Store) Surplus(record *Record, keep int) ([]string, error) {
	names, err := s.VersionNames()
	if err != nil {
		return nil, err
	}
	rank := func(version string) int {
		for _, b := range record.Blocked {
			if b.Version == version {
				return -1
			}
		}
		for i, c := range record.Confirmed {
			if c.Version == version {
				return i
			}
		}
		return len(record.Confirmed)
	}
	names = slices.DeleteFunc(names, func(v string) bool {
		return record.Next != nil && record.Next.Version == v ||
			slices.ContainsFunc(record.Links(), func(l Link) bool { return l.Ref != nil && l.Ref.Version == v })
	})
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return names[:max(0, len(names)-max(0, keep))], nil
}

// Retire makes every file and folder of a snapshot read-only (0444, 0555; the
// bits that let others read or run stay as they were), for factory. It may be
// interrupted and run again; the modes are durable when it returns.
func (s *Store) Retire(version string) error {
	root, err := os.OpenRoot(s.VersionDir(version))
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil
		}
		// Through the open file: chmod by name follows links.
		f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o222 == 0 {
			return nil
		}
		if err := f.Chmod(info.Mode().Perm() &^ 0o222); err != nil {
			return err
		}
		return f.Sync()
	})
}

// Space is what the file system of the store has left for the versions, without what it reserves.
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
// and inodes of files that no other version shares. Blocks that are shared by a
// clone are counted all the same. What cannot be deleted is not counted: what is
// immutable, and what is mounted there.
func (s *Store) Occupied(versions ...string) (Space, error) {
	dirs := make([]string, len(versions))
	for i, version := range versions {
		dirs[i] = s.VersionDir(version)
	}
	return occupied(dirs)
}

// Leavings is what the file system gets back by Sweep.
func (s *Store) Leavings() (Space, error) {
	return occupied([]string{s.path(trashDir), s.path(stagingDir)})
}

func occupied(dirs []string) (Space, error) {
	var sum Space
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
				}
				n--
				left[st.Ino] = n
				if n > 0 {
					return nil
				}
			}
			sum.Bytes += st.Blocks * 512
			sum.Inodes++
			return nil
		})
		if err != nil {
			return Space{}, err
		}
	}
	return sum, nil
}

// CompareVersions orders version names as people do: runs of digits by their
// value, everything else by its characters; "1.10.0" is newer than "1.9.0", and
// "1.0" is newer than "1.0-rc1". It only sorts: what may be installed is decided
// by the release counter.
func CompareVersions(a, b string) int {
	digits := func(s string) int {
		n := 0
		for n < len(s) && '0' <= s[n] && s[n] <= '9' {
			n++
		}
		return n
	}
	x, y := a, b
	for x != "" && y != "" {
		i, j := digits(x), digits(y)
		if i > 0 && j > 0 {
			p, q := strings.TrimLeft(x[:i], "0"), strings.TrimLeft(y[:j], "0")
			if c := cmp.Or(cmp.Compare(len(p), len(q)), strings.Compare(p, q)); c != 0 {
				return c
			}
			x, y = x[i:], y[j:]
			continue
		}
		if x[0] != y[0] {
			return preOrPlain(x, y, cmp.Compare(x[0], y[0]))
		}
		x, y = x[1:], y[1:]
	}
	if x == "" && y == "" {
		return strings.Compare(a, b)
	}
	return preOrPlain(x, y, cmp.Compare(len(x), len(y)))
}

// preOrPlain puts what goes on with "-", a pre-release, before everything else.
func preOrPlain(x, y string, otherwise int) int {
	preX, preY := strings.HasPrefix(x, "-"), strings.HasPrefix(y, "-")
	switch {
	case preX && !preY:
		return -1
	case preY && !preX:
		return 1
	}
	return otherwise
}

// ManifestFile is where a snapshot's manifest is, below the snapshot.
var ManifestFile = filepath.Join(".ota", "manifest.json")
