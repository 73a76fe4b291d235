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
func (c *command) history(asJSON bool) error {
	records, err := c.store.History()
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
			all[i]["time"] = c.store.WrittenAt(r)
			all[i]["hold"], all[i]["next"], all[i]["asked_by"] = bootcheck.OrNull(r.HoldReason), r.Next, bootcheck.OrNull(r.AskedBy) // which a record leaves out
		}
		return bootcheck.WriteJSON(c.out, map[string]any{"schema": bootcheck.OutputSchema, "generations": all})
	}
	rows := [][]string{{"GEN", "TIME", "PHASE", "VERSION", "CHANGE"}}
	var before *bootcheck.Record
	for _, r := range records {
		rows = append(rows, []string{fmt.Sprint(r.Generation), ago(c.store.WrittenAt(r)), string(r.Phase), r.Current.String(), change(before, r)})
		before = r
	}
	bootcheck.Table(c.out, rows)
	return nil
}

// ago is at as people read it now.
func ago(at *time.Time) string {
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
		return "activated" + by(now.AskedBy)
	case rollbackBetween(before, now) != nil:
		return now.LastRollback.Brief()
	case same && now.Phase == bootcheck.PhaseConfirmed && before.Phase != bootcheck.PhaseConfirmed:
		return "confirmed"
	case same && now.Next != nil && (before.Next == nil || !before.Next.Same(&now.Next.Ref)):
		return now.Next.String() + " is activated at the next boot" + by(now.Next.AskedBy)
	case same && now.Trial.Attempts() > before.Trial.Attempts():
		return fmt.Sprintf("boot %d of the trial: %s", now.Trial.Attempts(), ended(before.Trial, now.Trial))
	case same && !now.Factory.Same(before.Factory) && now.Factory != nil:
		return "factory is " + now.Factory.String()
	}
	return ""
}

// by is " by follower"; an operator is not named.
func by(who string) string {
	if who == "" || who == bootcheck.AskedByOperator {
		return ""
	}
	return " by " + bootcheck.Clip(bootcheck.Printable(who), 32)
}

// ended is how the boot ended that now counts and before does not.
func ended(before, now *bootcheck.Trial) string {
	switch {
	case before == nil || now.Hard > before.Hard:
		return LastHard.words()
	case now.Unclean > before.Unclean:
		return LastUnclean.words()
	}
	return LastClean.words()
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

// shownLines of the journal are shown by why: it stays one screen.
const shownLines = 15

// why prints the evidence of the last rollback, or of the last one from version.
func (c *command) why(version string, asJSON bool) error {
	records, err := c.store.History()
	if err != nil {
		return err
	}
	var last *bootcheck.Rollback
	var at *time.Time
	var others []string // versions that were rolled back
	is := func(l *bootcheck.Rollback) bool {
		if l == nil || version == "" || l.From == version {
			return l != nil
		}
		others = append(others, l.From)
		return false
	}
	for i := len(records) - 1; i > 0; i-- {
		if l := rollbackBetween(records[i-1], records[i]); is(l) {
			last, at = l, c.store.WrittenAt(records[i])
			break
		}
	}
	if last == nil && len(records) > 0 { // older than the history
		if l := records[len(records)-1].LastRollback; is(l) {
			last = l
		}
	}
	if asJSON {
		var from, to *bootcheck.VersionInfo
		if last != nil {
			from = new(c.store.Info(bootcheck.Ref{Version: last.From}))
			if last.To != "" {
				to = new(c.store.Info(bootcheck.Ref{Version: last.To}))
			}
		}
		return bootcheck.WriteJSON(c.out, map[string]any{"schema": bootcheck.OutputSchema, "rollback": last, "time": at, "from_version": from, "to_version": to})
	}
	if last == nil {
		fmt.Fprintln(c.out, strings.TrimSuffix("no rollback is recorded from "+version, " from "))
		if like := bootcheck.Nearest(version, others); like != "" {
			fmt.Fprintf(c.log, "hint: did you mean `%s`?\n", like)
		}
		return nil
	}
	line := func(name, text string) {
		fmt.Fprintf(c.out, "%-9s %s\n", name, strings.TrimRight(bootcheck.Printable(text), " "))
	}
	line("rollback", bootcheck.Wrap(10, last.Summary()))
	if at != nil {
		line("time", at.Format(time.RFC3339)+", "+ago(at))
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
	printJournal(line, last)
	if record, err := c.record(); err == nil {
		for _, b := range record.Blocked {
			if b.Version == last.From {
				fmt.Fprintf(c.out, "hint: %s is blocked; `ota-apply unblock %s` allows it again\n", b.Version, b.Version)
			}
		}
	}
	return nil
}

// printJournal prints the end of the journal that l keeps, by line.
func printJournal(line func(name, text string), l *bootcheck.Rollback) {
	name, lines := "journal", l.Journal
	if more := len(lines) - shownLines; more > 0 {
		line(name, fmt.Sprintf("the last %d lines; `ota-guardian why --json` has %d more", shownLines, more))
		name, lines = "", lines[more:]
	}
	for _, text := range lines {
		line(name, text)
		name = ""
	}
}
