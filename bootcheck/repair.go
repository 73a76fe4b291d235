package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Repair makes the damaged version ref anew, as its manifest says, from what this device
// has, in a folder beside the damaged one: what is whole of that is linked, the rest is
// taken from any version that has a file with the same hash. Then it makes record, with
// the new folder, what the device runs: one Commit. The damaged folder is not changed; it
// stays while services may have it open, see Sweep. A factory version is made read-only.
//
// wrong is what Wrong found: no other file of the damaged folder is read. record is the
// one that counts, nil: none can be read. It returns what the damaged folder has that the
// manifest does not list, and that the new one does not have.
//
// The error is an *Error with ExitDamaged when something is missing that no version has,
// and when the manifest itself is damaged: then nothing says what is right. Nothing is
// changed then. Other errors say nothing about the version. The lock must be held.
func (s *Store) Repair(ctx context.Context, record *Record, ref *Ref, wrong []string) (extra []string, err error) {
	sealed := s.Sealed(ref.Version) || record != nil && ref.Same(record.Factory) && !s.Unsigned(ref.Version)
	if extra, err = s.makeAnew(ctx, ref, wrong, sealed); err != nil {
		return nil, err
	}
	if record != nil && slices.ContainsFunc(record.Links(), func(l Link) bool { return ref.Same(l.Ref) }) {
		if err := s.Commit(record.Clone()); err != nil {
			return extra, err
		}
	}
	if len(extra) > 0 {
		return extra, nil // whose files these are can still find them, until the next Sweep
	}
	return nil, s.dropReplaced()
}

// Seal makes the version ref read-only, for factory: its own modes where it has nothing
// in common with another version and nothing that its manifest does not list; else a
// folder beside it, see Repair, which the next Commit links. Every byte of it was
// compared with the manifest before. made: there is such a folder. The lock must be held.
func (s *Store) Seal(ctx context.Context, ref *Ref) (made bool, err error) {
	snapshot, err := s.Snapshot(ref.Version)
	if err != nil {
		return false, err
	}
	shares := len(extraIn(snapshot.Dir, snapshot.Manifest)) > 0
	err = filepath.WalkDir(snapshot.Dir, func(name string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil && d.Type().IsRegular() {
			if err = unix.Lstat(name, &st); err == nil && st.Nlink > 1 {
				shares = true
			}
		}
		return err
	})
	switch {
	case err != nil:
		return false, err
	case shares:
		_, err := s.makeAnew(ctx, ref, nil, true)
		return err == nil, err
	}
	return false, sealTree(snapshot.Dir)
}

// sealTree takes the right to write from every file and directory below dir; the bits that let
// others read or run stay. It may be interrupted and run again; the modes are durable
// when it returns.
func sealTree(dir string) error {
	root, err := openDir(dir)
	if err != nil {
		return err
	}
	dirs := Dirs{root: root}
	defer root.Close()
	defer dirs.Close()
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		// Through the open file: chmod by name follows links.
		rel, _ := filepath.Rel(dir, name)
		f, err := dirs.open(rel, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || info.Mode().Perm()&0o222 == 0 {
			return err
		}
		if err := f.Chmod(info.Mode().Perm() &^ 0o222); err != nil {
			return err
		}
		return f.Sync()
	})
}

// Wrong lists the entries of ref that are not what its manifest says, every byte of them.
// Nothing is changed, and no lock is needed for a version that is linked. The error has
// ExitDamaged when the manifest is damaged.
func (s *Store) Wrong(ctx context.Context, ref *Ref) (paths []string, err error) {
	_, _, m, err := s.manifestOf(ref)
	if err != nil {
		return nil, err
	}
	if isFolder(s.VersionDir(ref.Version)) != nil {
		return nil, nil // all of it is, and another folder has the manifest
	}
	c := treeCheck{ctx: ctx, depth: Content, wrong: &paths}
	if err := c.run(s.VersionDir(ref.Version), m); err != nil {
		return nil, fmt.Errorf("cannot check version %s: %w", ref.Version, err)
	}
	return paths, nil
}

// manifestOf is the manifest of ref, with its text and its signature, from the first of
// its folders that has it.
func (s *Store) manifestOf(ref *Ref) (raw, signature []byte, m *Manifest, err error) {
	first := error(&fs.PathError{Op: "open", Path: s.VersionDir(ref.Version), Err: fs.ErrNotExist})
	for i, folder := range s.folders(ref.Version) {
		raw, m, err := ReadManifest(s.path(folder))
		if err == nil && m.Version != ref.Version {
			err = fmt.Errorf("it is that of version %s", m.Version)
		}
		if is := Digest(raw); err == nil && !ref.Same(&Ref{Version: ref.Version, Digest: is}) {
			err = fmt.Errorf("it is %s, want %s", is, ref.Digest)
		}
		if Inconclusive(err) {
			return nil, nil, nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
		}
		if err == nil {
			// A signature that is lost makes the version no worse.
			signature, _ = ReadSnapshotFile(s.path(folder), SignaturePath, MaxSignature)
			return raw, signature, m, nil
		}
		if i == 0 {
			first = err
		}
	}
	return nil, nil, nil, Errorf(ExitDamaged, CodeInvalidManifest, "version %s cannot be repaired: its manifest is lost: %w", ref.Version, first)
}

