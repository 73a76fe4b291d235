package guardian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// verify reads every byte of the versions names, or of all that are in the store,
// and prints a line for each: flash forgets, and a version that was not started for
// a year is found to be damaged when it is needed, or here. With repair what is
// damaged is repaired from the other versions, as long as they still have it. Extra files
// are listed; with prune they are removed, with strict they fail (ExitDamaged).
//
// Nothing is hashed under the lock, which the guardian and an install wait for: it
// is held while files are replaced. A version that goes meanwhile is no damage.
// The error has ExitDamaged when one is damaged and stays so.
func (c *command) verify(ctx context.Context, names []string, o verifyOptions) error {
	seen := []bootcheck.Verified{}
	defer func() { c.answer.Set("versions", seen) }()
	versions, err := c.retained(names)
	if err != nil {
		return err
	}
	if len(versions) == 0 {
		fmt.Fprintln(c.out, "no version is installed")
		return nil
	}
	var damaged, unknown, extra []string
	var busy error
	for _, version := range versions {
		state, found, more, err := c.verifyVersion(ctx, version, o.repair)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.answer != nil {
			v := bootcheck.NewVerified(c.store.Info(bootcheck.Ref{Version: version}), more, err)
			if err == nil && state != "intact" {
				v.State, v.Why = state, bootcheck.OrNull(bootcheck.OneLine(found))
			}
			seen = append(seen, v)
		}
		switch {
		case err == nil && o.prune && len(more) > 0:
			removed, err := c.prune(ctx, version)
			found += "; removed " + shortList(removed)
			if err != nil {
				found, busy = found+"; not all: "+err.Error(), err
			}
		case err == nil && len(more) > 0:
			extra = append(extra, version)
		case err == nil:
		case bootcheck.Exit(err) == bootcheck.ExitDamaged:
			damaged = append(damaged, version)
			found = "damaged: " + err.Error()
		default:
			unknown = append(unknown, version)
			found = "not known: " + err.Error()
		}
		fmt.Fprintf(c.out, "%-16s %s\n", version, bootcheck.OneLine(found))
	}
	switch {
	case damaged == nil && unknown == nil && busy == nil && extra != nil && o.strict:
		return bootcheck.ErrExtra(strings.Join(extra, ", "))
	case damaged == nil && unknown == nil:
		return busy
	case damaged == nil:
		return fmt.Errorf("cannot verify %s", strings.Join(unknown, ", "))
	}
	e := bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "of %d versions %d are damaged: %s", len(versions), len(damaged), strings.Join(damaged, ", "))
	if !o.repair {
		return e.WithAdvice("`ota-guardian verify --repair` repairs them from other versions")
	}
	return e.WithAdvice("install them again")
}

type verifyOptions struct{ repair, prune, strict bool }

// prune removes the extra files of version, unless a service runs from it.
func (g *guardian) prune(ctx context.Context, version string) (removed []string, err error) {
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return nil, err
	}
	defer unlock()
	record, err := g.recordIfAny()
	if err != nil {
		return nil, err
	}
	if unit, err := g.user(ctx, record, version); err != nil {
		return nil, err
	} else if unit != "" {
		return nil, bootcheck.ErrInUse(version, unit)
	}
	return g.store.Prune(version)
}

// user is the service that runs from version; empty: none does.
func (g *guardian) user(ctx context.Context, record *bootcheck.Record, version string) (string, error) {
	if record != nil && record.Current.Version != version {
		return "", nil
	}
	return systemd.FirstActive(ctx, g.cfg.Services)
}

