package applier

import (
	"context"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
)

// maxReleaseStep is how far the release counter may go up at once. Without a
// bound, one bundle of a stolen key with the counter 2^63-1 would make every later
// release a downgrade, for ever. 2^45 is more than any counter that people use
// (20261126120000, or milliseconds since 1970), so that a device's first version
// may have any of them, and it leaves room for 262,143 more such steps, each of
// which must have proved itself here: a vendor can always go above a thief.
const maxReleaseStep = 1 << 45

// checkRelease refuses a bundle for its counter: below what was confirmed here, or
// far beyond it. record may be nil.
func (a *applier) checkRelease(b *openBundle, record *bootcheck.Record, o installOptions) error {
	m := b.manifest
	var floor int64
	if record != nil {
		if record.Current.Same(b.ref()) {
			return nil
		}
		floor = a.floor(record)
	}
	switch {
	case m.Release < floor && !o.allowDowngrade:
		return refusal(m)("its release %d is older than release %d, which ran here", m.Release, floor).
			WithAdvice("--allow-downgrade installs it all the same; `ota-guardian rollback` goes back to a version that is still here")
	case m.Release-floor > maxReleaseStep:
		return refusal(m)("its release %d is %d beyond release %d, which ran here, and at most %d are believed at once", m.Release, m.Release-floor, floor, int64(maxReleaseStep)).
			WithAdvice("give releases numbers that count up: after this one, every later one would be a downgrade")
	}
	return nil
}

// floor is the highest release that was confirmed here. A record that was put
// together from the links alone does not know it; then it is that of the version
// that runs, if it proved itself, and that of factory.
func (a *applier) floor(record *bootcheck.Record) int64 {
	floor := max(0, record.Floor)
	if floor > 0 {
		return floor
	}
	for _, ref := range []*bootcheck.Ref{record.Current, record.Factory} {
		if ref == nil || !record.IsConfirmed(ref) && !ref.Same(record.Factory) {
			continue
		}
		if snapshot, err := a.store.Snapshot(ref.Version); err == nil && snapshot.Ref.Same(ref) {
			floor = max(floor, snapshot.Manifest.Release)
		}
	}
	return floor
}

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
