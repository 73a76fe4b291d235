package guardian

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

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
		all := make([]map[string]any, len(records))
		for i, r := range records {
			text, err := json.Marshal(r)
			if err == nil {
				err = json.Unmarshal(text, &all[i])
			}
			if err != nil {
				return err
			}
			all[i]["time"] = g.store.WrittenAt(r)
		}
		return printJSON(g.out, map[string]any{"schema": 1, "generations": all})
	}
	rows := [][]string{{"GEN", "TIME", "PHASE", "VERSION", "CHANGE"}}
	var before *bootcheck.Record
	for _, r := range records {
		rows = append(rows, []string{fmt.Sprint(r.Generation), g.ago(g.store.WrittenAt(r)), string(r.Phase), r.Current.String(), change(before, r)})
		before = r
	}
	bootcheck.Table(g.out, rows)
	return nil
}

// ago is at as people read it now.
func (g *guardian) ago(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return bootcheck.Ago(*at, time.Now())
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
		return "confirmed"
	case same && now.Next != nil && (before.Next == nil || !before.Next.Same(&now.Next.Ref)):
		return now.Next.String() + " is activated at the next boot"
	case same && now.Trial.Attempts() > before.Trial.Attempts():
		return fmt.Sprintf("boot %d of the trial: %s", now.Trial.Attempts(), ended(before.Trial, now.Trial))
	case same && !now.Factory.Same(before.Factory) && now.Factory != nil:
		return "factory is " + now.Factory.String()
	}
	return ""
}

// ended is how the boot ended that now counts and before does not.
func ended(before, now *bootcheck.Trial) string {
	switch {
	case before == nil || now.Hard > before.Hard:
		return "system crash"
	case now.Unclean > before.Unclean:
		return "power cut"
	}
	return "reboot"
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
		return now.LastRollback // no version was left to roll back to
	}
	return nil
}

// why prints the evidence of the last rollback, or of the last one from version.
func (g *guardian) why(version string, asJSON bool) error {
	records, err := g.store.History()
	if err != nil {
		return err
	}
	var last *bootcheck.Rollback
	var at *time.Time
	for i := len(records) - 1; i > 0 && at == nil; i-- {
		l := rollbackBetween(records[i-1], records[i])
		if l != nil && (version == "" || l.From == version) {
			last, at = l, g.store.WrittenAt(records[i])
			break
		}
	}
	if last == nil && len(records) > 0 { // older than the history
		if l := records[len(records)-1].LastRollback; l != nil && (version == "" || l.From == version) {
			last = l
		}
	}
	if asJSON {
		return printJSON(g.out, map[string]any{"schema": 1, "rollback": last, "time": at})
	}
	if last == nil {
		fmt.Fprintln(g.out, strings.TrimSuffix("no rollback is recorded from "+version, " from "))
		return nil
	}
	line := func(name, text string) {
		fmt.Fprintf(g.out, "%-9s %s\n", name, strings.TrimRight(bootcheck.Printable(text), " "))
	}
	line("rollback", last.Summary())
	if at != nil {
		line("time", at.Format(time.RFC3339)+", "+g.ago(at))
	}
	if last.Check != "" {
		line("check", last.Check)
	}
	name := "output"
	for text := range strings.Lines(last.Output) {
		line(name, strings.TrimRight(text, "\n"))
		name = ""
	}
	for _, s := range last.Skipped {
		line("skipped", s.Version+": "+s.Why)
	}
	name = "boots"
	for _, id := range last.BootIDs {
		line(name, "journalctl --boot="+id)
		name = ""
	}
	name = "journal"
	for _, text := range last.Journal {
		line(name, text)
		name = ""
	}
	if active, err := g.active(); err == nil && active != nil {
		for _, b := range active.Record.Blocked {
			if b.Version == last.From {
				fmt.Fprintf(g.out, "hint: %s is blocked; `ota-apply unblock %s` allows it again\n", b.Version, b.Version)
			}
		}
	}
	return nil
}

func printJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}
