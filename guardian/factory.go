package guardian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// factoryCreate makes a confirmed snapshot the factory version, the last
// resort: every byte checked, extra files removed, everything read-only (0555, 0444), then
// committed. An older factory becomes a snapshot like the others. Running it
// again is a success. untried: an operator answers for a version that never proved
// itself here.
func (c *command) factoryCreate(ctx context.Context, name string, untried bool) error {
	record, unlock, err := c.lockRecord(ctx, lockWait)
	if err != nil {
		return err
	}
	defer unlock()
	version, err := c.store.Find(record, name)
	if err != nil {
		return err
	}
	is, err := c.store.Ref(version)
	if err != nil {
		return err
	}
	ref := *is
	if b := record.BlockedBy(&ref); b != nil {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot make version %s the factory version: %s", version, b.Failed()).
			WithAdvice("`ota-apply unblock %s` allows it again", version)
	}
	if !untried && !record.IsConfirmed(&ref) {
		return bootcheck.Errorf(bootcheck.ExitRefused, "", "cannot make version %s the factory version: it is unconfirmed", version).
			WithAdvice("`ota-guardian confirm` confirms it")
	}
	if !record.IsConfirmed(&ref) {
		if err := c.store.Admit(&ref, c.admission(record)); err != nil {
			return err
		}
	}
	// Whole before it becomes read-only, so that nothing damaged is sealed.
	if err := c.store.Verify(ctx, &ref, bootcheck.Content); err != nil {
		return err
	}
	user, err := c.user(ctx, record, version)
	if err != nil {
		return err
	}
	extra, made, err := c.store.Seal(ctx, &ref, user != "")
	if len(extra) > 0 {
		fmt.Fprintf(c.out, "removed, not in the release: %s\n", shortList(extra))
	}
	if err != nil {
		return fmt.Errorf("cannot make version %s read-only: %w", version, err)
	}
	if ref.Same(record.Factory) && !made {
		fmt.Fprintf(c.out, "factory is version %s already\n", version)
		return nil
	}
	next := record.Clone()
	next.Factory = &ref
	if err := c.store.Commit(next); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "factory is now version %s\n", version)
	return nil
}

// factoryVerify hashes every byte of factory and looks at every mode. It changes
// nothing but what `status` and the metrics say of it.
func (c *command) factoryVerify(ctx context.Context) error {
	record, err := c.record()
	if err != nil {
		return err
	}
	factory := record.Factory
	if factory == nil {
		return errNoFactory
	}
	err = c.store.VerifyAs(ctx, factory, bootcheck.LevelFactory)
	c.factoryChecked(factory, err)
	switch {
	case bootcheck.Inconclusive(err):
		return err
	case err != nil:
		return bootcheck.Errorf(bootcheck.Exit(err), bootcheck.ReportCode(err), "%w", err).WithAdvice("`ota-guardian factory repair` repairs it")
	}
	fmt.Fprintf(c.out, "factory version %s is %s\n", factory, c.intactAs(factory))
	return nil
}

// factoryChecked lets `status` and the metrics say what a look at every byte of
// factory found; damage nil: that it is intact.
func (g *guardian) factoryChecked(factory *bootcheck.Ref, damage error) {
	c := bootcheck.FactoryCheck{Version: factory.Version}
	if damage != nil {
		if bootcheck.Inconclusive(damage) {
			return
		}
		c.Damage = fmt.Sprintf("factory version %s is damaged: %v", factory, damage)
	}
	if err := c.Keep(g.cfg.Run); err != nil && !errors.Is(err, fs.ErrPermission) { // any user may run the check
		g.logf("cannot note what was found of the factory version: %v", err)
	}
}

// intactAs says how the factory version is kept, which is not damaged.
func (g *guardian) intactAs(factory *bootcheck.Ref) string {
	if g.store.Sealed(factory.Version) {
		return "intact and read-only"
	}
	return "intact, as it was adopted; `ota-guardian factory create` makes it read-only"
}