// makeAnew makes ref anew in a folder beside those that it has. When it returns nil, the
// folder is whole and durable, and nothing leads to it yet: the next Commit does.
func (s *Store) makeAnew(ctx context.Context, ref *Ref, wrong []string, sealed bool) (extra []string, err error) {
	raw, signature, m, err := s.manifestOf(ref)
	if err != nil {
		return nil, err
	}
	old := s.folders(ref.Version)
	folder := nextFolder(ref.Version, old)
	staged := filepath.Join(stagingDir, folder)
	if _, err := s.makeFolders(stagingDir); err != nil {
		return nil, err
	}
	if err := s.clear(staged); err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.path(staged), 0o755); err != nil {
		return nil, err
	}
	defer func() { _ = RemoveAll(s.path(staged)) }() // nothing is there any more when it was published
	f, err := NewFill(s.path(staged), m, raw, signature, sealed)
	if err != nil {
		return nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
	}
	defer f.Close()
	damaged := make(map[string]bool)
	for _, name := range wrong {
		damaged[name] = true
	}
	for _, name := range old {
		d := Donor{Dir: s.path(name), Manifest: m, Share: ShareFile, Old: true}
		if name == s.folder(ref.Version) { // of which wrong tells
			d.Hashed = func(e *Entry) bool { return !damaged[e.Path] }
		}
		if err := f.Take(ctx, d); err != nil {
			return nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
		}
	}
	versions, err := s.VersionNames()
	if err != nil {
		return nil, err
	}
	// The newest first: one manifest is in memory at a time, and no more are read than needed.
	for _, version := range slices.Backward(versions) {
		if version == ref.Version || len(f.Missing()) == 0 {
			continue
		}
		donor, err := s.Snapshot(version)
		if err == nil {
			err = f.Take(ctx, Donor{Dir: donor.Dir, Manifest: donor.Manifest, Share: ShareBlocks})
		} else if Inconclusive(err) {
			f.Unread, err = err, nil
		} else {
			err = nil // not a version to take anything from
		}
		if err != nil {
			return nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
		}
	}
	if lost := f.Missing(); len(lost) > 0 {
		if f.Unread != nil {
			return nil, fmt.Errorf("cannot repair version %s: not every other version can be read: %w", ref.Version, f.Unread)
		}
		return nil, Errorf(ExitDamaged, CodeHashMismatch, "no other version has what is damaged of version %s: %d files (%s)",
			ref.Version, len(lost), strings.Join(lost[:min(3, len(lost))], ", "))
	}
	err = f.Finish()
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.publish(staged, folder)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
	}
	return extraIn(s.path(old[0]), m), nil
}

// Extra lists what the folder of version has that its manifest does not list.
func (s *Store) Extra(version string) []string {
	snapshot, err := s.Snapshot(version)
	if err != nil {
		return nil
	}
	return extraIn(snapshot.Dir, snapshot.Manifest)
}

// extraIn lists what is below dir and not in m, a directory without what is in it.
func extraIn(dir string, m *Manifest) (extra []string) {
	listed := map[string]EntryType{".": TypeDir, ManifestDir: TypeDir, ManifestPath: TypeFile, SignaturePath: TypeFile}
	for _, e := range m.Entries {
		listed[e.Path] = e.Type
	}
	_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be read is no more than damaged
		}
		rel, err := filepath.Rel(dir, name)
		if _, known := listed[filepath.ToSlash(rel)]; err == nil && !known {
			extra = append(extra, path.Clean(rel))
			if d.IsDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	return extra
}

// dropReplaced moves the folders that a repair replaced into .trash. Those of the current
// version stay: services may have been started from there, and open more files.
func (s *Store) dropReplaced() error {
	entries, err := readDir(s.dir)
	if err != nil {
		return err
	}
	used := make(map[string]bool)
	running := ""
	if active, err := s.activeGeneration(); err == nil {
		for _, n := range []uint64{active, s.prepared(active)} {
			for _, name := range linkNames {
				folder, version, err := s.linkTarget(n, name)
				if Inconclusive(err) {
					return err
				}
				if used[folder] = true; name == "current" && n == active {
					running = version
				}
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil // the switch is lost: nobody knows what runs
	}
	var errs []error
	for _, e := range entries {
		version, _, ok := parseFolder(e.Name())
		if ok && e.IsDir() && !used[e.Name()] && version != running && s.newest(version) != e.Name() {
			errs = append(errs, s.trash(e.Name()))
		}
	}
	return leftOver(errs)
}
