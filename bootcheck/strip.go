package bootcheck

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Strip removes from the snapshot ref what its manifest does not list, and says
// what that was: the names as they were on disk, a folder without what was in it.
// It is out of the snapshot, durably, before it is deleted. The error has
// ExitDamaged when ref's manifest is damaged: then nothing is removed. The lock
// must be held.
func (s *Store) Strip(ref *Ref) (removed []string, err error) {
	r, err := s.openRepair(context.Background(), ref)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.openPlaces(); err != nil {
		return nil, err
	}
	listed := map[string]EntryType{ManifestDir: TypeDir, ManifestPath: TypeFile, SignaturePath: TypeFile}
	for _, e := range r.snapshot.Manifest.Entries {
		listed[e.Path] = e.Type
	}
	if err := r.strip(r.root, ".", listed); err != nil {
		return r.done, fmt.Errorf("cannot remove what is not of version %s: %w", ref.Version, err)
	}
	return r.done, nil
}

// strip moves what is in the directory open as dir and not in listed to .trash.
func (r *repair) strip(dir *os.File, at string, listed map[string]EntryType) error {
	names, err := namesIn(dir)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		full := path.Join(at, name)
		kind, known := listed[full]
		if at == ManifestDir {
			// The manifest was read; something else in the signature's place goes.
			var st unix.Stat_t
			if err := statAt(dir, name, &st); err != nil {
				return fmt.Errorf("%q: %w", full, err)
			}
			known = known && st.Mode&unix.S_IFMT == unix.S_IFREG
		}
		switch {
		case !known:
			if err := r.change(dir, func() error { return r.discard(dir, name) }); err != nil {
				return fmt.Errorf("%q: %w", full, err)
			}
			r.done = append(r.done, full)
		case kind == TypeDir:
			sub, err := openNoFollow(int(dir.Fd()), name, unix.O_DIRECTORY)
			if err == unix.ENOTDIR || err == unix.ELOOP {
				continue // damaged: Repair's business
			}
			if err == nil {
				err = r.strip(sub, full, listed)
				_ = sub.Close()
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
