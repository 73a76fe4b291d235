package guardian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// factoryCreate makes a confirmed snapshot the factory version, the last
// resort: every byte checked, everything read-only (0555, 0444), then
// committed. An older factory becomes a snapshot like the others. Running it
// again is a success. untried: a person answers for a version that never proved
// itself here.
func (g *guardian) factoryCreate(ctx context.Context, name string, untried bool) error {
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
	is, err := g.store.Ref(version)
	if err != nil {
		return err
	}
	if is.Plain() {
		return noManifest(version)
	}
	ref := *is
	if !untried && !record.IsConfirmed(&ref) || record.BlockedBy(&ref) != nil {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s is not confirmed, so it cannot be the last resort", version).
			WithAdvice("let it prove itself first (`ota-guardian confirm`)")
	}
	if !record.IsConfirmed(&ref) {
		if err := g.store.Admit(&ref, g.admission(record)); err != nil {
			return err
		}
	}
	// Whole before it becomes read-only, so that nothing damaged is sealed.
	if err := g.store.Verify(ctx, &ref, bootcheck.Full); err != nil {
		return err
	}
	if err := g.store.Unshare(ctx, version); err != nil {
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

// factoryVerify hashes every byte of factory and looks at every mode. It changes
// nothing but what `status` and the metrics say of it.
func (g *guardian) factoryVerify(ctx context.Context) error {
	factory, err := g.factory()
	if err != nil {
		return err
	}
	if factory == nil {
		return errNoFactory
	}
	err = g.factoryDamage(ctx, factory)
	g.factoryChecked(ctx, factory, err)
	if err != nil {
		return err
	}
	if factory.Plain() {
		return noManifest(factory.Version)
	}
	fmt.Fprintf(g.out, "factory version %s is whole and read-only\n", factory)
	return nil
}

// factoryChecked lets `status` and the metrics say what a look at every byte of
// factory found; damage nil: that it is whole.
func (g *guardian) factoryChecked(ctx context.Context, factory *bootcheck.Ref, damage error) {
	text, whole := "", factory.Version
	if damage != nil {
		if bootcheck.Inconclusive(damage) {
			return
		}
		text, whole = fmt.Sprintf("factory version %s is damaged: %v", factory, damage), ""
	}
	g.flagFactory(text)
	if err := g.desk().FactoryWhole(whole); err != nil {
		g.logf("cannot tell the metrics about the factory version: %v", err)
	}
}

// noManifest is the error of what cannot be done with an adopted version.
func noManifest(version string) error {
	return bootcheck.Errorf(bootcheck.ExitRefused, "", "version %s was adopted without a manifest, so nothing can be said of its files", version).
		WithAdvice("/usr/lib/ota/create_factory_version.sh makes a signed version of its content")
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
// Nothing says what is right of one that has no manifest.
func (g *guardian) factoryDamage(ctx context.Context, factory *bootcheck.Ref) error {
	if err := g.store.Verify(ctx, factory, bootcheck.Full); err != nil || factory.Plain() {
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
// from other versions, modes, what does not belong there. The lock is held only
// while files are replaced: to read every byte may take hours at idle priority,
// and recover must not wait for that. A factory that is whole is only read. What
// cannot be put right is said in the journal, in `status` and by ExitDamaged.
func (g *guardian) factoryRepair(ctx context.Context) error {
	factory, err := g.factory()
	if err == error(errNothing) {
		fmt.Fprintln(g.out, "no version is installed") // a new device is none that is broken
		return nil
	}
	if err != nil {
		return err
	}
	if factory == nil {
		g.flagFactory("")
		fmt.Fprintln(g.out, "there is no factory version")
		return nil
	}
	damage := g.factoryDamage(ctx, factory)
	// Also if it is damaged: whatever ends this program, the device knows.
	g.factoryChecked(ctx, factory, damage)
	if damage == nil && factory.Plain() {
		fmt.Fprintf(g.out, "factory version %s was adopted without a manifest: it is there, and cannot be checked\n", factory)
		return nil
	}
	if damage == nil {
		fmt.Fprintf(g.out, "factory version %s is whole and read-only\n", factory)
		return nil
	}
	if bootcheck.Inconclusive(damage) {
		return damage
	}
	fields := map[string]string{"OTA_VERSION": factory.Version}
	g.announce(eventDamaged, fields, "factory: %v", damage)

	repaired, err := g.mendFactory(ctx, factory)
	if errors.Is(err, errReplaced) {
		g.flagFactory("") // what was damaged is the last resort no more
		fmt.Fprintf(g.out, "factory version %s was damaged (%v), and is factory no more\n", factory, damage)
		return nil
	}
	if err == nil {
		err = g.factoryDamage(ctx, factory)
	}
	switch {
	case err == nil:
		g.factoryChecked(ctx, factory, nil)
		g.announce(eventRepaired, fields, "factory version %s is whole and read-only again, repaired: %s", factory, shortList(repaired))
		fmt.Fprintf(g.out, "factory version %s was damaged (%v) and is repaired: %s\n", factory, damage, shortList(repaired))
		return nil
	case bootcheck.Exit(err) != bootcheck.ExitDamaged:
		// Interrupted, busy, no space, a disk that is read-only: another run may do it.
		return fmt.Errorf("factory version %s is damaged (%v) and not repaired yet: %w", factory, damage, err)
	}
	g.announce(eventFactoryLost, fields, "factory cannot be repaired: %v", err)
	g.factoryChecked(ctx, factory, err)
	return bootcheck.Errorf(bootcheck.ExitDamaged, "", "factory version %s is damaged and cannot be repaired: %w", factory, err).
		WithAdvice("%s", g.factoryAdvice(factory))
}

// errReplaced is a factory version that was replaced while it was looked at.
var errReplaced = errors.New("another version is factory now")

// mendFactory puts right what it can of factory, and says what that was. What has
// no donor does not keep the rest from being what it must be. It does not see
// whether every byte is right now.
func (g *guardian) mendFactory(ctx context.Context, factory *bootcheck.Ref) (repaired []string, err error) {
	damaged, err := g.store.DamagedFiles(ctx, factory)
	if err != nil {
		return nil, err
	}
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return nil, err
	}
	defer unlock()
	now, err := g.factory()
	if err != nil {
		return nil, err
	}
	if !factory.Same(now) {
		return nil, errReplaced
	}
	repaired, err = g.store.RepairFiles(ctx, factory, damaged)
	if err != nil && bootcheck.Exit(err) != bootcheck.ExitDamaged {
		return repaired, err
	}
	removed, stripErr := g.store.Strip(factory)
	if stripErr != nil {
		stripErr = fmt.Errorf("cannot remove what does not belong there: %w", stripErr)
	}
	for _, name := range removed {
		repaired = append(repaired, fmt.Sprintf("%q (removed)", name))
	}
	retireErr := g.store.Retire(factory.Version)
	if retireErr != nil {
		retireErr = fmt.Errorf("cannot make it read-only: %w", retireErr)
	}
	return repaired, errors.Join(err, stripErr, retireErr)
}

// factoryAdvice is what a person can do about a factory version that is lost. To
// install it again does not help as long as it is factory: what is linked is not
// replaced.
func (g *guardian) factoryAdvice(factory *bootcheck.Ref) string {
	const create = "`ota-guardian factory create"
	active, err := g.active()
	if err != nil || active == nil {
		return create + " VERSION` makes another version that proved itself the factory version"
	}
	record := active.Record
	if is := record.Current; !is.Same(factory) && record.IsConfirmed(is) && record.BlockedBy(is) == nil {
		return fmt.Sprintf("%s` makes version %s, which runs, the factory version", create, is)
	}
	for _, c := range slices.Backward(record.Confirmed) {
		if c.Same(factory) || record.BlockedBy(&c) != nil {
			continue
		}
		if _, err := g.store.Snapshot(c.Version); err == nil {
			return fmt.Sprintf("%s %s` makes version %s, which proved itself, the factory version", create, c.Version, c.Version)
		}
	}
	return "install another version; when it has proved itself, " + create + "` makes it the factory version"
}

// shortList names what was repaired, a few of many.
func shortList(names []string) string {
	const most = 5
	switch n := len(names); {
	case n == 0:
		return "modes"
	case n > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}

// flagFactory lets `status` say what is wrong with factory until the next boot;
// empty: nothing is.
func (g *guardian) flagFactory(text string) {
	if err := bootcheck.FlagFactory(g.cfg.Run, text); err != nil {
		g.logf("cannot tell status about the factory version: %v", err)
	}
}
