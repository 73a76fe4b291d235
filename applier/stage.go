package applier

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
)

// stageVersion makes the bundle a snapshot of the store: unpacked beside what
// runs, durable, then given its name. One that is there already and intact is
// success; one of the same name that is not is replaced, or repaired where it is
// current.
func (a *applier) stageVersion(ctx context.Context, b *openBundle) error {
	ref := b.ref()
	snapshot, err := a.store.Snapshot(ref.Version)
	if bootcheck.Inconclusive(err) {
		return err // it may be intact, and be what the device rolls back to
	}
	if err == nil && snapshot.Ref == *ref && !signedAgain(snapshot, b) {
		if err := a.store.Verify(ctx, ref, bootcheck.Content); err == nil || bootcheck.Inconclusive(err) {
			return err
		} else {
			a.logf("%v; unpacking it again", err)
		}
	}
	a.sayPlan(b)
	offers, err := a.makeRoom(ctx, b, nil)
	if err != nil {
		return err
	}
	defer func() {
		// Nothing is there any more when it was published.
		if err := a.store.Unstage(ref.Version); err != nil {
			a.logf("cannot remove the staged files: %v; the next install removes them", err)
		}
	}()
	if err := a.unpack(ctx, b, ref.Version, offers); err != nil {
		if bootcheck.Exit(err) == bootcheck.ExitDamaged {
			b.drop() // to resume this download would be to fail for ever
		}
		if bootcheck.IsNoSpace(err) {
			return &noRoom{err}
		}
		return err
	}
	record, unlock, err := a.lockRecord(ctx, lockToCommit)
	if err != nil {
		return err
	}
	defer unlock()
	sealed := record != nil && ref.Same(record.Factory)
	if err := a.store.There(ref.Version); errors.Is(err, fs.ErrNotExist) {
		return a.store.Publish(ref.Version, sealed)
	} else if bootcheck.Inconclusive(err) {
		return err
	}
	return a.replace(record, ref, sealed)
}

// signedAgain reports whether b has another signature than snapshot, which has the same
// manifest, was never confirmed, and which no record names: it is unpacked again, as the
// key that signed it first may not be trusted any more.
func signedAgain(snapshot *bootcheck.Snapshot, b *openBundle) bool {
	is, record := &snapshot.Ref, b.record
	if record != nil && (is.Same(record.Current) || is.Same(record.Previous) || is.Same(record.Factory) || record.IsConfirmed(is)) {
		return false
	}
	text, err := bootcheck.ReadSnapshotFile(snapshot.Dir, bootcheck.SignaturePath, bootcheck.MaxSignature)
	return err == nil && !bytes.Equal(text, b.head.Signature)
}

// noRoom is the error of an unpacking that the disk had no room for: it may be done
// again. What comes after it may not, as a sync that failed is never made again.
type noRoom struct{ error }

func (e *noRoom) Unwrap() error { return e.error }

// replace publishes ref in the place of its damaged snapshot: beside one that is linked,
// and the record's next generation leads to it. sealed: see Publish.
func (a *applier) replace(record *bootcheck.Record, ref *bootcheck.Ref, sealed bool) error {
	if !ref.Same(record.Linked(ref.Version).Ref) {
		if gone, err := a.removeVersion(record, ref.Version); !gone {
			return err
		}
		return a.store.Publish(ref.Version, false)
	}
	if err := a.store.Publish(ref.Version, sealed); err != nil {
		return err
	}
	a.logf("repaired version %s", ref)
	return a.store.Commit(record.Clone())
}

// quickDownload is a download that is sooner made again than written to the flash.
const quickDownload = 30 * time.Second

