package guardian

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// checked is one check of `ota-guardian check --json`.
type checked struct {
	Check    string `json:"check"`
	Required bool   `json:"required"` // may condemn a version; false also when it cannot be run
	OK       bool   `json:"ok"`
	Why      string `json:"why"`    // why it is not good, or what was seen
	Output   string `json:"output"` // what it said when it is not good
	TookMS   int64  `json:"took_ms"`
}

// check runs the health checks once on the version that runs and prints what they
// say. Nothing is changed. The error, with ExitFailed, names the required checks
// that are bad; one that cannot be run is none of them.
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
	checks := health.All(g.cfg, env)
	results := health.Run(ctx, checks)
	if asJSON {
		all := make([]checked, 0, len(results))
		for _, r := range results {
			all = append(all, checked{r.Check, r.Required, r.OK, r.Why, r.Output, r.Took.Milliseconds()})
		}
		if err := printJSON(g.out, map[string]any{"version": env.Version, "checks": all}); err != nil {
			return err
		}
	} else {
		g.printChecks(env.Version, checks, results)
	}
	var failing []string
	for _, r := range results {
		if r.Required && !r.OK {
			failing = append(failing, fmt.Sprintf("%s (%s)", r.Check, r.Why))
		}
	}
	if failing != nil {
		return bootcheck.Errorf(bootcheck.ExitFailed, "", "version %s is not well, required checks fail: %s", env.Version, strings.Join(failing, ", "))
	}
	return nil
}

// printChecks prints results, which are of checks, as a table. Under a check that
// is not good stands what it said.
func (g *guardian) printChecks(version string, checks []health.Check, results []health.Result) {
	const row = "%-*s  %-8s  %-10s  %9s  %s"
	width := len("check")
	for _, r := range results {
		width = max(width, utf8.RuneCountInString(r.Check))
	}
	line := func(columns ...any) {
		fmt.Fprintln(g.out, strings.TrimRight(fmt.Sprintf(row, append([]any{width}, columns...)...), " "))
	}
	fmt.Fprintf(g.out, "version %s\n", version)
	line("check", "kind", "verdict", "took", "why")
	for i, r := range results {
		kind, verdict := "wanted", "BAD"
		if checks[i].Required {
			kind = "required"
		}
		switch {
		case r.OK:
			verdict = "good"
		case checks[i].Required && !r.Required:
			verdict = "cannot run"
		}
		line(r.Check, kind, verdict, r.Took.Round(100*time.Microsecond), r.Why)
		for text := range strings.Lines(r.Output) {
			fmt.Fprintf(g.out, "  %s\n", strings.TrimRight(text, "\n"))
		}
	}
}
