package guardian

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// history prints what this device ran, oldest first: one line a generation, or
// one JSON object with all of them.
func (g *guardian) history(asJSON bool) error {
	records, err := g.store.History()
	if err != nil {
		return err
	}
	if asJSON {
		if records == nil {
			records = []*bootcheck.Record{}
		}
		return printJSON(g.out, map[string]any{"generations": records})
	}
	var before *bootcheck.Record
	for _, r := range records {
		fmt.Fprintf(g.out, "%-5d %-10s %-16s %s\n", r.Generation, r.Phase, r.Current, change(before, r))
		for _, line := range shown(rollbackBetween(before, r)) {
			fmt.Fprintf(g.out, "%-33s   %s\n", "", line)
		}
		before = r
	}
	return nil
}

// change says in a few words what made now out of before.
func change(before, now *bootcheck.Record) string {
	same := before != nil && before.Current.Same(now.Current)
	switch {
	case now.Phase == bootcheck.PhaseHold:
		return "on hold: " + now.HoldReason
	case (before == nil || !same) && now.Phase == bootcheck.PhaseTrial:
		return "activated"
	case rollbackBetween(before, now) != nil:
		return now.LastRollback.Summary()
	case same && now.Phase == bootcheck.PhaseConfirmed && before.Phase != bootcheck.PhaseConfirmed:
		return "proved itself"
	case same && now.Next != nil && (before.Next == nil || !before.Next.Same(&now.Next.Ref)):
		return now.Next.String() + " runs from the next boot on"
	case same && now.Trial.Attempts() > before.Trial.Attempts():
		return fmt.Sprintf("boot %d without a verdict", now.Trial.Attempts())
	case same && !now.Factory.Same(before.Factory) && now.Factory != nil:
		return "factory is " + now.Factory.String()
	}
	return ""
}

// rollbackBetween is the rollback that made now out of before; nil: something
// else did, or before is not known.
func rollbackBetween(before, now *bootcheck.Record) *bootcheck.Rollback {
	switch {
	case before == nil || now.LastRollback == nil || now.Phase == bootcheck.PhaseTrial:
		return nil
	case !before.Current.Same(now.Current):
		return now.LastRollback
	case now.HoldReason == bootcheck.HoldExhausted && before.Phase != bootcheck.PhaseHold:
		return now.LastRollback // there was nowhere to go
	}
	return nil
}

// shown are the few lines of evidence that tell most about l: why the check
// failed and what it said first, and the last words of the unit. `status` has
// more, and --json all. Empty: there is none.
func shown(l *bootcheck.Rollback) []string {
	if l == nil {
		return nil
	}
	var lines []string
	for text := range strings.Lines(l.Output) {
		if text = strings.TrimRight(bootcheck.Printable(text), " \n"); text != "" && len(lines) < 2 {
			lines = append(lines, text)
		}
	}
	for _, text := range slices.Backward(l.Journal) {
		// What systemd says of a unit that failed is that it failed.
		if !strings.Contains(text, "] systemd[1]: ") {
			return append(lines, bootcheck.Printable(text))
		}
	}
	return lines
}

func printJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}
