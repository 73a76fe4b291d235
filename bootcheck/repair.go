package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Repair makes the damaged snapshot ref what its manifest says, from what this
// device has: directories, links and modes from the manifest alone, files from
// any snapshot (also this one) that has a file with the same hash, wherever it is
// there and whatever its name. What the manifest does not list stays. A snapshot
// whose root is read-only, as factory is, stays read-only throughout.
//
// Every file is made anew beside the store and renamed over the damaged one, so a
// power cut at any moment leaves each file as it was or right, and running Repair
// again goes on. It returns the paths that were put right; all of it is durable,
// and with a nil error every byte of ref was checked.
//
// The error is an *Error with ExitDamaged when something is missing that no
// snapshot has, and when the manifest itself is damaged: then nothing says what is
// right. What could be repaired is, all the same. The lock must be held.
func (s *Store) Repair(ctx context.Context, ref *Ref) (repaired []string, err error) {
	snapshot, err := s.Snapshot(ref.Version)
	if err != nil {
		return nil, err
	}
	if !snapshot.Ref.Same(ref) {
		return nil, Errorf(ExitDamaged, CodeHashMismatch, "version %s cannot be repaired: its manifest is %s, want %s", ref.Version, snapshot.Ref.Digest, ref.Digest)
	}
	info, err := os.Lstat(snapshot.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.path(stagingDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	r := &repair{ctx: ctx, store: s, snapshot: snapshot, sealed: info.Mode().Perm()&0o222 == 0}
	defer os.Remove(s.path(stagingDir, repairFile))
	defer s.emptyDir(trashDir)

	if err := r.frame(); err != nil {
		return r.done, err
	}
	if err := r.fill(); err != nil {
		return r.done, err
	}
	if len(r.wrong) > 0 {
		names := make([]string, 0, 3)
		for _, e := range r.wrong[:min(3, len(r.wrong))] {
			names = append(names, e.Path)
		}
		return r.done, Errorf(ExitDamaged, CodeHashMismatch, "no other version has what is damaged of version %s: %d files (%s)",
			ref.Version, len(r.wrong), strings.Join(names, ", "))
	}
	if err := CheckTree(ctx, snapshot.Dir, snapshot.Manifest, Content); err != nil {
		return r.done, fmt.Errorf("version %s is damaged: %w", ref.Version, err)
	}
	return r.done, nil
}

// repairFile is where a file is made, in .staging. A leftover is swept there.
const repairFile = "repair"

type repair struct {
	ctx      context.Context
	store    *Store
	snapshot *Snapshot
	sealed   bool
	wrong    []*Entry // files whose content is not there yet
	done     []string // paths that were put right
}

// frame puts right everything but the content of files, and finds those that are
// wrong. It goes from the root down, so that what is below a directory is looked
// at when that is one, and no link to elsewhere.
func (r *repair) frame() error {
	for i := range r.snapshot.Manifest.Entries {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		e := &r.snapshot.Manifest.Entries[i]
		fixed, err := r.entry(e)
		if err != nil {
			return fmt.Errorf("cannot repair %s of version %s: %w", e.Path, r.snapshot.Ref.Version, err)
		}
		if fixed {
			r.done = append(r.done, e.Path)
		}
	}
	return nil
}

// entry puts e right and reports whether that was needed; a file whose content is
// wrong is only remembered.
func (r *repair) entry(e *Entry) (fixed bool, err error) {
	name := r.path(e)
	var st unix.Stat_t
	err = unix.Lstat(name, &st)
	want := map[EntryType]uint32{TypeDir: unix.S_IFDIR, TypeFile: unix.S_IFREG, TypeLink: unix.S_IFLNK}[e.Type]
	if err == nil && st.Mode&unix.S_IFMT != want {
		// Out of the way, whatever it is; it may be a folder with files.
		to := r.store.path(trashDir, fmt.Sprintf("repair-%d-%s", len(r.done), path.Base(e.Path)))
		if err := os.Mkdir(r.store.path(trashDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
		if err := os.RemoveAll(to); err != nil {
			return false, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			// Moving a folder changes its "..", and emptying it what is in it.
			if err := os.Chmod(name, 0o700); err != nil {
				return false, err
			}
		}
		if err := r.change(e, func() error { return os.Rename(name, to) }); err != nil {
			return false, err
		}
		err = unix.ENOENT
	}
	missing := err == unix.ENOENT
	if err != nil && !missing {
		return false, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	switch e.Type {
	case TypeDir:
		if missing {
			err := r.change(e, func() error { return os.Mkdir(name, 0o700) })
			if err != nil {
				return false, err
			}
			return true, r.chmod(e)
		}
	case TypeLink:
		if !missing {
			if got, err := os.Readlink(name); err == nil && got == e.Target {
				return false, nil
			}
		}
		made := r.store.path(stagingDir, repairFile)
		if err := errors.Join(os.RemoveAll(made), os.Symlink(e.Target, made)); err != nil {
			return false, err
		}
		return true, r.change(e, func() error { return os.Rename(made, name) })
	case TypeFile:
		if missing || r.contentOf(name, e) != nil {
			r.wrong = append(r.wrong, e)
			return false, r.ctx.Err()
		}
	}
	if mode := st.Mode & modeBits; mode == uint32(e.Mode) || mode == uint32(e.Mode)&^0o222 {
		return false, nil
	}
	return true, r.chmod(e)
}

// contentOf checks the file at name against e.
func (r *repair) contentOf(name string, e *Entry) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return r.hash(f, e)
}

// hash checks what f has from its beginning against e.
func (r *repair) hash(f *os.File, e *Entry) error {
	if info, err := f.Stat(); err != nil || info.Size() != e.Size || !info.Mode().IsRegular() {
		return fmt.Errorf("size or type differ (%v)", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if err := r.copy(sum, f, e.Size); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != e.SHA256 {
		return fmt.Errorf("sha256 %s, want %s", got, e.SHA256)
	}
	return nil
}

// copy copies size bytes, in parts that ctx can end.
func (r *repair) copy(to io.Writer, from io.Reader, size int64) error {
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

// fill makes the files of r.wrong from those that other snapshots have, the
// newest versions first, and leaves in r.wrong what none has. One manifest is in
// memory at a time, however many versions there are.
func (r *repair) fill() error {
	versions, err := r.store.VersionNames()
	if err != nil {
		return err
	}
	// This one first: the same file may be there twice, and no other is so likely
	// to be in the cache.
	versions = append(versions, r.snapshot.Ref.Version)
	for _, version := range slices.Backward(versions) {
		if len(r.wrong) == 0 {
			return nil
		}
		donor := r.snapshot
		if version != r.snapshot.Ref.Version {
			if donor, err = r.store.Snapshot(version); err != nil {
				continue // not a version to take anything from
			}
		}
		if err := r.from(donor); err != nil {
			return err
		}
	}
	return nil
}

// from makes what it can of r.wrong from donor.
func (r *repair) from(donor *Snapshot) error {
	has := map[string]*Entry{} // by hash
	for _, e := range r.wrong {
		has[e.SHA256] = nil
	}
	for i := range donor.Manifest.Entries {
		e := &donor.Manifest.Entries[i]
		if _, wanted := has[e.SHA256]; wanted && e.Type == TypeFile && !(donor == r.snapshot && slices.Contains(r.wrong, e)) {
			has[e.SHA256] = e
		}
	}
	root, err := os.OpenFile(donor.Dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil // nothing to be had here
	}
	defer root.Close()
	var still []*Entry
	for i, e := range r.wrong {
		source := has[e.SHA256]
		if source == nil {
			still = append(still, e)
			continue
		}
		ok, err := r.take(root, source, e)
		if err != nil {
			r.wrong = append(still, r.wrong[i:]...)
			return fmt.Errorf("cannot repair %s of version %s: %w", e.Path, r.snapshot.Ref.Version, err)
		}
		if !ok {
			still = append(still, e)
			continue
		}
		r.done = append(r.done, e.Path)
	}
	r.wrong = still
	return nil
}

// take makes e from source, a file below root. false: the source is damaged, too.
func (r *repair) take(root *os.File, source, e *Entry) (bool, error) {
	from, err := openBeneath(int(root.Fd()), source.Path)
	if err != nil {
		return false, nil
	}
	defer from.Close()
	made := r.store.path(stagingDir, repairFile)
	if err := os.RemoveAll(made); err != nil {
		return false, err
	}
	to, err := os.OpenFile(made, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	defer to.Close()
	// The kernel copies, and shares the blocks where the file system can.
	if err := r.copy(to, from, e.Size); err != nil {
		if IsNoSpace(err) || r.ctx.Err() != nil || errors.Is(err, unix.EROFS) {
			return false, err
		}
		return false, nil // cannot be read to its end
	}
	// Only now, of what was really copied.
	if err := r.hash(to, e); err != nil {
		return false, r.ctx.Err()
	}
	if err := to.Chmod(r.mode(e)); err != nil {
		return false, err
	}
	if err := to.Sync(); err != nil {
		return false, err // never a second time: the file is thrown away
	}
	return true, r.change(e, func() error { return os.Rename(made, r.path(e)) })
}

func (r *repair) path(e *Entry) string { return filepath.Join(r.snapshot.Dir, e.Path) }

// mode is what e gets.
func (r *repair) mode(e *Entry) fs.FileMode {
	if r.sealed {
		return e.Mode.Perm() &^ 0o222
	}
	return e.Mode.Perm()
}

// chmod gives e its mode, through the open file: by name it follows links.
func (r *repair) chmod(e *Entry) error {
	name := r.path(e)
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		// Its own mode keeps its owner from opening it; it is no link, as was seen.
		if err := os.Chmod(name, 0o600|r.mode(e)); err != nil {
			return err
		}
		f, err = os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(r.mode(e)); err != nil {
		return err
	}
	return f.Sync()
}

// change lets f change the folder that holds e, and makes that durable. The
// guardian has no capability to write to a folder that is read-only, so that is
// made writable by its owner for the moment.
func (r *repair) change(e *Entry, f func() error) error {
	dir, err := os.OpenFile(filepath.Dir(r.path(e)), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o300 != 0o300 {
		if err := dir.Chmod(mode | 0o300); err != nil {
			return err
		}
		defer dir.Chmod(mode)
	}
	if err := f(); err != nil {
		return err
	}
	return dir.Sync()
}

// Strip removes from the snapshot of version what its manifest does not list. The
// lock must be held.
func (s *Store) Strip(version string) error {
	snapshot, err := s.Snapshot(version)
	if err != nil {
		return err
	}
	listed := map[string]bool{".": true}
	for _, e := range snapshot.Manifest.Entries {
		listed[e.Path] = true
	}
	var extra []string
	err = filepath.WalkDir(snapshot.Dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(snapshot.Dir, name)
		switch {
		case err != nil:
			return err
		case rel == ManifestDir:
			return fs.SkipDir
		case listed[rel]:
			return nil
		}
		extra = append(extra, rel)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return err
	}
	r := &repair{store: s, snapshot: snapshot}
	for i, name := range extra {
		if err := os.Mkdir(s.path(trashDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		to := s.path(trashDir, fmt.Sprintf("extra-%d", i))
		err := os.RemoveAll(to)
		if err == nil {
			err = r.change(&Entry{Path: name}, func() error { return os.Rename(filepath.Join(snapshot.Dir, name), to) })
		}
		if err != nil {
			return err
		}
	}
	return s.emptyDir(trashDir)
}
