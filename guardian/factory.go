package guardian

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/tope-ota/ota/bootcheck"
)

// factoryCreate makes a confirmed snapshot the factory version, the last
// resort: every byte checked, everything read-only (0555, 0444), then
// committed. An older factory becomes a snapshot like the others. Running it
// again is a success.
func (g *guardian) factoryCreate(ctx context.Context, name string) error {
	unlock, err := g.store.Lock(ctx, lockWait)
	if err != nil {
		return err
	}
	defer unlock()
	active, err := g.active()
	if err != nil {
		return err
	}
	if active == nil {
		return errNothing
	}
	record := active.Record
	version, err := g.store.Find(record, name)
	if err != nil {
		return err
	}
	snapshot, err := g.store.Snapshot(version)
	if err != nil {
		return err
	}
	ref := snapshot.Ref
	if !record.IsConfirmed(&ref) || record.BlockedBy(&ref) != nil {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is not confirmed, so it cannot be the last resort", version).
			WithAdvice("let it prove itself first (`ota-guardian confirm`)")
	}
	// Whole before it becomes read-only, so that nothing damaged is sealed.
	if err := g.store.Verify(ctx, &ref, bootcheck.Full); err != nil {
		return err
	}
	if err := g.store.Retire(version); err != nil {
		return fmt.Errorf("cannot make version %s read-only: %w", version, err)
	}
	if ref.Same(record.Factory) {
		fmt.Fprintf(g.out, "factory is version %s already\n", version)
		return nil
	}
	next := record.Clone()
	next.Factory = &ref
	if err := g.store.Commit(next); err != nil {
		return err
	}
	fmt.Fprintf(g.out, "factory is now version %s\n", version)
	return nil
}

// factoryVerify hashes every byte of factory and looks at every mode. It changes nothing.
func (g *guardian) factoryVerify(ctx context.Context) error {
	active, err := g.active()
	if err != nil {
		return err
	}
	if active == nil {
		return errNothing
	}
	factory := active.Record.Factory
	if factory == nil {
		return (&bootcheck.Error{Err: fmt.Errorf("there is no factory version")}).
			WithAdvice("`ota-guardian factory create` makes the current version the factory")
	}
	if err := g.store.Verify(ctx, factory, bootcheck.Full); err != nil {
		return err
	}
	dir := g.store.VersionDir(factory.Version)
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o222 != 0 {
			rel, _ := filepath.Rel(dir, name)
			return bootcheck.Errorf(bootcheck.ExitDamaged, "", "factory version %s is damaged: %q is writable (%04o)", factory, rel, info.Mode().Perm()).
				WithAdvice("`ota-guardian factory create %s` makes it read-only again", factory)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(g.out, "factory version %s is whole and read-only\n", factory)
	return nil
}
