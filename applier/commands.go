package applier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// status prints what runs and what an install does at this moment.
func (a *applier) status(asJSON bool) error {
	status, err := a.store.Status(a.progressFile())
	switch {
	case status == nil:
	case asJSON:
		err = errors.Join(err, a.printJSON(status))
	default:
		t := a.cfg.Trial
		status.Print(a.out, bootcheck.BootLimits{Hard: t.Hard, Unclean: t.Unclean, Clean: t.Clean}, time.Now())
	}
	return err
}

// list prints the versions of the store.
func (a *applier) list(asJSON bool) error {
	status, err := a.store.Status(a.progressFile())
	if status == nil {
		return err
	}
	if asJSON {
		return errors.Join(err, a.printJSON(map[string]any{"schema": 1, "versions": status.Versions}))
	}
	status.PrintList(a.out, time.Now())
	return err
}

func (a *applier) printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = a.out.Write(append(data, '\n'))
	return err
}

// verify checks every byte of a version of the store, or of a bundle: a name
// with a slash or of a file that exists is a bundle, anything else a version. Files
// that the manifest does not list are named; only with strict are they an error.
func (a *applier) verify(ctx context.Context, name string, strict bool) error {
	record, err := a.record()
	if err != nil {
		return err
	}
	version, err := a.store.Find(record, name)
	if err != nil {
		if _, statErr := os.Stat(name); statErr == nil || strings.Contains(name, "/") {
			return a.verifyBundle(ctx, name)
		}
		return err
	}
	snapshot, err := a.store.Snapshot(version)
	if err != nil {
		return err
	}
	// The record knows the content of what it names; a version that it does
	// not name is checked against its own manifest.
	ref := &snapshot.Ref
	if record != nil {
		for _, known := range []*bootcheck.Ref{record.Current, record.Previous, record.Factory} {
			if known != nil && known.Version == version {
				ref = known
			}
		}
	}
	depth := bootcheck.Content // what an application writes beside its code is no damage
	if strict {
		depth = bootcheck.Full
	}
	if err := a.store.Verify(ctx, ref, depth); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "version %s is whole: %d entries, %d bytes, %s\n", version, len(snapshot.Manifest.Entries), snapshot.Manifest.Size, snapshot.Ref.Digest)
	for _, name := range a.store.Extra(version) {
		fmt.Fprintf(a.out, "not of the version: %s\n", bootcheck.OneLine(name))
	}
	return nil
}

func (a *applier) verifyBundle(ctx context.Context, name string) error {
	keys, err := a.keys()
	if err != nil {
		return err
	}
	file, err := a.openFile(ctx, name, installOptions{})
	if err != nil {
		return err
	}
	defer file.close()
	b, err := file.next(keys)
	if err != nil {
		return err
	}
	if err := bundle.Check(ctx, b, b.head, b.manifest, bundle.Options{}); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "bundle %s is whole: version %s, %d entries, %d bytes, %s\n", name, b.manifest.Version, len(b.manifest.Entries), b.manifest.Size, b.digest)
	return nil
}

// cleanup removes what crashes left and the snapshots beyond `keep`.
func (a *applier) cleanup(ctx context.Context, dryRun bool) error {
	unlock, err := a.store.LockInstalls(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	record, err := a.record()
	if err != nil {
		return err
	}
	if dryRun {
		if record == nil {
			return nil
		}
		surplus, err := a.store.Surplus(record, a.cfg.Keep)
		for _, version := range surplus {
			fmt.Fprintf(a.out, "would remove version %s\n", version)
		}
		return err
	}
	stays, err := a.sweep(ctx)
	if err != nil {
		return err
	}
	removed, err := a.prune(ctx, a.cfg.Keep)
	for _, version := range removed {
		fmt.Fprintf(a.out, "removed version %s\n", version)
	}
	return cmp.Or(err, stays)
}

// unblock lets a version that failed here be installed again.
func (a *applier) unblock(ctx context.Context, version string) error {
	if !bootcheck.ValidVersion(version) {
		return bootcheck.Errorf(bootcheck.ExitUsage, "", "%q cannot be a version", version)
	}
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
		return fmt.Errorf("version %s is not blocked: %w", version, fs.ErrNotExist)
	}
	next := record.Clone()
	if !next.Unblock(version) && !next.Unblock(strings.TrimPrefix(version, "v")) {
		fmt.Fprintf(a.out, "version %s is not blocked\n", version)
		return nil
	}
	if err := a.store.Commit(next); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "version %s may be installed again\n", version)
	return nil
}
