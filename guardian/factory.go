package guardian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

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
	factory, err := g.factory()
	if err != nil {
		return err
	}
	if factory == nil {
		return errNoFactory
	}
	if err := g.factoryDamage(ctx, factory); err != nil {
		return err
	}
	fmt.Fprintf(g.out, "factory version %s is whole and read-only\n", factory)
	return nil
}

var errNoFactory = (&bootcheck.Error{Err: fmt.Errorf("there is no factory version")}).
	WithAdvice("`ota-guardian factory create` makes the current version the factory")

// factory is the factory version of the record; nil: there is none.
func (g *guardian) factory() (*bootcheck.Ref, error) {
	active, err := g.active()
	if err != nil {
		return nil, err
	}
	if active == nil {
		return nil, errNothing
	}
	return active.Record.Factory, nil
}

// factoryDamage says what is wrong with factory, every byte and every mode of it.
func (g *guardian) factoryDamage(ctx context.Context, factory *bootcheck.Ref) error {
	if err := g.store.Verify(ctx, factory, bootcheck.Full); err != nil {
		return err
	}
	dir := g.store.VersionDir(factory.Version)
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
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
				WithAdvice("`ota-guardian factory repair` makes it read-only again")
		}
		return nil
	})
}

// factoryRepair checks every byte of factory and puts right what it can: files
// from other versions, modes, what does not belong there. A factory that is whole
// is only read, without the lock, as that may take minutes at idle priority. What
// cannot be put right is said in the journal, in `status` and by ExitDamaged.
func (g *guardian) factoryRepair(ctx context.Context) error {
	factory, err := g.factory()
	if err != nil {
		return err
	}
	if factory == nil {
		fmt.Fprintln(g.out, "there is no factory version")
		return nil
	}
	damage := g.factoryDamage(ctx, factory)
	if damage == nil {
		g.flagFactory("")
		fmt.Fprintf(g.out, "factory version %s is whole and read-only\n", factory)
		return nil
	}
	if inconclusive(ctx, damage) {
		return damage
	}
	fields := map[string]string{"OTA_VERSION": factory.Version}
	g.announce(eventDamaged, fields, "factory: %v", damage)
	if err := g.mendFactory(ctx, factory); err != nil {
		if inconclusive(ctx, err) || bootcheck.IsNoSpace(err) {
			return err // it may succeed another time
		}
		g.announce(eventFactoryLost, fields, "factory cannot be repaired: %v", err)
		g.flagFactory(fmt.Sprintf("factory version %s is damaged: %v", factory, err))
		return bootcheck.Errorf(bootcheck.ExitDamaged, "", "factory version %s is damaged and cannot be repaired: %w", factory, err).
			WithAdvice("`ota-guardian factory create` makes the current version, if it proved itself, the factory version")
	}
	g.flagFactory("")
	g.announce(eventRepaired, fields, "factory version %s is whole and read-only again", factory)
	fmt.Fprintf(g.out, "factory version %s was damaged (%v) and is repaired\n", factory, damage)
	return nil
}

func (g *guardian) mendFactory(ctx context.Context, factory *bootcheck.Ref) error {
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return err
	}
	defer unlock()
	if now, err := g.factory(); err != nil || !factory.Same(now) {
		return errors.Join(err, errors.New("another version was made the factory version meanwhile"))
	}
	if _, err := g.store.Repair(ctx, factory); err != nil {
		return err
	}
	if err := g.store.Strip(factory.Version); err != nil {
		return fmt.Errorf("cannot remove what does not belong there: %w", err)
	}
	if err := g.store.Retire(factory.Version); err != nil {
		return fmt.Errorf("cannot make it read-only: %w", err)
	}
	return g.factoryDamage(ctx, factory)
}

// flagFactory lets `status` say what is wrong with factory until the next boot;
// empty: nothing is.
func (g *guardian) flagFactory(text string) {
	name := filepath.Join(g.cfg.Run, bootcheck.FactoryDamage)
	var err error
	if text == "" {
		if err = os.Remove(name); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else if err = os.MkdirAll(g.cfg.Run, 0o755); err == nil {
		err = renameio.WriteFile(name, []byte(text+"\n"), 0o644, renameio.WithTempDir(g.cfg.Run))
	}
	if err != nil {
		g.logf("%v", err)
	}
}
