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

// Repair rebuilds the damaged version ref, as its manifest says, from what this device
// has, in a directory beside the damaged one: what is intact of that is linked, the rest is
// taken from any version that has a file with the same hash. Then it makes record, with
// the new directory, what the device runs: one Commit. The damaged directory is not changed; it
// stays while services may have it open, see Sweep. A factory version is made read-only.
//
// wrong is what Wrong found: no other file of the damaged directory is read. record is the
// one that counts, nil: none can be read. It returns what the damaged directory has that the
// manifest does not list, and that the new one does not have.
//
// The error is an *Error with ExitDamaged when something is missing that no version has,
// and when the manifest itself is damaged: then nothing says what is right. Nothing is
// changed then. Other errors say nothing about the version. The lock must be held.
func (s *Store) Repair(ctx context.Context, record *Record, ref *Ref, wrong []string) (extra []string, err error) {
	sealed := s.Sealed(ref.Version) || record != nil && ref.Same(record.Factory) && !s.Unsigned(ref.Version)
	if extra, err = s.rebuildVersion(ctx, ref, wrong, sealed); err != nil {
		return nil, err
	}
	if ref.Same(record.Linked(ref.Version).Ref) {
		if err := s.Commit(record.Clone()); err != nil {
			return extra, err
		}
	}
	if len(extra) > 0 {
		return extra, nil // whose files these are can still find them, until the next Sweep
	}
	_ = s.dropReplaced() // the version is repaired; the next Sweep tries again, and says why it cannot
	return nil, nil
}

// Seal makes the version ref read-only, for factory, and removes its extra files. Every
// byte of ref was compared with the manifest before. A file that has another name, in
// another version, gets a copy of its own.
//
// inUse: services run from ref, and may need its extra files. If it has some, Seal leaves
// it alone and makes a directory beside it, see Repair, which the next Commit links;
// made reports that. The lock must be held.
func (s *Store) Seal(ctx context.Context, ref *Ref, inUse bool) (extra []string, made bool, err error) {
	if inUse && len(s.Extra(ref.Version)) > 0 {
		extra, err = s.rebuildVersion(ctx, ref, nil, true)
		return extra, err == nil, err
	}
	if extra, err = s.Prune(ref.Version); err != nil {
		return extra, false, err
	}
	snapshot, err := s.Snapshot(ref.Version)
	if err == nil {
		err = unshare(ctx, snapshot)
	}
	if err == nil {
		err = sealTree(snapshot.Dir)
	}
	return extra, false, err
}

