package bootcheck

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// NoManifest is the Digest, in the record of an older program, of a version that it
// adopted as it was. It counts as intact as long as anything is in its directory; `adopt`
// gives it a manifest, see Relist.
const NoManifest = "none"

// checkUnlisted is Verify of such a version.
func (s *Store) checkUnlisted(version string) error {
	names, err := readDir(s.VersionDir(version))
	if err == nil && len(names) == 0 {
		err = errors.New("its directory is empty")
	}
	if err != nil {
		return damage(CodeHashMismatch, fmt.Errorf("version %s, which has no manifest, is lost: %w", version, err))
	}
	return nil
}

// Unlisted is the reference to version in r if an older program adopted it as it was; nil: it
// did not.
func (r *Record) Unlisted(version string) *Ref {
	for _, ref := range r.refs() {
		if ref != nil && ref.Version == version && ref.Digest == NoManifest {
			return ref
		}
	}
	return nil
}

// refs are all that r has of versions, some of them nil.
func (r *Record) refs() []*Ref {
	refs := []*Ref{r.Current, r.Previous, r.Factory}
	for i := range r.Confirmed {
		refs = append(refs, &r.Confirmed[i])
	}
	for i := range r.Blocked {
		refs = append(refs, &r.Blocked[i].Ref)
	}
	return refs
}

// Ref is version with the content that is on disk. The error is that of Snapshot.
func (s *Store) Ref(version string) (*Ref, error) {
	snapshot, err := s.Snapshot(version)
	if err != nil {
		return nil, err
	}
	return &snapshot.Ref, nil
}

// unlisted reports whether version is a directory that has no manifest, or one that an
// adoption wrote: it is not signed.
func (s *Store) unlisted(version string) bool {
	dir := s.VersionDir(version)
	if _, err := lstat(filepath.Join(dir, ManifestDir)); errors.Is(err, fs.ErrNotExist) {
		return true
	}
	_, err := s.Snapshot(version)
	return err == nil && s.Unsigned(version)
}

// Unsigned reports whether version is not signed: an adoption wrote its manifest. Its
// program may write to its own directory, so nothing makes it read-only but `factory create`.
func (s *Store) Unsigned(version string) bool {
	_, err := lstat(filepath.Join(s.VersionDir(version), SignaturePath))
	return errors.Is(err, fs.ErrNotExist)
}

