package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tope-ota/ota/bootcheck"
)

// adoptStore makes the version store in dir, or makes one of what another program keeps
// there: directories v<version> and plain links current, previous and factory to them.
// No version is moved, and nothing but a manifest is written into one that has none.
// Where all is done already, nothing is.
func (c *command) adoptStore(ctx context.Context, dryRun bool) error {
	dir := c.cfg.Root
	if _, err := os.Stat(dir); err == nil {
		if c.store, err = bootcheck.Open(dir); err != nil {
			return err
		}
		if !dryRun {
			unlock, err := c.store.Lock(ctx, lockWait)
			if err != nil {
				return err
			}
			defer unlock()
		}
		if c.store.Foreign() {
			return c.adoptLinks(ctx, dryRun)
		}
		active, err := c.active()
		if err != nil {
			return err
		}
		if active != nil {
			return c.adoptRest(ctx, active, dryRun)
		}
		if names, err := c.store.VersionNames(); err != nil {
			return err
		} else if len(names) > 0 {
			c.logf("%s holds versions and no link current: the next boot starts the newest intact one; `ota-apply activate VERSION` chooses another", dir)
		}
	}
	if dryRun {
		fmt.Fprintf(c.out, "would make what is missing of the version store %s\n", dir)
		return nil
	}
	if _, err := bootcheck.Create(dir); err != nil {
		return err
	}
	fmt.Fprintf(c.out, "the version store %s is ready; no version is installed\n", dir)
	return nil
}

// adoptLinks takes over the links of another program. The lock must be held.
func (c *command) adoptLinks(ctx context.Context, dryRun bool) error {
	dir := c.store.Dir()
	active, err := c.active()
	switch {
	case errors.Is(err, bootcheck.ErrRecord): // its switch leads to no record: the links name the current version
	case err != nil:
		return err
	case active != nil:
		// There is a record: an adoption was ended before it made the links, or
		// an operator changed them.
		return c.adoptRest(ctx, active, dryRun)
	}
	record, notes, err := c.store.Adoption(ctx, c.cfg.Model, dryRun)
	if err != nil {
		return err
	}
	if !dryRun {
		if err := c.store.Adopt(record); err != nil {
			return err
		}
	}
	for _, l := range record.Links() {
		what := "intact"
		switch {
		case l.Ref == nil:
			what = "none"
		case l.Ref.Digest == "":
			what = "without a manifest: it gets one, of what is there now"
		}
		if l.Ref != nil {
			what = l.Ref.Version + ", " + what
		}
		fmt.Fprintf(c.out, "%-9s %s\n", l.Name, what)
	}
	for _, note := range notes {
		fmt.Fprintf(c.out, "note: %s\n", note)
	}
	if dryRun {
		fmt.Fprintf(c.out, "would adopt %s\n", dir)
		return nil
	}
	fmt.Fprintf(c.out, "%s is adopted\n", dir)
	return nil
}

// adoptRest finishes what an adoption or a setup that was ended has left. The lock must be
// held.
func (c *command) adoptRest(ctx context.Context, active *bootcheck.Active, dryRun bool) error {
	dir := c.store.Dir()
	record, relisted := active.Record, false
	if !dryRun {
		var err error
		if record, relisted, err = c.store.Relist(ctx, record, c.cfg.Model); err != nil {
			return err
		}
	}
	if active.Damage == "" && !relisted {
		if !dryRun {
			if _, err := bootcheck.Create(dir); err != nil {
				return err
			}
			// The adoption that made the links was maybe killed just before they were durable.
			if err := c.store.SyncSwitch(); err != nil {
				return err
			}
		}
		fmt.Fprintf(c.out, "%s is a version store already; current is %s\n", dir, active.Record.Current)
		return nil
	}
	if dryRun {
		fmt.Fprintf(c.out, "would repair %s (%s); current is %s\n", dir, active.Damage, active.Record.Current)
		return nil
	}
	if err := c.store.Adopt(record.Clone()); err != nil {
		return err
	}
	if relisted {
		fmt.Fprintf(c.out, "the versions of %s that were adopted have a manifest now; current is %s\n", dir, record.Current)
		return nil
	}
	fmt.Fprintf(c.out, "%s was repaired (%s); current is %s\n", dir, active.Damage, record.Current)
	return nil
}
