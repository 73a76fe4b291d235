package bootcheck

import (
	"context"
	"fmt"
	"os"
	"syscall"
)

// Unshare gives each file of the snapshot version that has names in other
// snapshots, too, an inode of its own, so that nothing that is done to those can
// change it. Files that are not shared are not touched. Each is exchanged as by
// Repair: a power cut at any moment leaves it shared or not, and whole. The error
// has ExitDamaged when a file that is shared is not what the manifest says. The
// lock must be held.
func (s *Store) Unshare(ctx context.Context, version string) error {
	snapshot, err := s.Snapshot(version)
	if err != nil {
		return err
	}
	r, err := s.openRepair(ctx, &snapshot.Ref)
	if err != nil {
		return err
	}
	defer r.close()
	for i := range r.snapshot.Manifest.Entries {
		e := &r.snapshot.Manifest.Entries[i]
		if e.Type != TypeFile {
			continue
		}
		if is, err := shared(r.root, e.Path); err != nil {
			return fmt.Errorf("cannot unshare %s of version %s: %w", e.Path, version, err)
		} else if !is {
			continue
		}
		if r.staging == nil {
			if err := r.openPlaces(); err != nil {
				return err
			}
		}
		made, err := r.take(r.root, e, e)
		if err != nil {
			return fmt.Errorf("cannot unshare %s of version %s: %w", e.Path, version, err)
		}
		if !made {
			return Errorf(ExitDamaged, CodeHashMismatch, "version %s is damaged: %s is not what its manifest says", version, e.Path)
		}
	}
	return nil
}

// shared reports whether the file name below root has other names. The error is
// Inconclusive: a file that is damaged is not shared.
func shared(root *os.File, name string) (bool, error) {
	f, err := openBeneath(int(root.Fd()), name)
	if err == nil {
		defer func() { _ = f.Close() }()
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			st, ok := info.Sys().(*syscall.Stat_t)
			return ok && st.Nlink > 1, nil
		}
	}
	if Inconclusive(err) {
		return false, err
	}
	return false, nil
}