var errNoFactory = (&bootcheck.Error{Err: fmt.Errorf("there is no factory version")}).
	WithAdvice("`ota-guardian factory create` makes the current version the factory")

// factoryRepair checks every byte of factory and rebuilds it if it is damaged, see repair.
// One that is intact is only read.
func (c *command) factoryRepair(ctx context.Context) error {
	record, err := c.record()
	if errors.Is(err, bootcheck.ErrEmpty) {
		fmt.Fprintln(c.out, "no version is installed") // a new device is none that is broken
		return nil
	}
	if err != nil {
		return err
	}
	factory := record.Factory
	if factory == nil {
		fmt.Fprintln(c.out, "there is no factory version")
		return nil
	}
	damage := c.store.VerifyAs(ctx, factory, bootcheck.LevelFactory)
	c.factoryChecked(factory, damage) // a kill of this program must not lose that
	switch {
	case damage == nil:
		fmt.Fprintf(c.out, "factory version %s is %s\n", factory, c.intactAs(factory))
		return nil
	case bootcheck.Inconclusive(damage):
		return damage
	}
	what, err := c.repairFactory(ctx, factory, damage)
	switch {
	case errors.Is(err, errReplaced):
		fmt.Fprintf(c.out, "factory version %s was damaged (%v) and is not the factory version any more\n", factory, damage)
		return nil
	case err == nil:
		fmt.Fprintf(c.out, "factory version %s was damaged (%v) and is repaired: %s\n", factory, damage, what)
	}
	return err
}

// repairFactory is repairDamaged of the factory version. What cannot be repaired is said in
// the journal, in `status` and by ExitDamaged.
func (g *guardian) repairFactory(ctx context.Context, factory *bootcheck.Ref, damage error) (what string, err error) {
	what, err = g.repairDamaged(ctx, factory, damage)
	switch {
	case err == nil:
		g.factoryChecked(factory, nil)
		return what, nil
	case errors.Is(err, errReplaced), bootcheck.Exit(err) == bootcheck.ExitUnknown: // intact, but maybe not durable
		return "", err
	case bootcheck.Exit(err) != bootcheck.ExitDamaged:
		// Interrupted, busy, no space, a disk that is read-only: another run may do it.
		return "", fmt.Errorf("factory version %s is damaged (%v) and not repaired yet: %w", factory, damage, err)
	}
	g.announce(eventFactoryLost, map[string]string{"OTA_VERSION": factory.Version}, "factory cannot be repaired: %v", err)
	g.factoryChecked(factory, err)
	return "", bootcheck.Errorf(bootcheck.ExitDamaged, "", "factory version %s is damaged and cannot be repaired: %w", factory, err).
		WithAdvice("%s", g.factoryAdvice(factory))
}

// errReplaced is a version that was replaced while it was looked at.
var errReplaced = errors.New("another version meanwhile")

// factoryAdvice is what an operator can do about a factory version that is lost. To
// install it again does not help as long as it is factory: what is linked is not
// replaced.
func (g *guardian) factoryAdvice(factory *bootcheck.Ref) string {
	const create = "`ota-guardian factory create"
	record, err := g.record()
	if err != nil {
		return create + " VERSION` makes another confirmed version the factory version"
	}
	if is := record.Current; !is.Same(factory) && record.IsConfirmed(is) && record.BlockedBy(is) == nil {
		return fmt.Sprintf("%s` makes version %s, the current one, the factory version", create, is)
	}
	for _, c := range slices.Backward(record.Confirmed) {
		if c.Same(factory) || record.BlockedBy(&c) != nil {
			continue
		}
		if _, err := g.store.Snapshot(c.Version); err == nil {
			return fmt.Sprintf("%s %s` makes version %s, which is confirmed, the factory version", create, c.Version, c.Version)
		}
	}
	return "install another version; when it is confirmed, " + create + "` makes it the factory version"
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
