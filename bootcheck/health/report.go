package health

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// ReportCurrent is Report of the current version of store. env gives what differs for a
// version, and logf tells an operator what is left out.
func ReportCurrent(ctx context.Context, out io.Writer, asJSON bool, cfg *config.Config, store *bootcheck.Store, env func(ctx context.Context, version string) (Env, error), logf func(string, ...any)) error {
	record, err := store.Record()
	if err != nil {
		return err
	}
	if record == nil {
		return bootcheck.ErrEmpty
	}
	e, err := env(ctx, record.Current.Version)
	if err != nil {
		return err
	}
	if e.Units == nil {
		logf("no systemd runs here: units are not checked")
	}
	var version *bootcheck.VersionInfo
	if asJSON {
		version = new(store.Info(*record.Current))
	}
	return Report(ctx, out, cfg, e, version)
}

// Report runs every check once and prints the results: as a table, or as one JSON
// object of version if that is not nil. The error, with ExitFailed, names the required checks that are bad, or
// says that checks were not run.
func Report(ctx context.Context, out io.Writer, cfg *config.Config, env Env, version *bootcheck.VersionInfo) error {
	checks := All(cfg, env)
	results := Run(ctx, checks)
	var err error
	if version != nil {
		err = printJSON(out, version, results)
	} else {
		err = printTable(out, env.Version, checks, results)
	}
	if err == nil {
		err = Unanswered(results)
	}
	if err != nil {
		return err
	}
	var failing []string
	for _, r := range results {
		if r.Required && !r.OK {
			failing = append(failing, fmt.Sprintf("%s (%s)", r.Check, r.Why))
		}
	}
	if failing != nil {
		return bootcheck.Errorf(bootcheck.ExitFailed, "", "version %s fails required checks: %s", env.Version, strings.Join(failing, ", "))
	}
	return nil
}

func printJSON(out io.Writer, version *bootcheck.VersionInfo, results []Result) error {
	type check struct {
		Check    string `json:"check"`
		Required bool   `json:"required"` // may roll back a version; false also when it cannot be run
		OK       bool   `json:"ok"`
		Why      string `json:"why"`    // why it is not good, or what was seen
		Output   string `json:"output"` // what it said when it is not good
		TookMS   int64  `json:"took_ms"`
		NotSetUp bool   `json:"not_set_up"` // nothing listens at the default address: it does not count
	}
	all := make([]check, 0, len(results))
	for _, r := range results {
		all = append(all, check{r.Check, r.Required, r.OK, r.Why, r.Output, r.Took.Milliseconds(), r.NotSetUp})
	}
	return bootcheck.WriteJSON(out, struct {
		Schema int `json:"schema"`
		*bootcheck.VersionInfo
		Checks []check `json:"checks"`
	}{bootcheck.OutputSchema, version, all})
}

// printTable prints results, which are of checks. Under a check that is not good
// stands what it said.
func printTable(out io.Writer, version string, checks []Check, results []Result) error {
	width := len("check")
	for _, r := range results {
		width = max(width, utf8.RuneCountInString(r.Check))
	}
	var b strings.Builder
	line := func(check, kind, result, took, why string) {
		text := fmt.Sprintf("%-*s  %-8s  %-10s  %9s", width, check, kind, result, took)
		sep := "  "
		if utf8.RuneCountInString(text+sep+why) > 80 {
			sep = "\n  "
		}
		b.WriteString(strings.TrimRight(text+sep+why, " ") + "\n")
	}
	fmt.Fprintf(&b, "version %s\n", version)
	line("check", "kind", "result", "took", "why")
	for i, r := range results {
		kind, result := "wanted", "BAD"
		if checks[i].Required {
			kind = "required"
		}
		switch {
		case r.OK:
			result = "good"
		case r.NotSetUp:
			result = "not set up"
			r.Why = strings.TrimPrefix(r.Why, "not set up: ")
		case r.Unanswered != nil, checks[i].Required && !r.Required:
			result = "cannot run"
		}
		line(r.Check, kind, result, r.Took.Round(100*time.Microsecond).String(), r.Why)
		for text := range strings.Lines(r.Output) {
			b.WriteString("  " + strings.TrimRight(text, "\n") + "\n")
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
