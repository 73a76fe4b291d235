package bootcheck

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// What `status`, `list` and `history` show to people. JSON has the same, exact.

// Size is n bytes as people read them: "21 B", "1.9 KiB", "64 MiB", "70.1 GiB".
func Size(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	units, v := "KMGTPE", float64(n)/(1<<10)
	for v >= 1023.95 && len(units) > 1 {
		units, v = units[1:], v/(1<<10)
	}
	return fmt.Sprintf("%s %ciB", strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0"), units[0])
}

// Ago is the time t as people read it at now: "12 s ago", "5 min ago", "2 h ago",
// "4 d ago", and the date after 30 days or while the clock is not set. "-": t is not
// known.
func Ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case t.IsZero():
		return "-"
	case d < 0 || d >= 30*24*time.Hour:
		return t.UTC().Format(time.DateOnly)
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return fmt.Sprintf("%d d ago", d/(24*time.Hour))
}

// BootLimits are how many boots of a trial are too many, by how the boot before each
// ended. The classes are counted apart: a version may use up a part of each.
type BootLimits struct{ Hard, Unclean, Clean int }

// ShowStatus writes the Status of s to w, for an operator or as JSON. Where a status comes
// with an error, it does both.
func (s *Store) ShowStatus(w io.Writer, progress string, asJSON bool, limits BootLimits) error {
	status, err := s.Status(progress)
	switch {
	case status == nil:
	case asJSON:
		err = errors.Join(err, WriteJSON(w, status))
	default:
		status.Print(w, limits, time.Now())
	}
	return err
}

// Print writes the status on a screen of 80 columns.
func (st *Status) Print(w io.Writer, limits BootLimits, now time.Time) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, Wrap(10, fmt.Sprintf(format, args...)))
	}
	phase := st.phase()
	word := phase[:len(phase)-len(strings.TrimLeft(phase, "abcdefghijklmnopqrstuvwxyz"))]
	fmt.Fprintf(w, "%-9s ", "phase")
	Paint(w, st.colour(), word)
	fmt.Fprintln(w, phase[len(word):])
	width := max(len(st.Current), len(st.Previous), len(st.Factory), len("none"))
	version := func(name, version string, activated *time.Time) {
		var known []string
		if i := slices.IndexFunc(st.Versions, func(v VersionStatus) bool { return v.Version == version }); i >= 0 && counted(st.Versions[i].Release) {
			known = append(known, fmt.Sprintf("release %d", *st.Versions[i].Release))
		}
		if activated != nil {
			known = append(known, "activated "+Ago(*activated, now))
		}
		if version == "" {
			version = "none"
		}
		fmt.Fprintf(w, "%-9s %s\n", name, strings.TrimRight(fmt.Sprintf("%-*s  %s", width, version, strings.Join(known, ", ")), " "))
	}
	version("current", st.Current, st.ActivatedAt)
	if st.Next != "" {
		line("next", "%s, from the next boot on", st.Next)
	}
	version("previous", st.Previous, nil)
	version("factory", st.Factory, nil)
	if t := st.Trial; t != nil {
		line("trial", "boots: %d of %d crashes, %d of %d power cuts, %d of %d reboots", t.Hard, limits.Hard, t.Unclean, limits.Unclean, t.Clean, limits.Clean)
	}
	if l := st.LastRollback; l != nil && !st.outdated {
		when := ""
		if st.LastRollbackAt != nil {
			when = Ago(*st.LastRollbackAt, now) + ", "
		}
		line("rollback", "%s%s", when, l.row())
		line("", "hint: `ota-guardian why` shows the evidence")
	}
	for _, b := range st.Blocked {
		fmt.Fprintf(w, "blocked   %-*s  %s\n", width, b.Version, Wrap(12+width, b.why()))
	}
	for _, id := range st.RevokedKeys {
		line("revoked", "key %s: its bundles are refused", id)
	}
	if op := st.Operation; op.Error != "" {
		if l := st.LastRollback; l == nil || st.outdated || !strings.HasPrefix(op.Error, l.Code()+": ") { // the row above says it
			line("install", "%s: %s", op.Stage, op.Error)
		}
	} else if op.Stage != StageIdle && op.Stage != StageSuccess {
		line("install", "%s %d %%: %s", op.Stage, op.Progress, op.Message)
	} else if op.Stage == StageIdle && op.Message != "" {
		line("install", "%s", op.Message)
	}
	if f := st.Follow; f != nil {
		if f.Version != "" {
			line("follow", "%s", f.text(now))
		}
		if f.Error != "" {
			line("server", "%s", f.Error)
		}
		if n := f.UnchangedDays; n != nil && *n >= 30 {
			line("channel", "unchanged for %d days of power", *n)
			line("", "hint: compare its serial with the publisher's: `ota-bundle channel inspect`")
		}
	}
	line("free", "%s", Size(int64(st.FreeBytes)))
	if st.Damage != "" {
		line("damage", "%s", st.Damage)
	}
}

