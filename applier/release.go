package applier

import (
	"context"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
)

// resetRelease makes the release of the current version the lowest that is
// taken: an operator's way back after a version with a counter that is too high was
// confirmed.
func (a *applier) resetRelease(ctx context.Context) error {
	a.answer.Set("release_floor", nil)
	record, unlock, err := a.lockRecord(ctx, lockAtStart)
	if err != nil {
		return err
	}
	defer unlock()
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
	release, floor := snapshot.Manifest.Release, a.store.Floor(record)
	text := fmt.Sprintf("the lowest accepted release is %d", min(release, floor))
	if release < floor {
		next := record.Clone()
		next.Floor = release
		if err := a.store.Commit(next); err != nil {
			return err
		}
		text += fmt.Sprintf(", that of version %s; it was %d", record.Current, floor)
	}
	a.answer.Set("release_floor", min(release, floor))
	fmt.Fprintln(a.out, text)
	return nil
}
