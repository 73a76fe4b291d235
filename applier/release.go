package applier

import (
	"context"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
)

// resetRelease makes the release of the version that runs the lowest that is
// taken: a person's way back after a version with a counter that is too high was
// confirmed.
func (a *applier) resetRelease(ctx context.Context) error {
	unlock, err := a.store.Lock(ctx, lockAtStart)
	if err != nil {
		return err
	}
	defer unlock()
	record, err := a.record()
	if err != nil {
		return err
	}
	if record == nil {
		return fmt.Errorf("cannot reset the release: %w", bootcheck.ErrEmpty)
	}
	snapshot, err := a.store.Snapshot(record.Current.Version)
	if err != nil {
		return err
	}
	if !snapshot.Ref.Same(record.Current) {
		return bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "cannot reset the release: version %s is not the one that was installed", record.Current)
	}
	release := snapshot.Manifest.Release
	if record.Floor <= release {
		fmt.Fprintf(a.out, "releases from %d on are taken\n", record.Floor)
		return nil
	}
	next := record.Clone()
	next.Floor = release
	if err := a.store.Commit(next); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "releases from %d on are taken, that of version %s; it was %d\n", release, record.Current, record.Floor)
	return nil
}