// unpack writes the bundle's tree to the staging directory; all of it is durable
// when it returns.
func (a *applier) unpack(ctx context.Context, b *openBundle, version string, o *offers) error {
	root, err := a.store.Stage(version)
	if err != nil {
		return err
	}
	defer root.Close()
	// As long as it arrives, that is what is shown: it is the slower of the two.
	arrived := sync.OnceFunc(func() {
		a.stage(report.StageVerifying, "version "+version)
		a.stage(report.StageToInstall, "version "+version)
		a.stage(report.StageInstalling, "unpacking version "+version)
	})
	progress := func(done, total int64) {
		select {
		case <-b.now.Arrived():
			arrived()
			a.progress(done, total)
		default:
		}
	}
	u, err := bundle.Begin(b.head, b.manifest, root, progress)
	if err != nil {
		return err
	}
	defer u.Close()
	// The rest is fetched while what is reused is hashed. What is damaged of that is a
	// hole of the bundle then, and fetched when Finish comes to it.
	if b.patch != nil {
		b.now.Want(nil)
	} else {
		b.want(b.head.Missing(b.manifest, o.offered))
	}
	progress(0, b.manifest.Size)
	maker := a.maker(b)
	if o.planned() {
		u.Start(ctx, o.offered, maker)
	}
	if err := a.takeOffers(ctx, u, b, o); err != nil {
		return unpackFailed(ctx, b, err)
	}
	if err := u.Finish(ctx, maker); err != nil {
		return unpackFailed(ctx, b, err)
	}
	<-b.now.Arrived()
	arrived()
	a.progress(b.manifest.Size, b.manifest.Size) // also when the last byte came last
	took, err := b.now.Finish()
	if err != nil {
		return b.orBundle(ctx, err)
	}
	// As the guardian will look at it, in each boot. What is written was compared with
	// the manifest; what the file system made of it was not.
	if err := bootcheck.CheckTree(ctx, root.Name(), b.manifest, bootcheck.Quick); bootcheck.Exit(err) == bootcheck.ExitDamaged {
		return bootcheck.Unfit(a.store.Dir(), fmt.Sprintf("does not keep what version %s is made of: %v", version, err))
	} else if err != nil {
		return err
	}
	if took < quickDownload {
		// A power cut from here on costs the download, and nothing else. Kept, all
		// of it would be written by the next line.
		b.drop()
	}
	return u.Sync()
}

// makeRoom removes the snapshots that b's plan says, the least useful first, until
// there is room, and returns what the others offer. Removing one may give less than was
// thought, or nothing. u: see planUnpack.
func (a *applier) makeRoom(ctx context.Context, b *openBundle, u *bundle.Unpacker) (*offers, error) {
	var stays []string
	for {
		p := b.plan // of a moment ago
		if b.plan = nil; p == nil || p.here {
			var err error
			if p, err = a.planUnpack(b, u, stays); err != nil {
				return nil, err
			}
		}
		if len(p.remove) == 0 {
			return p.offers, nil
		}
		record, unlock, err := a.lockRecord(ctx, lockToCommit)
		if err != nil {
			return nil, err
		}
		removed, err := a.remove(record, p.remove, "disk space")
		unlock()
		if errors.Is(err, bootcheck.ErrUndurable) {
			return nil, err
		} else if err != nil {
			a.logf("%v", err)
		}
		for _, version := range p.remove {
			if !slices.Contains(removed, version) {
				stays = append(stays, version)
			}
		}
		// btrfs gives back what was deleted with its next transaction.
		if dir, err := os.Open(a.store.Dir()); err == nil {
			_ = unix.Syncfs(int(dir.Fd()))
			dir.Close()
		}
	}
}

// prune removes the surplus snapshots beyond keep, and says which. What cannot be
// removed is stepped over, and the error is about the first of that.
func (a *applier) prune(ctx context.Context, keep int) ([]string, error) {
	record, unlock, err := a.lockRecord(ctx, lockToCommit)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if record == nil {
		return nil, nil
	}
	surplus, err := a.store.Surplus(record, keep)
	if err != nil {
		return nil, err
	}
	return a.remove(record, surplus, fmt.Sprintf("keep = %d", keep))
}

// remove removes versions that record does not link to, because of why. One that cannot
// be removed is stepped over: stays is about the first of them. After bootcheck.ErrUndurable
// nothing more is removed. Its caller holds the lock.
func (a *applier) remove(record *bootcheck.Record, versions []string, why string) (removed []string, stays error) {
	for _, version := range versions {
		gone, err := a.removeVersion(record, version)
		if errors.Is(err, bootcheck.ErrUndurable) {
			return removed, err
		}
		if !gone {
			stays = cmp.Or(stays, err)
			continue
		}
		a.logf("removed version %s (%s)", version, why)
		removed = append(removed, version)
	}
	return removed, stays
}

// removeVersion removes version from the store, or says why it is still there, or may be
// again. What is out of the store and cannot be deleted is in the log only: the next sweep
// tries again.
func (a *applier) removeVersion(record *bootcheck.Record, version string) (gone bool, err error) {
	if err = a.store.Remove(record, version); err == nil {
		return true, nil
	}
	err = fmt.Errorf("cannot remove version %s: %w", version, err)
	if _, statErr := os.Lstat(a.store.VersionDir(version)); statErr == nil || errors.Is(err, bootcheck.ErrUndurable) {
		return false, err
	}
	a.logf("%v", err)
	return true, nil
}

// sweep removes what an earlier run left. What cannot be removed stays there, and is in
// the log: stays. Its caller holds the lock of installs.
func (a *applier) sweep(ctx context.Context) (stays, err error) {
	unlock, err := a.store.Lock(ctx, lockAtStart)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if stays = a.store.Sweep(); stays != nil {
		a.logf("cannot remove all that is left of earlier installs: %v", stays)
	}
	return stays, nil
}