// list writes the manifest of version, whose directory another program made: what is in it
// now is what belongs there. What a manifest cannot list (a socket, a file that is setuid)
// stays and is not listed, which is no damage; notes
// say what that is. It is durable when list returns. Nothing else is written.
func (s *Store) list(ctx context.Context, version, model string) (ref *Ref, notes []string, err error) {
	dir := s.VersionDir(version)
	m := &Manifest{Format: ManifestFormat, Models: []string{cmp.Or(model, "any")}, Version: version}
	skip := func(name string, d fs.DirEntry, why error) error {
		notes = append(notes, fmt.Sprintf("version %s: %q is not in its manifest: %v", version, name, why))
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	err = filepath.WalkDir(dir, func(full string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || full == dir {
			return err
		}
		name, _ := filepath.Rel(dir, full)
		if name == ManifestDir {
			return fs.SkipDir
		}
		if len(m.Entries) == MaxEntries {
			return Errorf(ExitDamaged, "", "it has more than %d files", MaxEntries)
		}
		var e Entry
		err = cmp.Or(CheckPath(name), Retry(func() error {
			e = Entry{Path: name}
			return e.scan(ctx, full)
		}))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed just now: the program that made it may still run
		}
		if _, unread := errors.AsType[unix.Errno](err); unread || ctx.Err() != nil {
			// Not left out of the list: that would make it a file that is not of the version.
			return damage(CodeHashMismatch, err)
		}
		if err != nil {
			return skip(name, d, err)
		}
		m.Entries, m.Size = append(m.Entries, e), m.Size+e.Size
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	err = m.CheckLinks(func(e *Entry, why error) error { // leads out, or in a circle: no program follows it
		e.External = true
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	raw, err := json.Marshal(m)
	if err == nil {
		_, err = ParseManifest(raw)
	}
	if err == nil {
		err = s.giveManifest(dir, raw)
	}
	if err != nil {
		return nil, nil, err
	}
	return &Ref{Version: version, Digest: Digest(raw)}, notes, nil
}

// scan fills in e from the file name.
func (e *Entry) scan(ctx context.Context, name string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
		return fmt.Errorf("mode %v", info.Mode())
	}
	e.Mode = Mode(info.Mode().Perm())
	switch info.Mode().Type() {
	case fs.ModeDir:
		e.Type = TypeDir
	case fs.ModeSymlink:
		e.Type, e.Mode = TypeLink, 0
		if e.Target, err = os.Readlink(name); err != nil {
			return err
		}
	case 0:
		e.Type = TypeFile
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		if e.Size, err = io.Copy(sum, UntilDone(ctx, f)); err != nil {
			return err
		}
		e.SHA256 = hex.EncodeToString(sum.Sum(nil))
	default:
		return fmt.Errorf("it is a %v", info.Mode().Type())
	}
	return e.check()
}

// giveManifest puts the manifest raw into dir, in the place of an unsigned one.
func (s *Store) giveManifest(dir string, raw []byte) error {
	to := filepath.Join(dir, ManifestDir)
	if _, err := os.Lstat(to); err == nil {
		return ReplaceFile(filepath.Join(dir, ManifestPath), raw, 0o644, true)
	}
	staged, err := s.stage("adopted")
	staged = s.path(staged)
	if err == nil {
		err = writeDurable(filepath.Join(staged, filepath.Base(ManifestPath)), raw)
	}
	if err == nil {
		err = syncDir(staged)
	}
	if err == nil {
		err = os.Rename(staged, to)
	}
	if err != nil {
		_ = RemoveAll(staged)
		return err
	}
	return errors.Join(syncDir(dir), syncDir(s.path(stagingDir)))
}

// Relist is record with manifests for the versions that an older program adopted as they
// were; changed: there are some. It is not committed.
func (s *Store) Relist(ctx context.Context, record *Record, model string) (next *Record, changed bool, err error) {
	next = record.Clone()
	listed := make(map[string]*Ref)
	for _, ref := range next.refs() {
		if ref == nil || ref.Digest != NoManifest || s.There(ref.Version) != nil {
			continue
		}
		if listed[ref.Version] == nil {
			if listed[ref.Version], _, err = s.list(ctx, ref.Version, model); err != nil {
				return nil, false, err
			}
		}
		*ref, changed = *listed[ref.Version], true
	}
	return next, changed, nil
}

// Foreign reports whether another program keeps the directory: its link current leads
// to a directory, and not by way of the switch. What Active has to say of such a
// directory is ErrEmpty.
func (s *Store) Foreign() bool {
	_, foreign := s.foreign()
	return foreign
}

// foreign is Foreign, and what the link says.
func (s *Store) foreign() (target string, foreign bool) {
	target, err := readlink(s.path("current"))
	if err != nil || target == fixedTarget("current") {
		return "", false
	}
	info, err := stat(s.path("current"))
	return target, err == nil && info.IsDir()
}

// Adoption is the record that Adopt makes of a directory whose links another program
// kept: current, previous and factory lead to directories v<version> beside them. What
// they name ran before, so all of it is confirmed. notes say what is not taken
// over, and why. Each version without a manifest gets one, also those that no link names;
// dryRun: nothing is changed.
func (s *Store) Adoption(ctx context.Context, model string, dryRun bool) (r *Record, notes []string, err error) {
	r = &Record{Schema: Schema, Phase: PhaseConfirmed}
	// First where the links lead: nothing is written before that is known to be right.
	for _, name := range linkNames {
		if _, err := s.foreignLink(name); err != nil && (name == "current" || !errors.Is(err, fs.ErrNotExist)) {
			return nil, nil, err
		}
	}
	names, err := s.VersionNames()
	if err != nil {
		return nil, nil, err
	}
	for _, version := range names {
		if dryRun || !s.unlisted(version) {
			continue
		}
		_, said, err := s.list(ctx, version, model)
		if notes = append(notes, said...); Exit(err) == ExitDamaged {
			notes = append(notes, fmt.Sprintf("version %s gets no manifest: %v", version, err))
		} else if err != nil {
			return nil, nil, fmt.Errorf("cannot write the manifest of version %s: %w", version, err)
		}
	}
	for _, name := range linkNames {
		ref, err := s.foreignLink(name)
		if err == nil {
			ref, err = s.adoptable(ctx, name, ref.Version, dryRun)
		}
		switch {
		case err == nil:
			r.setLink(name, ref)
		case errors.Is(err, fs.ErrNotExist) && name != "current":
			if _, err := os.Lstat(s.path(name)); err == nil {
				notes = append(notes, fmt.Sprintf("the link %s leads nowhere and is not taken over", name))
			}
		default:
			return nil, nil, err
		}
	}
	if r.Previous != nil && r.Previous.Version == r.Current.Version {
		r.Previous = nil
		notes = append(notes, "the link previous names the current version: it is no fallback")
	}
	for _, ref := range []*Ref{r.Factory, r.Previous, r.Current} {
		if ref != nil {
			r.Confirm(*ref)
		}
	}
	return r, notes, nil
}

// foreignLink is the version that a link of another program leads to.
func (s *Store) foreignLink(name string) (*Ref, error) {
	cannot := func(format string, args ...any) *Error {
		return Errorf(ExitRefused, "", "cannot adopt %s: %w", s.path(name), fmt.Errorf(format, args...))
	}
	info, err := os.Lstat(s.path(name))
	if err != nil {
		return nil, cannot("%w", err)
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return nil, cannot("it is not a link").
			WithAdvice("give the directory the name of its version and make the link: mv %[1]s %[2]s && ln -s v1.0.0 %[1]s", s.path(name), s.path("v1.0.0"))
	}
	dir, err := filepath.EvalSymlinks(s.path(name))
	if err != nil {
		return nil, cannot("%w", err)
	}
	root, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return nil, err
	}
	parent, base := filepath.Split(dir)
	if version, _, ok := parseDirName(base); ok && filepath.Clean(parent) == root && base == filepath.Base(s.VersionDir(version)) {
		return &Ref{Version: version}, nil
	}
	return nil, cannot("it leads to %s, want a directory v<version> in %s", dir, s.dir).
		WithAdvice("rename the directory, which moves no data, and make the link again: ln -sfn v1.0.0 %s", s.path(name))
}

// adoptable is version, which the link name leads to, with the content that is there.
func (s *Store) adoptable(ctx context.Context, name, version string, dryRun bool) (*Ref, error) {
	if dryRun && s.unlisted(version) {
		return &Ref{Version: version}, nil
	}
	ref, err := s.Ref(version)
	if err == nil {
		err = s.Verify(ctx, ref, Content)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, Errorf(ExitRefused, "", "cannot adopt %s: %v", s.path(name), err).
			WithAdvice("a directory with a %s must be what its manifest says; install that version again, or remove its %[1]s", ManifestDir)
	}
	if s.unlisted(version) {
		return ref, nil // it is not signed
	}
	return ref, s.CheckRevoked(ref, nil)
}

// Adopt makes the store of a directory whose links another program kept: next, which
// is of Adoption, is what they say. At every moment, and after a power cut at any
// moment, each link leads to the version that it led to before; running it again
// finishes what was begun. The errors are those of Commit: one with ExitUnknown says
// that next is there, and perhaps not all of the links. The lock must be held.
func (s *Store) Adopt(next *Record) error {
	if err := s.committable(next); err != nil {
		return err
	}
	// What can fail for want of room comes before the switch, as far as it can.
	if _, err := s.makeDirs(stagingDir, trashDir); err != nil {
		return err
	}
	// First what the links are going to lead to, then the links.
	if err := s.commit(next); err != nil {
		return err
	}
	if err := s.RepairLinks(); err != nil {
		return Errorf(ExitUnknown, "", "generation %d is made, but not all links to it: %w", next.Generation, err).
			WithAdvice("run `ota-guardian adopt` again; until then each link of %s leads where it did", s.dir)
	}
	return s.SyncSwitch()
}
