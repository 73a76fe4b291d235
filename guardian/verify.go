package guardian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// verify reads every byte of the versions names, or of all that are in the store,
// and prints a line for each: flash forgets, and a version that nobody started for
// a year is found to be damaged when it is needed, or here. With repair what is
// damaged is put right from the other versions, as long as they still have it.
//
// Nothing is hashed under the lock, which the guardian and an install wait for: it
// is held while files are replaced. A version that goes meanwhile is no damage.
// The error has ExitDamaged when one is damaged and stays so.
func (g *guardian) verify(ctx context.Context, names []string, repair bool) error {
	versions, err := g.retained(names)
	if err != nil {
		return err
	}
	if len(versions) == 0 {
		fmt.Fprintln(g.out, "no version is installed")
		return nil
	}
	var damaged, unknown []string
	for _, version := range versions {
		found, err := g.verifyVersion(ctx, version, repair)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case err == nil:
		case bootcheck.Exit(err) == bootcheck.ExitDamaged:
			damaged = append(damaged, version)
			found = "damaged: " + err.Error()
		default:
			unknown = append(unknown, version)
			found = "not known: " + err.Error()
		}
		fmt.Fprintf(g.out, "%-16s %s\n", version, bootcheck.OneLine(found))
	}
	switch {
	case damaged == nil && unknown == nil:
		return nil
	case damaged == nil:
		return fmt.Errorf("cannot tell whether %s are whole", strings.Join(unknown, ", "))
	}
	e := bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeHashMismatch, "of %d versions %d are damaged: %s", len(versions), len(damaged), strings.Join(damaged, ", "))
	if !repair {
		return e.WithAdvice("`ota-guardian verify --repair` puts right what other versions have the files for")
	}
	return e.WithAdvice("install them again; the device runs only what is whole")
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

// recordIfAny is the record; nil: there is none, or none that is whole. Then each
// version is what its own manifest says.
func (g *guardian) recordIfAny() (*bootcheck.Record, error) {
	active, err := g.active()
	switch {
	case errors.Is(err, bootcheck.ErrRecord):
		g.logf("%v", err)
		return nil, nil
	case err != nil || active == nil:
		return nil, err
	}
	return active.Record, nil
}

// verifyVersion checks one version and says what it found, in a few words. The
// error has ExitDamaged if it is damaged; any other says nothing about it.
func (g *guardian) verifyVersion(ctx context.Context, version string, repair bool) (string, error) {
	record, err := g.recordIfAny()
	if err != nil {
		return "", err
	}
	ref, role := knownAs(record, version)
	dir, err := os.Lstat(g.store.VersionDir(version))
	if errors.Is(err, fs.ErrNotExist) {
		if role != "" {
			return "", bootcheck.Errorf(bootcheck.ExitDamaged, "", "it is %s and not in the store", role)
		}
		return "gone, removed meanwhile", nil
	}
	damage := g.damage(ctx, ref, role)
	if role == roleFactory && (damage == nil || !repair) {
		g.factoryChecked(ctx, ref, damage)
	}
	if damage == nil && ref.Digest == bootcheck.NoManifest {
		return strings.TrimSuffix("adopted without a manifest, cannot be checked, "+role, ", "), nil
	}
	if damage == nil {
		text := strings.TrimSuffix("whole, "+role, ", ")
		if extra := g.store.Extra(version); len(extra) > 0 {
			text += ", and not of the version: " + shortList(extra)
		}
		return text, nil
	}
	if bootcheck.Inconclusive(damage) {
		return "", damage
	}
	// What was checked for so long may be another version by now, or none.
	if record, err := g.recordIfAny(); err == nil {
		known, now := knownAs(record, version)
		is, err := os.Lstat(g.store.VersionDir(version))
		switch {
		case errors.Is(err, fs.ErrNotExist) && now == "":
			return "gone, removed meanwhile", nil
		case err == nil && dir != nil && (!known.Same(ref) || !os.SameFile(dir, is)):
			return "another one meanwhile", nil
		}
	}
	if !repair {
		return "", asDamage(damage)
	}
	if role == roleFactory {
		quiet := *g // it says in one line more than fits here
		quiet.out = io.Discard
		if err := quiet.factoryRepair(ctx); err != nil {
			return "", asDamage(err)
		}
		return "repaired: " + damage.Error(), nil
	}
	what, err := g.mend(ctx, ref, damage)
	if errors.Is(err, errReplaced) {
		return "another one meanwhile", nil
	}
	if bootcheck.Exit(err) == bootcheck.ExitUnknown {
		return "", err // it is whole now, and a power cut may undo that
	}
	if err != nil {
		// Also when it was only busy, or the disk is full: it is damaged.
		return "", bootcheck.Errorf(bootcheck.ExitDamaged, "", "%w; not repaired: %w", damage, err)
	}
	return "repaired: " + what, nil
}

// damage says what is wrong with ref. Of factory every mode counts; in any other
// version the application may have put files beside those that it came with.
func (g *guardian) damage(ctx context.Context, ref *bootcheck.Ref, role string) error {
	if role == roleFactory {
		return g.factoryDamage(ctx, ref)
	}
	return g.store.Verify(ctx, ref, bootcheck.Content)
}

// asDamage is err, which came of a look at a version, as one of ExitDamaged.
func asDamage(err error) error {
	if bootcheck.Exit(err) == bootcheck.ExitDamaged {
		return err
	}
	return bootcheck.Errorf(bootcheck.ExitDamaged, "", "%w", err)
}

const roleFactory = "factory"

// knownAs is version with the content that the record knows of it, as far as it
// does, and what it is to the device: factory, current or previous; empty: kept.
func knownAs(record *bootcheck.Record, version string) (ref *bootcheck.Ref, role string) {
	ref = &bootcheck.Ref{Version: version}
	if record == nil {
		return ref, ""
	}
	if record.Factory != nil && record.Factory.Version == version {
		return record.Factory, roleFactory // before current: of factory more is asked
	}
	for _, l := range record.Links() {
		if l.Ref != nil && l.Ref.Version == version {
			return l.Ref, l.Name
		}
	}
	for i := range record.Confirmed {
		if c := &record.Confirmed[i]; c.Version == version {
			return c, ""
		}
	}
	return ref, ""
}

// mend repairs ref, which is damaged, and says what was wrong with it. The lock is held
// only while the new folder is made: to read every byte may take hours at idle priority,
// and recover must not wait for that.
func (g *guardian) mend(ctx context.Context, ref *bootcheck.Ref, damage error) (what string, err error) {
	wrong, err := g.store.Wrong(ctx, ref)
	if err != nil {
		return "", err
	}
	unlock, err := g.store.Lock(ctx, lockPatience)
	if err != nil {
		return "", err
	}
	defer unlock()
	if record, err := g.recordIfAny(); err != nil {
		return "", err
	} else if known, _ := knownAs(record, ref.Version); !known.Same(ref) {
		return "", errReplaced
	}
	if what, err = g.repair(ctx, ref, wrong, damage.Error()); err != nil {
		return "", err
	}
	return what, g.store.Verify(ctx, ref, bootcheck.Content)
}
