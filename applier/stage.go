package applier

import (
	"context"
	"fmt"
	"os"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
)

// stageVersion makes the bundle a snapshot of the store: unpacked beside what
// runs, durable, then given its name. One that is there already and whole is
// success; one of the same name that is not is replaced, since nothing links to
// it (admit saw to that).
func (a *applier) stageVersion(ctx context.Context, b *openBundle, ref *bootcheck.Ref) error {
	snapshot, err := a.store.Snapshot(ref.Version)
	if err == nil && snapshot.Ref == *ref {
		if err := a.store.Verify(ctx, ref, bootcheck.Content); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return err
		} else {
			a.logf("%v; unpacking it again", err)
		}
	}
	a.stage(report.StageToInstall, "version "+ref.Version)
	if err := a.makeRoom(ctx, b.manifest); err != nil {
		return err
	}
	a.stage(report.StageInstalling, "unpacking version "+ref.Version)
	defer func() {
		// Nothing is there any more when it was published.
		if err := a.store.Unstage(ref.Version); err != nil {
			a.logf("cannot remove what was unpacked, the next install does: %v", err)
		}
	}()
	if err := a.unpack(ctx, b, ref.Version); err != nil {
		if bootcheck.Exit(err) == bootcheck.ExitDamaged {
			b.done() // to resume this download would be to fail for ever
		}
		return err
	}
	unlock, err := a.store.Lock(ctx, lockToCommit)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(a.store.VersionDir(ref.Version)); err == nil {
		if err := a.replace(ref.Version); err != nil {
			return err
		}
	}
	return a.store.Publish(ref.Version)
}

// replace removes the damaged snapshot of version. As previous it is no version
// to fall back to, so the record forgets it first.
func (a *applier) replace(version string) error {
	record, err := a.record()
	if err != nil {
		return err
	}
	if record != nil && record.Previous != nil && record.Previous.Version == version &&
		record.Current.Version != version && (record.Factory == nil || record.Factory.Version != version) {
		record = record.Clone()
		record.Previous = nil
		if err := a.store.Commit(record); err != nil {
			return err
		}
	}
	return a.store.Remove(record, version)
}

// unpack writes the bundle's tree to the staging folder; all of it is durable
// when it returns.
func (a *applier) unpack(ctx context.Context, b *openBundle, version string) error {
	root, err := a.store.Stage(version)
	if err != nil {
		return err
	}
	defer root.Close()
	defer a.guardUnpack(b.manifest, b.size)()
	return bundle.Unpack(ctx, b.File, b.head, b.manifest, root, bundle.Options{
		Progress: a.progress,
		Log:      func(line string) { a.logf("%s", line) },
	})
}

// makeRoom removes surplus snapshots until m fits, the least useful first.
func (a *applier) makeRoom(ctx context.Context, m *bootcheck.Manifest) error {
	record, err := a.record()
	if err != nil {
		return err
	}
	if err := a.checkRoom(m, 0, record); err != nil {
		return err // before anything is removed for nothing
	}
	for {
		free, err := a.store.Free()
		if err != nil {
			return err
		}
		bytes, inodes := need(m, free.Block)
		if bytes+uint64(a.cfg.Reserve) <= free.Bytes && (free.NoInodes || inodes <= free.Inodes) {
			return nil
		}
		removed, err := a.prune(ctx, 0, 1)
		if err != nil {
			return err
		}
		if len(removed) == 0 {
			return a.checkRoom(m, 0, nil)
		}
	}
}

// prune removes surplus snapshots beyond keep, at most limit of them (limit < 0:
// all), and says which.
func (a *applier) prune(ctx context.Context, keep, limit int) ([]string, error) {
	unlock, err := a.store.Lock(ctx, lockToCommit)
	if err != nil {
		return nil, err
	}
	defer unlock()
	record, err := a.record()
	if err != nil || record == nil {
		return nil, err
	}
	surplus, err := a.store.Surplus(record, keep)
	if err != nil {
		return nil, err
	}
	if limit >= 0 && len(surplus) > limit {
		surplus = surplus[:limit]
	}
	for i, version := range surplus {
		if err := a.store.Remove(record, version); err != nil {
			return surplus[:i], fmt.Errorf("cannot remove version %s: %w", version, err)
		}
		a.logf("removed version %s to make room", version)
	}
	return surplus, nil
}

// sweep removes what an earlier run left. Its caller holds the lock of installs.
func (a *applier) sweep(ctx context.Context) error {
	unlock, err := a.store.Lock(ctx, lockAtStart)
	if err != nil {
		return err
	}
	defer unlock()
	return a.store.Sweep(true)
}
