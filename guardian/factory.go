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
	if err := g.store.Verify(ctx, &ref, bootcheck.Content); err != nil {
		return err
	}
	extra := g.store.Extra(version)
	made, err := g.store.Seal(ctx, &ref)
	if err != nil {
		return fmt.Errorf("cannot make version %s read-only: %w", version, err)
	}
	if ref.Same(record.Factory) && !made {
		fmt.Fprintf(g.out, "factory is version %s already\n", version)
		return nil
	}
	next := record.Clone()
	next.Factory = &ref
	if err := g.store.Commit(next); err != nil {
		return err
	}
	if len(extra) > 0 {
		fmt.Fprintf(g.out, "left behind, as its manifest does not list it: %s\n", shortList(extra))
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
	fmt.Fprintf(g.out, "factory version %s is %s\n", factory, g.wholeAs(factory))
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

// wholeAs is what a factory version is that is not damaged.
func (g *guardian) wholeAs(factory *bootcheck.Ref) string {
	if g.store.Sealed(factory.Version) {
		return "whole and read-only"
	}
	return "whole, as it was adopted; `ota-guardian factory create` makes it read-only"
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
	if g.store.Unsigned(factory.Version) && !g.store.Sealed(factory.Version) {
		return g.store.Verify(ctx, factory, bootcheck.Content) // adopted, as it was
	}
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

// factoryRepair checks every byte of factory and makes it anew if it is damaged, see mend.
// One that is whole is only read. What cannot be repaired is said in the journal, in
// `status` and by ExitDamaged.
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
	if damage == nil {
		fmt.Fprintf(g.out, "factory version %s is %s\n", factory, g.wholeAs(factory))
		return nil
	}
	if bootcheck.Inconclusive(damage) {
		return damage
	}
	what, err := g.mend(ctx, factory, damage)
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
		fmt.Fprintf(g.out, "factory version %s was damaged (%v) and is repaired: %s\n", factory, damage, what)
		return nil
	case bootcheck.Exit(err) != bootcheck.ExitDamaged:
		// Interrupted, busy, no space, a disk that is read-only: another run may do it.
		return fmt.Errorf("factory version %s is damaged (%v) and not repaired yet: %w", factory, damage, err)
	}
	g.announce(eventFactoryLost, map[string]string{"OTA_VERSION": factory.Version}, "factory cannot be repaired: %v", err)
	g.factoryChecked(ctx, factory, err)
	return bootcheck.Errorf(bootcheck.ExitDamaged, "", "factory version %s is damaged and cannot be repaired: %w", factory, err).
		WithAdvice("%s", g.factoryAdvice(factory))
}

// errReplaced is a version that was replaced while it was looked at.
var errReplaced = errors.New("another version meanwhile")

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
