package applier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// status prints the current version and what an install does at this moment.
func (a *applier) status(asJSON bool) error {
	return a.store.ShowStatus(a.out, a.progressFile(), asJSON, a.cfg.Trial.BootLimits)
}

// list prints the versions of the store; with sbom, what they are made of.
func (a *applier) list(asJSON, sbom bool) error {
	status, err := a.store.Status(a.progressFile())
	if status == nil {
		return err
	}
	err = errors.Join(err, status.Measure(a.store))
	if sbom {
		return errors.Join(err, a.sboms(status.Versions, asJSON))
	}
	if asJSON {
		return errors.Join(err, bootcheck.WriteJSON(a.out, map[string]any{"schema": bootcheck.OutputSchema, "versions": status.Versions}))
	}
	status.PrintList(a.out, time.Now())
	return err
}

// verify checks every byte of a version of the store, or of a bundle: a name
// that isBundle and the store does not have is a bundle, anything else a version. Files
// that the manifest does not list are named; with prune they are removed, with strict
// they are an error (ExitDamaged). Without a store only bundles are verified.
func (a *applier) verify(ctx context.Context, name string, strict, prune bool) (err error) {
	var seen *bootcheck.Verified // what can be said besides err
	defer func() {
		found := []bootcheck.Verified{}
		if seen != nil {
			found = append(found, *seen)
		}
		a.answer.Set("versions", found)
	}()
	if a.store == nil {
		seen, err = a.verifyBundle(ctx, name)
		return err
	}
	record, err := a.store.Record()
	if err != nil {
		return err
	}
	version, err := a.store.Find(record, name)
	if err != nil {
		if isBundle(name) {
			seen, err = a.verifyBundle(ctx, name)
		}
		return err
	}
	snapshot, err := a.store.Snapshot(version)
	if err != nil {
		seen = new(bootcheck.NewVerified(bootcheck.VersionInfo{Version: version}, nil, err))
		return err
	}
	// The record knows the content of what it names; a version that it does
	// not name is checked against its own manifest.
	ref, link := record.Known(version)
	info := snapshot.Manifest.Info(snapshot.Ref.Digest)
	if err := a.store.VerifyAs(ctx, ref, link); err != nil {
		seen = new(bootcheck.NewVerified(info, nil, err))
		return err
	}
	extra := a.store.Extra(version)
	seen = new(bootcheck.NewVerified(info, extra, nil))
	fmt.Fprintf(a.out, "version %s is intact: %d entries, %d bytes, %s%s\n", version, len(snapshot.Manifest.Entries), snapshot.Manifest.Size,
		snapshot.Ref.Digest, bootcheck.ExtraText(len(extra)))
	if !prune {
		for _, name := range extra {
			fmt.Fprintf(a.out, "  %s\n", bootcheck.OneLine(name))
		}
	}
	switch {
	case prune && len(extra) > 0:
		removed, err := a.removeExtra(ctx, version)
		for _, name := range removed {
			fmt.Fprintf(a.out, "removed %s\n", bootcheck.OneLine(name))
		}
		return err
	case strict && len(extra) > 0:
		return bootcheck.ErrExtra(version)
	}
	return nil
}

// isBundle reports whether name is of a file: it has a slash, or the file is there.
func isBundle(name string) bool {
	_, err := os.Stat(name)
	return err == nil || strings.Contains(name, "/")
}

// removeExtra removes the extra files of version, unless a service runs from it.
func (a *applier) removeExtra(ctx context.Context, version string) (removed []string, err error) {
	record, unlock, err := a.lockRecord(ctx, lockAtStart)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if record == nil || record.Current.Version == version {
		if unit, err := systemd.FirstActive(ctx, a.cfg.Services); err != nil {
			return nil, err
		} else if unit != "" {
			return nil, bootcheck.ErrInUse(version, unit)
		}
	}
	return a.store.Prune(version)
}

// verifyBundle checks every byte of the bundle in the file name. seen is nil if it cannot
// be told which version that is.
func (a *applier) verifyBundle(ctx context.Context, name string) (seen *bootcheck.Verified, err error) {
	keys, err := a.keys()
	if err != nil {
		return nil, err
	}
	file, err := a.openFile(ctx, name, installOptions{})
	if err != nil {
		return nil, err
	}
	defer file.close()
	b, err := file.next(keys)
	if err != nil {
		return nil, err
	}
	err = bundle.Check(ctx, b, b.head, b.manifest, nil)
	seen = new(bootcheck.NewVerified(b.manifest.Info(b.digest), nil, err))
	if seen.File = bootcheck.OrNull(name); err != nil {
		return seen, err
	}
	fmt.Fprintf(a.out, "bundle %s is intact: version %s, %d entries, %d bytes, %s\n", name, b.manifest.Version, len(b.manifest.Entries), b.manifest.Size, b.digest)
	return seen, nil
}

// cleanup removes what crashes left and the snapshots beyond `keep`.
func (a *applier) cleanup(ctx context.Context, dryRun bool) error {
	a.answer.Set("dry_run", dryRun)
	a.answer.Set("removed", []string{})
	unlock, err := a.store.LockInstalls(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	record, err := a.store.Record()
	if err != nil {
		return err
	}
	say := func(what string, versions []string) {
		a.answer.Set("removed", append([]string{}, versions...))
		for _, version := range versions {
			fmt.Fprintf(a.out, "%s version %s\n", what, version)
		}
		if len(versions) == 0 {
			fmt.Fprintf(a.out, "%s no version (keep = %d)\n", what, a.cfg.Keep)
		}
	}
	if dryRun {
		var surplus []string
		if record != nil {
			surplus, err = a.store.Surplus(record, a.cfg.Keep)
		}
		if err == nil {
			say("would remove", surplus)
		}
		return err
	}
	stays, err := a.sweep(ctx)
	if err != nil {
		return err
	}
	removed, err := a.prune(ctx, a.cfg.Keep)
	if err == nil || len(removed) > 0 {
		say("removed", removed)
	}
	return cmp.Or(err, stays)
}

// unblock lets a version that failed here be installed again.
func (a *applier) unblock(ctx context.Context, version string) error {
	if !bootcheck.ValidVersion(version) {
		return bootcheck.Errorf(bootcheck.ExitUsage, "", "%q cannot be a version", version)
	}
	record, unlock, err := a.lockRecord(ctx, lockAtStart)
	if err != nil {
		return err
	}
	defer unlock()
	if record == nil {
		return fmt.Errorf("version %s is not blocked: no version is installed", version)
	}
	next := record.Clone()
	if !next.Unblock(version) && !next.Unblock(strings.TrimPrefix(version, "v")) {
		fmt.Fprintf(a.out, "version %s is not blocked\n", version)
		var names []string
		for _, b := range next.Blocked {
			names = append(names, b.Version)
		}
		if like := bootcheck.Nearest(version, names); like != "" {
			fmt.Fprintf(a.log, "hint: did you mean `%s`?\n", like)
		}
		return nil
	}
	if err := a.store.Commit(next); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "version %s is unblocked\n", version)
	return nil
}
