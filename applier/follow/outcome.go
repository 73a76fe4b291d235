package follow

import (
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// What became of a version.
const (
	pending   = iota // it is on trial
	good             // it is confirmed
	bad              // it was rolled back, is held, or was replaced
	unchanged        // the switch was not made
)

// trialOutcome says by record, which may be nil, what became of the version of job after its
// switch; text is why it is bad.
func trialOutcome(record *bootcheck.Record, job *Job) (v int, text []string) {
	ref := job.ref()
	switch {
	case record == nil:
		return unchanged, nil
	case record.Current.Same(ref) && record.Phase == bootcheck.PhaseHold:
		return bad, append([]string{fmt.Sprintf("version %s failed and the device is on hold (%s)", ref, record.HoldReason)}, evidence(record, ref)...)
	case record.Current.Same(ref) && record.Phase == bootcheck.PhaseConfirmed:
		return good, nil
	case record.Current.Same(ref):
		return pending, nil
	case record.BlockedBy(ref) != nil:
		if l := record.LastRollback; l != nil && l.From == ref.Version {
			return bad, append([]string{l.Summary()}, evidence(record, ref)...)
		}
		return bad, []string{blockedText(record.BlockedBy(ref))}
	case record.Current != nil && record.Current.Digest == job.Before:
		return unchanged, nil
	case record.IsConfirmed(ref):
		return good, nil
	}
	return bad, []string{fmt.Sprintf("version %s was replaced by %s before it was confirmed", ref, record.Current)}
}

// evidence is the last rollback of ref in lines.
func evidence(record *bootcheck.Record, ref *bootcheck.Ref) (lines []string) {
	l := record.LastRollback
	if l == nil || l.From != ref.Version {
		return nil
	}
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, name+": "+value)
		}
	}
	add("version", l.From)
	add("runs", l.To)
	add("level", l.Level)
	add("cause", string(l.Cause))
	add("check", l.Check)
	add("attempts", fmt.Sprint(l.Attempts))
	last := func(name, text string, n int) {
		all := strings.Split(strings.TrimSpace(text), "\n")
		for _, line := range all[max(0, len(all)-n):] {
			add(name, line)
		}
	}
	last("output", l.Output, 10)
	last("journal", strings.Join(l.Journal, "\n"), 25)
	return lines
}

// Attributes are what the server may know of the device.
type Attributes map[string]string

// attributes say which version is current, also if the server expects another, and what the server
// calls it: nil where that is not known, or the version is not confirmed.
func (f *Follower) attributes() (a Attributes, installed *Installed) {
	a = Attributes{"ota_phase": "unknown"}
	record, err := f.Store.Record()
	if err != nil {
		return a, nil
	}
	if a["ota_phase"] = "empty"; record == nil {
		return a, nil
	}
	a["ota_phase"] = string(record.Phase)
	for _, l := range record.Links() {
		name := "ota_" + l.Name
		if l.Name == "current" {
			name = "ota_version"
		}
		a[name] = ""
		if l.Ref != nil {
			a[name] = l.Ref.Version
		}
	}
	if record.Current != nil {
		a["ota_digest"] = record.Current.Digest
	}
	var blocked []string
	for _, b := range record.Blocked {
		blocked = append(blocked, b.Version)
	}
	a["ota_blocked"] = clip(strings.Join(blocked, " "), 128) // hawkBit's longest value
	if l := record.LastRollback; l != nil {
		a["ota_rollback"] = clip(l.Summary(), 128)
	}
	if i := f.state.Installed; i != nil && record.Phase == bootcheck.PhaseConfirmed {
		if installed = i; i.Digest != "" && i.Digest != record.Current.Digest { // an operator installed it, or rolled back to it
			installed = &Installed{Name: i.Name, Version: record.Current.Version}
		}
	}
	return a, installed
}