// retained are the versions that are meant by names, each once; without names
// those that are in the store and those that the record says should be.
func (g *guardian) retained(names []string) ([]string, error) {
	record, err := g.recordIfAny()
	if err != nil {
		return nil, err
	}
	var versions []string
	for _, name := range names {
		version, err := g.store.Find(record, name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(versions, version) {
			versions = append(versions, version)
		}
	}
	if names != nil {
		return versions, nil
	}
	if versions, err = g.store.VersionNames(); err != nil || record == nil {
		return versions, err
	}
	for _, l := range record.Links() {
		if l.Ref != nil && !slices.Contains(versions, l.Ref.Version) {
			versions = append(versions, l.Ref.Version)
		}
	}
	return versions, nil
}

// recordIfAny is the record; nil: there is none, or none that is intact. Then each
// version is what its own manifest says.
func (g *guardian) recordIfAny() (*bootcheck.Record, error) {
	record, err := g.record()
	switch {
	case errors.Is(err, bootcheck.ErrRecord):
		g.logf("%v", err)
		return nil, nil
	case errors.Is(err, bootcheck.ErrEmpty):
		return nil, nil
	}
	return record, err
}

// verifyVersion checks one version and says what it found: its state, see Verified, and a
// few words; extra are its extra files. The error has ExitDamaged if it is damaged; any other says nothing about it.
func (c *command) verifyVersion(ctx context.Context, version string, repair bool) (state, found string, extra []string, err error) {
	record, err := c.recordIfAny()
	if err != nil {
		return "", "", nil, err
	}
	ref, role := record.Known(version)
	dir, err := os.Lstat(c.store.VersionDir(version))
	if errors.Is(err, fs.ErrNotExist) {
		if role != "" {
			return "", "", nil, bootcheck.Errorf(bootcheck.ExitDamaged, "", "it is %s and not in the store", role)
		}
		return "gone", "gone, removed meanwhile", nil, nil
	}
	damage := c.store.VerifyAs(ctx, ref, role)
	if role == bootcheck.LevelFactory {
		c.factoryChecked(ref, damage)
	}
	if damage == nil && ref.Digest == bootcheck.NoManifest {
		return "unlisted", strings.TrimSuffix("adopted without a manifest, cannot be checked, "+role, ", "), nil, nil
	}
	if damage == nil {
		extra = c.store.Extra(version)
		found = strings.TrimSuffix("intact, "+role, ", ") + bootcheck.ExtraText(len(extra))
		if len(extra) > 0 {
			found += ": " + shortList(extra)
		}
		return "intact", found, extra, nil
	}
	if bootcheck.Inconclusive(damage) {
		return "", "", nil, damage
	}
	// What was checked for so long may be another version by now, or none.
	if record, err := c.recordIfAny(); err == nil {
		known, now := record.Known(version)
		is, err := os.Lstat(c.store.VersionDir(version))
		switch {
		case errors.Is(err, fs.ErrNotExist) && now == "":
			return "gone", "gone, removed meanwhile", nil, nil
		case err == nil && dir != nil && (!known.Same(ref) || !os.SameFile(dir, is)):
			return "replaced", "another one meanwhile", nil, nil
		}
	}
	if !repair {
		return "", "", nil, asDamage(damage)
	}
	var what string
	if role == bootcheck.LevelFactory {
		what, err = c.repairFactory(ctx, ref, damage)
	} else {
		what, err = c.repairDamaged(ctx, ref, damage)
	}
	switch {
	case err == nil:
		return "repaired", "repaired: " + what, nil, nil
	case errors.Is(err, errReplaced):
		return "replaced", "another one meanwhile", nil, nil
	case bootcheck.Exit(err) == bootcheck.ExitUnknown:
		return "", "", nil, err // it is intact now, and a power cut may undo that
	case role == bootcheck.LevelFactory:
		return "", "", nil, asDamage(err) // it says both
	}
	// Also when it was only busy, or the disk is full: it is damaged.
	return "", "", nil, bootcheck.Errorf(bootcheck.ExitDamaged, "", "%w; not repaired: %w", damage, err)
}

// asDamage is err, which came of a look at a version, as one of ExitDamaged.
func asDamage(err error) error {
	if bootcheck.Exit(err) == bootcheck.ExitDamaged {
		return err
	}
	return bootcheck.Errorf(bootcheck.ExitDamaged, "", "%w", err)
}

// repairDamaged makes ref intact, and returns what damage it had. The lock is held
// only while the new directory is made: to read every byte may take hours at idle priority,
// and recover must not wait for that.
func (g *guardian) repairDamaged(ctx context.Context, ref *bootcheck.Ref, damage error) (what string, err error) {
	wrong, err := g.store.Wrong(ctx, ref)
	if err != nil {
		return "", err
	}
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return "", err
	}
	defer unlock()
	record, err := g.recordIfAny()
	if err != nil {
		return "", err
	}
	known, role := record.Known(ref.Version)
	if !known.Same(ref) {
		return "", errReplaced
	}
	if what, err = g.repair(ctx, ref, wrong, damage.Error()); err != nil {
		return "", err
	}
	return what, g.store.VerifyAs(ctx, ref, role)
}
