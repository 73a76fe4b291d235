package guardian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
)

// adopt makes the version store in dir, or makes one of what another program keeps
// there: folders v<version> and plain links current, previous and factory to them.
// No version is moved, and nothing but a manifest is written into one that has none.
// Where all is done already, nothing is.
func adopt(ctx context.Context, g *guardian, dryRun bool) error {
	dir := g.cfg.Root
	if _, err := os.Stat(dir); err == nil {
		if g.store, err = bootcheck.Open(dir); err != nil {
			return err
		}
		if g.store.Foreign() {
			return g.adoptLinks(ctx, dryRun)
		}
		active, err := g.active()
		if err != nil {
			return err
		}
		if active != nil {
			return g.adoptRest(ctx, active, dryRun)
		}
		if names, err := g.store.VersionNames(); err != nil {
			return err
		} else if len(names) > 0 {
			g.logf("%s holds versions and no link current: the next boot runs the newest that is whole, or say which: `ota-apply activate VERSION`", dir)
		}
	}
	if dryRun {
		fmt.Fprintf(g.out, "would make what is missing of the version store %s\n", dir)
		return nil
	}
	if _, err := bootcheck.Create(dir); err != nil {
		return err
	}
	fmt.Fprintf(g.out, "the version store %s is ready; no version is installed\n", dir)
	return nil
}

// adoptLinks takes over the links of another program.
func (g *guardian) adoptLinks(ctx context.Context, dryRun bool) error {
	dir := g.store.Dir()
	active, err := g.active()
	switch {
	case errors.Is(err, bootcheck.ErrRecord): // its switch leads to no record: the links say what runs
	case err != nil:
		return err
	case active != nil:
		// There is a record: an adoption was ended before it made the links, or
		// somebody changed them.
		return g.adoptRest(ctx, active, dryRun)
	}
	if !dryRun {
		unlock, err := g.store.Lock(ctx, lockWait)
		if err != nil {
			return err
		}
		defer unlock()
	}
	record, notes, err := g.store.Adoption(ctx, g.cfg.Model, dryRun)
	if err != nil {
		return err
	}
	if !dryRun {
		if err := g.store.Adopt(record); err != nil {
			return err
		}
	}
	for _, l := range record.Links() {
		what := "whole"
		switch {
		case l.Ref == nil:
			what = "none"
		case l.Ref.Digest == "":
			what = "without a manifest: it gets one, of what is there now"
		}
		if l.Ref != nil {
			what = l.Ref.Version + ", " + what
		}
		fmt.Fprintf(g.out, "%-9s %s\n", l.Name, what)
	}
	for _, note := range notes {
		fmt.Fprintf(g.out, "note: %s\n", note)
	}
	if dryRun {
		fmt.Fprintf(g.out, "would adopt %s\n", dir)
		return nil
	}
	fmt.Fprintf(g.out, "%s is adopted\n", dir)
	return nil
}

// adoptRest finishes what an adoption or a setup that was ended has left.
func (g *guardian) adoptRest(ctx context.Context, active *bootcheck.Active, dryRun bool) error {
	dir := g.store.Dir()
	record, relisted := active.Record, false
	if !dryRun {
		unlock, err := g.store.Lock(ctx, lockWait)
		if err != nil {
			return err
		}
		defer unlock()
		if record, relisted, err = g.store.Relist(ctx, record, g.cfg.Model); err != nil {
			return err
		}
	}
	if active.Damage == "" && !relisted {
		if !dryRun {
			if _, err := bootcheck.Create(dir); err != nil {
				return err
			}
			// The adoption that made the links was maybe killed just before they were durable.
			if err := g.store.Settle(); err != nil {
				return err
			}
		}
		fmt.Fprintf(g.out, "%s is a version store already; current is %s\n", dir, active.Record.Current)
		return nil
	}
	if dryRun {
		fmt.Fprintf(g.out, "would mend %s (%s); current is %s\n", dir, active.Damage, active.Record.Current)
		return nil
	}
	if err := g.store.Adopt(record.Clone()); err != nil {
		return err
	}
	if relisted {
		fmt.Fprintf(g.out, "the versions of %s that were adopted have a manifest now; current is %s\n", dir, record.Current)
		return nil
	}
	fmt.Fprintf(g.out, "%s was mended (%s); current is %s\n", dir, active.Damage, record.Current)
	return nil
}

// printConfig prints the configuration as it counts: of one key its values, one a
// line; of all keys "key=value" for each value. Scripts read it.
func printConfig(g *guardian, key string) error {
	cfg := g.cfg
	all := []struct {
		key    string
		values []string
	}{
		{"root", []string{cfg.Root}},
		{"spool", []string{cfg.Spool}},
		{"keys", cfg.Keys},
		{"model", []string{cfg.Model}},
		{"services", cfg.Services},
		{"keep", []string{fmt.Sprint(cfg.Keep)}},
		{"reserve", []string{fmt.Sprint(int64(cfg.Reserve))}},
		{"run", []string{cfg.Run}},
		{"report.url", []string{cfg.Report.URL}},
	}
	known := false
	for _, l := range all {
		known = known || l.key == key
		for _, v := range l.values {
			switch key {
			case "":
				fmt.Fprintf(g.out, "%s=%s\n", l.key, v)
			case l.key:
				fmt.Fprintln(g.out, v)
			}
		}
	}
	if key != "" && !known {
		var keys []string
		for _, l := range all {
			keys = append(keys, l.key)
		}
		return bootcheck.Errorf(bootcheck.ExitUsage, "", "config does not print %q", key).
			WithAdvice("it prints %v", slices.Sorted(slices.Values(keys)))
	}
	return nil
}
