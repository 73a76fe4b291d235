package guardian

import (
	"encoding/json"
	"fmt"

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
		before = r
	}
	return nil
}

// event says in a few words what made now out of before.
func change(before, now *bootcheck.Record) string {
	same := before != nil && before.Current.Same(now.Current)
	switch {
	case now.Phase == bootcheck.PhaseHold:
		return "on hold: " + now.HoldReason
	case (before == nil || !same) && now.Phase == bootcheck.PhaseTrial:
		return "activated"
	case before != nil && !same && now.LastRollback != nil:
		return now.LastRollback.Summary()
	case same && now.Phase == bootcheck.PhaseConfirmed && before.Phase != bootcheck.PhaseConfirmed:
		return "proved itself"
	case same && now.Trial.Attempts() > before.Trial.Attempts():
		return fmt.Sprintf("boot %d without a verdict", now.Trial.Attempts())
	case same && !now.Factory.Same(before.Factory) && now.Factory != nil:
		return "factory is " + now.Factory.String()
	}
	return ""
}

func printJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}