// unshare replaces each file of snapshot that has another name by a read-only copy, by
// one rename: a process that has the file open keeps the old one. A power cut leaves each
// file as it was or replaced, and at most one extra file, in .ota. The names are not
// durable when it returns.
func unshare(ctx context.Context, snapshot *Snapshot) error {
	root, err := openDir(snapshot.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := taker{hasher: hasher{ctx: ctx}, fill: &Fill{Sealed: true}, from: Dirs{root: root}, to: Dirs{root: root}}
	defer t.close()
	for i := range snapshot.Manifest.Entries {
		if e := &snapshot.Manifest.Entries[i]; e.Type == TypeFile {
			if err := t.unshare(e); err != nil {
				return fmt.Errorf("cannot copy %q: %w", e.Path, err)
			}
		}
	}
	return nil
}

func (t *taker) unshare(e *Entry) error {
	const own = ManifestDir + "/copy" // where no entry can be
	src, err := t.from.openFile(e.Path, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil || st.Nlink < 2 {
		return err
	}
	to := *e
	to.Path = own
	err = t.make(&to, func(file *os.File) error {
		err := t.copy(file, src, e)
		if err == nil {
			err = setMode(file, t.fill.mode(e.Mode))
		}
		if err == nil {
			err = file.Sync()
		}
		return err
	})
	if err != nil {
		return err
	}
	from, err := t.to.fd(own)
	if err != nil {
		return err
	}
	dir, err := t.from.fd(e.Path)
	if err != nil {
		return err
	}
	return unix.Renameat(from, path.Base(own), dir, path.Base(e.Path))
}

// sealTree takes the right to write from every file and directory below dir; the bits that let
// others read or run stay. It may be interrupted and run again; the modes, and the names
// in each directory, are durable when it returns.
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
		f, err := dirs.openFile(rel, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		writable := err == nil && info.Mode().Perm()&0o222 != 0
		if writable {
			err = f.Chmod(info.Mode().Perm() &^ 0o222)
		}
		if err == nil && (writable || d.IsDir()) {
			err = f.Sync()
		}
		return err
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
	if err := s.There(ref.Version); Inconclusive(err) {
		return nil, err
	} else if err != nil {
		return nil, nil // all of it is, and another directory has the manifest
	}
	c := treeCheck{hasher: hasher{ctx: ctx}, depth: Content, wrong: &paths}
	if err := c.run(s.VersionDir(ref.Version), m); err != nil {
		return nil, fmt.Errorf("cannot check version %s: %w", ref.Version, err)
	}
	return paths, nil
}

// manifestOf is the manifest of ref, with its text and its signature, from the first of
// its directories that has it.
func (s *Store) manifestOf(ref *Ref) (raw, signature []byte, m *Manifest, err error) {
	first := error(&fs.PathError{Op: "open", Path: s.VersionDir(ref.Version), Err: fs.ErrNotExist})
	directories, err := s.dirsOf(ref.Version)
	if err != nil {
		return nil, nil, nil, err
	}
	for i, d := range directories {
		raw, m, err := ReadManifest(s.path(d.name))
		if err == nil && m.Version != ref.Version {
			err = fmt.Errorf("it is that of version %s", m.Version)
		}
		if is := Digest(raw); err == nil && !ref.Same(&Ref{Version: ref.Version, Digest: is}) {
			err = fmt.Errorf("it is %s, want %s", is, ref.Digest)
		}
		if Inconclusive(err) {
			return nil, nil, nil, err
		}
		if err == nil {
			// A signature that is lost makes the version no worse.
			signature, _ = ReadSnapshotFile(s.path(d.name), SignaturePath, MaxSignature)
			return raw, signature, m, nil
		}
		if i == 0 {
			first = err
		}
	}
	return nil, nil, nil, Errorf(ExitDamaged, CodeInvalidManifest, "its manifest is lost: %w", first)
}

// rebuildVersion builds ref again in a directory beside those that it has. When it returns nil, the
// directory is intact and durable, and nothing leads to it yet: the next Commit does.
func (s *Store) rebuildVersion(ctx context.Context, ref *Ref, wrong []string, sealed bool) (extra []string, err error) {
	raw, signature, m, err := s.manifestOf(ref)
	if err != nil {
		return nil, err
	}
	old, err := s.dirsOf(ref.Version)
	if err != nil {
		return nil, err
	}
	directory := s.nextDirName(ref.Version, old)
	staged, err := s.stage(directory)
	if err != nil {
		return nil, err
	}
	defer func() { _ = RemoveAll(s.path(staged)) }() // nothing is there any more when it was published
	f, err := NewFill(s.path(staged), m, raw, signature, sealed)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err = s.takeAll(ctx, f, old, wrong); err == nil {
		err = f.Finish()
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.publish(staged, directory)
	}
	if err != nil {
		return nil, err
	}
	extra, _ = extraIn(s.path(old[0].name), m, false) // what cannot be read is no more than damaged
	return extra, nil
}

// takeAll gets all files of f: first from old, the directories of the same version, of
// which wrong is damaged in the one that counts, then from other versions.
func (s *Store) takeAll(ctx context.Context, f *Fill, old []versionDir, wrong []string) error {
	damaged := make(map[string]bool)
	for _, name := range wrong {
		damaged[name] = true
	}
	for _, is := range old {
		d := Donor{Dir: s.path(is.name), Manifest: f.M, Share: ShareFile, Old: true}
		if d.Dir == s.VersionDir(is.version) { // of which wrong tells
			d.Hashed = func(e *Entry) bool { return !damaged[e.Path] }
		}
		if err := f.Take(ctx, d); err != nil {
			return err
		}
	}
	versions, err := s.VersionNames()
	if err != nil {
		return err
	}
	// The newest first: one manifest is in memory at a time, and no more are read than needed.
	for _, version := range slices.Backward(versions) {
		if version == f.M.Version || len(f.Missing()) == 0 {
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
			return err
		}
	}
	lost := f.Missing()
	switch {
	case len(lost) == 0:
		return nil
	case f.Unread != nil:
		return fmt.Errorf("not every other version can be read: %w", f.Unread)
	}
	return Errorf(ExitDamaged, CodeHashMismatch, "no other version has what is damaged: %d files (%s)", len(lost), strings.Join(lost[:min(3, len(lost))], ", "))
}

// dropReplaced moves the directories that a repair replaced into .trash. Those of the current
// version stay: services may have been started from there, and open more files.
func (s *Store) dropReplaced() error {
	all, err := s.directories()
	if err != nil {
		return err
	}
	active, err := s.activeGeneration()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // the switch is lost: the current version is not known
	}
	used := make(map[string]bool)
	running := ""
	// What rolls the active generation back has the second number, if there is something.
	for _, n := range []uint64{active, active + ahead} {
		for _, name := range linkNames {
			directory, version, err := s.linkTarget(n, name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil || directory == "" {
				return err // it may lead to any of them
			}
			if used[directory] = true; name == "current" && n == active {
				running = version
			}
		}
	}
	var errs []error
	for _, d := range all {
		if !used[d.name] && d.version != running && newestOf(d.version, all) != d.name {
			errs = append(errs, s.trash(d.name))
		}
	}
	return notRemoved(errs)
}