// counted reports whether a release is known and counts, see bundle's manifest: 0 does not.
func counted(release *int64) bool { return release != nil && *release > 0 }

// phase is what stands behind "phase".
func (st *Status) phase() string {
	switch {
	case st.lost:
		return "unknown: the record is lost"
	case st.Phase == "":
		return "nothing installed"
	case st.Hold != "":
		return fmt.Sprintf("hold: %s (%s)", HoldText(string(st.Hold)), st.Hold)
	}
	if w := st.Watching; w != nil {
		text := string(st.Phase) + ", " + w.Steady()
		if !w.OK && w.Check != "" {
			text += ", " + w.CheckResult()
		}
		return text
	}
	return string(st.Phase)
}

// colour is that of the phase.
func (st *Status) colour() Colour {
	switch st.Phase {
	case PhaseConfirmed:
		return Green
	case PhaseHold:
		return Red
	}
	return Yellow
}

// A Colour of a terminal, by its number in an escape sequence.
type Colour int

const (
	Red    Colour = 31
	Green  Colour = 32
	Yellow Colour = 33
)

// Paint writes text to w, in colour c if w shows colours: see Paint of cli.Output.
func Paint(w io.Writer, c Colour, text string) {
	if p, ok := w.(interface{ Paint(Colour, string) }); ok {
		p.Paint(c, text)
		return
	}
	_, _ = io.WriteString(w, text)
}

// HoldText is why a device is on hold, of a Record's HoldReason.
func HoldText(reason string) string {
	switch reason {
	case HoldExhausted:
		return "no version left to roll back to"
	case HoldEnvironment:
		return "the same check fails with two versions"
	}
	return "the operator must act"
}

// Failed is how b failed on this device: `check "device-api answers" failed here`.
func (b *Blocked) Failed() string {
	switch {
	case b.Check != "":
		return fmt.Sprintf("check %q failed here", b.Check)
	case b.Reason == string(CauseOperator):
		return "the operator rolled it back"
	}
	return fmt.Sprintf("it failed here (%s)", b.Reason)
}

// why is the reason that b is blocked.
func (b *Blocked) why() string {
	if b.Check == "" {
		return b.Reason
	}
	return fmt.Sprintf("%s, check %q", b.Reason, b.Check)
}

// PrintList writes the versions, the newest name first. OWN is what is freed when the
// version is removed.
func (st *Status) PrintList(w io.Writer, now time.Time) {
	rows := [][]string{{"VERSION", "RELEASE", "STATE", "SIZE", "OWN", "INSTALLED"}}
	for _, v := range slices.Backward(st.Versions) {
		release, size, own, installed := "-", "-", "-", "-"
		if counted(v.Release) {
			release = fmt.Sprint(*v.Release)
		}
		if v.Size != nil {
			size = Size(*v.Size)
		}
		if v.Own != nil {
			own = Size(int64(*v.Own))
		}
		if v.InstalledAt != nil {
			installed = Ago(*v.InstalledAt, now)
		}
		states := slices.Clone(v.States)
		if len(states) > 1 { // what a link names was confirmed, or is on trial, as status says
			states = slices.DeleteFunc(states, func(s string) bool { return s == "confirmed" || s == "staged" })
		}
		rows = append(rows, []string{v.Version, release, strings.Join(states, ","), size, own, installed})
	}
	Table(w, rows)
}

// Table writes rows as columns, two spaces apart.
func Table(w io.Writer, rows [][]string) {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := ""
		for i, cell := range row {
			line += fmt.Sprintf("%-*s  ", width[i], cell)
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}
