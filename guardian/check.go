package guardian

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// checked is one check of `ota-guardian check --json`.
type checked struct {
	Check    string `json:"check"`
	Required bool   `json:"required"` // may condemn a version
	OK       bool   `json:"ok"`
	Why      string `json:"why"`    // why it is not good, or what was seen
	Output   string `json:"output"` // what it said when it is not good
	TookMS   int64  `json:"took_ms"`
}

// check runs the health checks once on the version that runs and prints what they
// say. Nothing is changed. The error is ExitFailed when a required check is bad.
func (g *guardian) check(ctx context.Context, asJSON bool) error {
	active, err := g.active()
	if err != nil {
		return err
	}
	if active == nil {
		return errNothing
	}
	env := health.Env{Version: active.Record.Current.Version}
	if systemd.Running() {
		conn, err := dial(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		env.Units = conn
	} else {
		g.logf("no systemd runs here: units are not checked")
	}
	results := health.Run(ctx, health.All(g.cfg, env))
	if asJSON {
		all := make([]checked, 0, len(results))
		for _, r := range results {
			all = append(all, checked{r.Check, r.Required, r.OK, r.Why, r.Output, r.Took.Milliseconds()})
		}
		if err := printJSON(g.out, map[string]any{"version": env.Version, "checks": all}); err != nil {
			return err
		}
	} else {
		g.printChecks(env.Version, results)
	}
	if r, bad := health.Failing(results); bad {
		return bootcheck.Errorf(bootcheck.ExitFailed, "", "version %s is not well: %s: %s", env.Version, r.Check, r.Why)
	}
	return nil
}

func (g *guardian) printChecks(version string, results []health.Result) {
	width := len("check")
	for _, r := range results {
		width = max(width, len(r.Check))
	}
	fmt.Fprintf(g.out, "version %s\n%-*s  %-8s  %-4s  %8s  %s\n", version, width, "check", "kind", "", "took", "why")
	for _, r := range results {
		kind, verdict := "wanted", "BAD"
		if r.Required {
			kind = "required"
		}
		if r.OK {
			verdict = "good"
		}
		line := fmt.Sprintf("%-*s  %-8s  %-4s  %8s  %s", width, r.Check, kind, verdict, r.Took.Round(100*time.Microsecond), r.Why)
		fmt.Fprintln(g.out, strings.TrimRight(line, " "))
		for text := range strings.Lines(r.Output) {
			fmt.Fprintf(g.out, "%-*s  %s\n", width, "", strings.TrimRight(text, "\n"))
		}
	}
}
