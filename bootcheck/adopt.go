package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// NoManifest is the Digest of a version that was adopted from another program: a
// folder without a manifest. Nothing says what should be in it, so it is taken for
// whole as long as anything is. It is never repaired, and a bundle of the same
// version is another version.
const NoManifest = "none"

// Plain reports whether r is a version without a manifest: see NoManifest.
func (r *Ref) Plain() bool { return r != nil && r.Digest == NoManifest }

// plain reports whether version is a folder that none of our programs made: what
// they publish has a folder .ota.
func (s *Store) plain(version string) bool {
	_, err := lstat(filepath.Join(s.VersionDir(version), ManifestDir))
	return errors.Is(err, fs.ErrNotExist) && s.verifyPlain(version) == nil
}

// verifyPlain is Verify of a version without a manifest.
func (s *Store) verifyPlain(version string) error {
	var names []string
	dir, err := openDirectory(s.VersionDir(version))
	if err == nil {
		defer func() { _ = dir.Close() }()
		names, err = namesIn(dir)
	}
	if err == nil && len(names) == 0 {
		err = errors.New("its folder is empty")
	}
	if err != nil {
		return damage(CodeHashMismatch, fmt.Errorf("version %s, which has no manifest, is lost: %w", version, err))
	}
	return nil
}

// Ref is version with the content that is on disk: the digest of its manifest, or
// NoManifest. The error is that of Snapshot.
func (s *Store) Ref(version string) (*Ref, error) {
	snapshot, err := s.Snapshot(version)
	if err == nil {
		return &snapshot.Ref, nil
	}
	if ValidVersion(version) && s.plain(version) {
		return &Ref{Version: version, Digest: NoManifest}, nil
	}
	return nil, err
}

// Foreign reports whether another program keeps the folder: its link current leads
// to a folder, and not by way of the switch. What Active has to say of such a
// folder is ErrEmpty.
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
	var info fs.FileInfo
	err = Retry(func() (err error) {
		info, err = os.Stat(s.path("current"))
		return err
	})
	return target, err == nil && info.IsDir()
}

// Adoption is the record that Adopt makes of a folder whose links another program
// kept: current, previous and factory lead to folders v<version> beside them. What
// they name ran before, so all of it is confirmed. notes say what is not taken
// over, and why. Nothing is changed.
func (s *Store) Adoption(ctx context.Context) (r *Record, notes []string, err error) {
	r = &Record{Schema: Schema, Phase: PhaseConfirmed}
	for _, name := range linkNames {
		ref, err := s.foreignLink(ctx, name)
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
		notes = append(notes, "the link previous names the version that runs: nothing is behind it")
	}
	for _, ref := range []*Ref{r.Factory, r.Previous, r.Current} {
		if ref != nil {
			r.Confirm(*ref)
		}
	}
	return r, notes, nil
}

// foreignLink is the version that a link of another program leads to.
func (s *Store) foreignLink(ctx context.Context, name string) (*Ref, error) {
	cannot := func(format string, args ...any) *Error {
		return Errorf(ExitRefused, "", "cannot adopt %s: %w", s.path(name), fmt.Errorf(format, args...))
	}
	info, err := os.Lstat(s.path(name))
	if err != nil {
		return nil, cannot("%w", err)
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return nil, cannot("it is not a link").
			WithAdvice("give the folder the name of its version and make the link: mv %[1]s %[2]s && ln -s v1.0.0 %[1]s", s.path(name), s.path("v1.0.0"))
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
	if version := base[min(1, len(base)):]; filepath.Clean(parent) == root && base == dirName(version) && ValidVersion(version) {
		ref, err := s.Ref(version)
		if err == nil {
			err = s.Verify(ctx, ref, Content)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, cannot("%v", err).
				WithAdvice("a folder with a %s must be what its manifest says; install that version again, or remove its %[1]s", ManifestDir)
		}
		if err := s.CheckRevoked(ref, nil); err != nil {
			return nil, err
		}
		return ref, nil
	}
	return nil, cannot("it leads to %s, want a folder v<version> in %s", dir, s.dir).
		WithAdvice("rename the folder, which moves no data, and make the link anew: ln -sfn v1.0.0 %s", s.path(name))
}

// Adopt makes the store of a folder whose links another program kept: next, which
// is of Adoption, is what they say. At every moment, and after a power cut at any
// moment, each link leads to the version that it led to before; running it again
// finishes what was begun. The errors are those of Commit: one with ExitUnknown says
// that next is there, and perhaps not all of the links. The lock must be held.
func (s *Store) Adopt(next *Record) error {
	if err := s.committable(next); err != nil {
		return err
	}
	// What can fail for want of room comes before the switch, as far as it can.
	if _, err := s.makeFolders(stagingDir, trashDir); err != nil {
		return err
	}
	// First what the links are going to lead to, then the links.
	if err := s.commit(next); err != nil {
		return err
	}
	if err := s.Mend(); err != nil {
		return Errorf(ExitUnknown, "", "generation %d is made, but not all links to it: %w", next.Generation, err).
			WithAdvice("run `ota-guardian adopt` again; until then each link of %s leads where it did", s.dir)
	}
	return s.Settle()
}
