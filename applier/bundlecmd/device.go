package bundlecmd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/doctor"
	"github.com/tope-ota/ota/bootcheck/switchtest"
)

func (c *command) doctor(ctx context.Context, args []string) error {
	var o doctor.Options
	flags := cli.Flags("ota-bundle doctor")
	flags.BoolVar(&o.JSON, "json", false, "")
	flags.StringVar(&o.Config, "config", "", "")
	flags.StringVar(&o.Root, "root", "", "")
	flags.StringVar(&o.Sysroot, "sysroot", "", "")
	if _, err := cli.Parse(flags, args, 0, 0); err != nil {
		return err
	}
	return doctor.Diagnose(ctx, c.stdout, o)
}

func (c *command) switchTest(ctx context.Context, args []string) error {
	flags := cli.Flags("ota-bundle switch-test")
	rounds := flags.Int("rounds", 300, "")
	readers := flags.Int("readers", 2, "")
	asJSON := flags.Bool("json", false, "")
	rest, err := cli.Parse(flags, args, 1, 1)
	if err != nil {
		return err
	}
	if *rounds < 1 || *rounds > 100_000 || *readers < 1 || *readers > 64 {
		return cli.Usagef(flags.Name(), "want 1 to 100000 --rounds and 1 to 64 --readers")
	}
	figures, err := switchtest.Measure(ctx, rest[0], *rounds)
	if err != nil {
		return err
	}
	seen, err := switchtest.Watch(ctx, rest[0], *rounds, *readers)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(c.stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(map[string]any{"rounds": *rounds, "figures": figures, "seen": seen}); err != nil {
			return err
		}
	} else {
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		fmt.Fprintf(c.stdout, "%-44s %10s %10s\n", fmt.Sprintf("%d times each, in turns", *rounds), "median", "p99")
		for _, f := range figures {
			fmt.Fprintf(c.stdout, "%-44s %7.3f ms %7.3f ms\n", f.Name, ms(f.Median), ms(f.P99))
		}
		fmt.Fprintf(c.stdout, "%d switches under %d readers: %d looks, %d versions seen, %d wrong\n", seen.Switches, seen.Readers, seen.Reads, seen.Versions, seen.Wrong)
	}
	if seen.Wrong > 0 {
		return bootcheck.Errorf(bootcheck.ExitDamaged, "", "%d of %d looks saw nothing or a mixture: %s", seen.Wrong, seen.Reads, strings.Join(seen.Examples, "; ")).
			WithAdvice("do not put a version store on this file system")
	}
	return nil
}
