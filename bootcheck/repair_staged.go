package bootcheck

// How what runs is repaired from the same version, installed again.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// RepairFromStaged is Repair with all that it needs at hand: the staged snapshot of
// ref, whole and durable, gives the files that are damaged, and the manifest if that is.
// Of a version that may be all that runs, which therefore cannot be taken away to
// publish the staged one: a power cut at any moment leaves each of its files as it was
// or right. The staged one may lack its manifest afterwards. The lock must be held.
func (s *Store) RepairFromStaged(ctx context.Context, ref *Ref) (repaired []string, err error) {
	dir := s.path(stagingDir, dirName(ref.Version))
	raw, m, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	staged := &Snapshot{Ref: Ref{Version: m.Version, Digest: Digest(raw)}, Dir: dir, Manifest: m}
	if !staged.Ref.Same(ref) {
		return nil, fmt.Errorf("cannot repair version %s: %s is staged", ref, staged.Ref)
	}
	if snapshot, err := s.Snapshot(ref.Version); err != nil && ends(ctx, err) {
		return nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
	} else if err != nil || !snapshot.Ref.Same(ref) {
		if err := s.giveManifest(ref.Version); err != nil {
			return nil, Errorf(ExitDamaged, "", "version %s is damaged, and cannot be given its manifest: %w", ref.Version, err).
				WithAdvice("install another version")
		}
		repaired = []string{ManifestPath}
	}
	rest, err := s.repair(ctx, ref, nil, Content, staged)
	return append(repaired, rest...), err
}

// giveManifest gives version the manifest of its staged snapshot, durably, in the place
// of whatever is there. A power cut in the middle leaves it without one, which is as
// bad as what it had.
func (s *Store) giveManifest(version string) error {
	staged, dir := s.path(stagingDir, dirName(version)), s.VersionDir(version)
	if err := s.There(version); err != nil {
		return err
	}
	old, err := s.moveToTrash(filepath.Join(dirName(version), ManifestDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(filepath.Join(staged, ManifestDir), filepath.Join(dir, ManifestDir)); err != nil {
		return err
	}
	if err := errors.Join(syncDir(dir), syncDir(staged)); err != nil {
		return err
	}
	if old != "" {
		_ = RemoveAll(old) // else the next Sweep
	}
	return nil
}
