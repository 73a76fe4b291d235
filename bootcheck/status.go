package bootcheck

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// GuardianUnit is the unit that decides which version a boot runs, before its services
// start; ConfirmUnit judges that version afterwards.
const (
	GuardianUnit = "ota-guardian.service"
	ConfirmUnit  = "ota-confirm.service"
)

// FactoryDamage is the file of the run folder that holds a line about what is
// wrong with factory. It is not there while nothing is.
const FactoryDamage = "factory-damage"

// maxFlag bounds what FlagFactory writes, bytes: a line that a person reads, below
// the 4 KiB that Status reads. Three paths may be as long.
const maxFlag = 2 << 10

// FlagFactory makes Status say what is wrong with factory until the next boot;
// empty: nothing is. run is the run folder of the programs.
func FlagFactory(run, text string) error {
	name := filepath.Join(run, FactoryDamage)
	if text == "" {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	if text = OneLine(text); len(text) > maxFlag {
		text = strings.ToValidUTF8(text[:maxFlag], "") + " …"
	}
	return ReplaceFile(name, []byte(text+"\n"), 0o644, false)
}

// Summary is one sentence for a person: what was left, for what, why.
func (l *Rollback) Summary() string {
	why := string(l.Cause)
	switch l.Cause {
	case CauseHealth:
		why = "its health check failed"
	case CauseCrash:
		why = "a service crashed again and again"
	case CauseBoots:
		why = fmt.Sprintf("%d boots had no verdict", l.Attempts)
	case CauseHard:
		why = fmt.Sprintf("%d boots in a row ended in a watchdog reset or a kernel panic", l.Attempts)
	case CauseDamaged:
		why = "it was damaged"
	case CauseRevoked:
		why = "the key that signed it was revoked"
	case CauseOperator:
		why = "a person asked for it"
	case CauseUnrecorded:
		why = "the disk was full and had no room for the reason"
	}
	if l.Check != "" {
		why += fmt.Sprintf(" (%s)", l.Check)
	}
	if l.Level == LevelNone {
		return fmt.Sprintf("version %s failed and nothing else can run: %s", l.From, why)
	}
	return fmt.Sprintf("version %s was left for %s (%s): %s", l.From, l.To, l.Level, why)
}

// Code is the word that begins the "error" of a report about the rollback.
func (l *Rollback) Code() string {
	switch l.Level {
	case LevelPrevious:
		return CodeRolledToPrevious
	case LevelFactory:
		return CodeRolledToFactory
	}
	return CodeRollbackFailed
}

// Status is what `status --json` prints, of both programs.
type Status struct {
	Phase        Phase           `json:"phase"` // empty: nothing was ever installed
	Current      string          `json:"current"`
	Previous     string          `json:"previous"` // empty: none
	Factory      string          `json:"factory"`  // empty: none
	Trial        *Trial          `json:"trial"`
	Blocked      []Blocked       `json:"blocked"`
	LastRollback *Rollback       `json:"last_rollback"`
	Operation    Operation       `json:"operation"`
	Versions     []VersionStatus `json:"versions"`
	FreeBytes    uint64          `json:"free_bytes"`
	Next         string          `json:"next,omitempty"`   // what the next boot puts on trial; empty: nothing else
	ReleaseFloor int64           `json:"release_floor"`    // bundles with a lower release are refused
	RevokedKeys  []string        `json:"revoked_keys"`     // bundles that these signed are refused
	Hold         string          `json:"hold,omitempty"`   // why the device is on hold
	Damage       string          `json:"damage,omitempty"` // what is wrong with the store

	lost bool // the record is, so nothing is known of what it says
}

// VersionStatus is one snapshot of the store.
type VersionStatus struct {
	Version string `json:"version"`
	// State is the first that is true of: current, previous, factory, blocked,
	// confirmed, damaged (its manifest cannot be used), unknown (the caller may not
	// read it), staged (never confirmed).
	State string `json:"state"`
	Size  int64  `json:"size"` // sum of its files, bytes; 0: not known
}

// Status collects what there is to say. progress is where the applier keeps its
// operation, in the run folder of both programs. An empty store has a status. With a
// record that is lost the status comes with an error: it has what is known without.
// Any other error says why nothing could be read, and comes without a status.
func (s *Store) Status(progress string) (*Status, error) {
	status := &Status{Blocked: []Blocked{}, Operation: ReadOperation(progress)}
	record := &Record{}
	active, err := s.Active()
	switch {
	case err == nil:
		record = active.Record
		status.Damage = active.Damage
	case errors.Is(err, ErrEmpty):
		err = nil
	default:
		err = CannotRead(err)
		if !errors.Is(err, ErrRecord) {
			return nil, err
		}
		status.Damage, status.lost = err.Error(), true
	}
	lost := err
	// Found by a check of this boot, which cannot write it into the record.
	if found, err := ReadRegular(filepath.Join(filepath.Dir(progress), FactoryDamage), 4<<10); err == nil {
		status.Damage = strings.TrimPrefix(status.Damage+"; "+strings.TrimSpace(string(found)), "; ")
	}
	keys, err := s.RevokedKeys(record)
	if status.RevokedKeys = []string{}; len(keys) > 0 {
		slices.Sort(keys)
		status.RevokedKeys = keys
	}
	switch {
	case Inconclusive(err) && len(keys) == 0:
		return nil, err
	case err != nil && !Inconclusive(err):
		status.Damage = strings.TrimPrefix(status.Damage+"; "+err.Error(), "; ")
	}
	status.ReleaseFloor = record.Floor
	if record.Next != nil {
		status.Next = record.Next.Version
	}
	status.Phase, status.Trial, status.LastRollback, status.Hold = record.Phase, record.Trial, record.LastRollback, record.HoldReason
	if record.Blocked != nil {
		status.Blocked = record.Blocked
	}
	for i, to := range []*string{&status.Current, &status.Previous, &status.Factory} {
		if ref := record.Links()[i].Ref; ref != nil {
			*to = ref.Version
		}
	}
	if status.Versions, err = s.versionStatus(record); err != nil {
		return nil, err
	}
	free, err := s.Free()
	status.FreeBytes = free.Bytes
	if err == nil {
		err = lost
	}
	return status, err
}

// CannotRead is what a command ends with that needs what Active failed to read.
func CannotRead(err error) error {
	e := &Error{Err: fmt.Errorf("cannot read what runs: %w", err)}
	if !Inconclusive(err) {
		e.Advice = "`ota-guardian boot` mends the record"
	}
	return e
}

func (s *Store) versionStatus(record *Record) ([]VersionStatus, error) {
	names, err := s.VersionNames()
	if err != nil {
		return nil, err
	}
	all := make([]VersionStatus, 0, len(names))
	for _, version := range names {
		v := VersionStatus{Version: version, State: "staged"}
		ref := &Ref{Version: version}
		snapshot, err := s.Snapshot(version)
		switch {
		case err == nil:
			v.Size, ref = snapshot.Manifest.Size, &snapshot.Ref
		case s.plain(version):
			ref, err = &Ref{Version: version, Digest: NoManifest}, nil
		case Inconclusive(err):
			v.State = "unknown"
		case errors.Is(s.There(version), fs.ErrNotExist):
			continue // removed just now
		default:
			v.State = "damaged"
		}
		switch {
		case record.BlockedBy(ref) != nil:
			v.State = "blocked"
		case err == nil && record.IsConfirmed(ref):
			v.State = "confirmed"
		}
		for _, l := range slices.Backward(record.Links()) {
			if l.Ref != nil && l.Ref.Version == version {
				v.State = l.Name
			}
		}
		all = append(all, v)
	}
	return all, nil
}

// journalShown is how many lines of a failed unit's journal a person is shown.
const journalShown = 10

// Print writes the status for a person.
func (st *Status) Print(w io.Writer) {
	or := func(s, empty string) string {
		if s == "" {
			return empty
		}
		return s
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, fmt.Sprintf(format, args...))
	}
	phase := or(string(st.Phase), "nothing installed")
	if st.lost {
		phase = "unknown: the record is lost"
	}
	if st.Hold != "" {
		phase += " (" + st.Hold + ")"
	}
	line("phase", "%s", phase)
	line("current", "%s", or(st.Current, "none"))
	if st.Next != "" {
		line("next", "%s, from the next boot on", st.Next)
	}
	line("previous", "%s", or(st.Previous, "none"))
	line("factory", "%s", or(st.Factory, "none"))
	if st.Trial != nil {
		line("trial", "%d boots without a verdict (%d hard, %d unclean, %d clean)", st.Trial.Attempts(), st.Trial.Hard, st.Trial.Unclean, st.Trial.Clean)
	}
	for _, b := range st.Blocked {
		line("blocked", "%s: %s", b.Version, strings.TrimSuffix(b.Reason+", "+b.Check, ", "))
	}
	for _, id := range st.RevokedKeys {
		line("revoked", "key %s: its bundles are refused", id)
	}
	if st.LastRollback != nil {
		line("rollback", "%s", st.LastRollback.Summary())
		for _, skipped := range st.LastRollback.Skipped {
			line("", "  skipped %s: %s", skipped.Version, skipped.Why)
		}
		for text := range strings.Lines(st.LastRollback.Output) {
			line("", "  %s", strings.TrimRight(text, "\n"))
		}
		if ids := st.LastRollback.BootIDs; len(ids) > 0 {
			line("", "  boots %s", strings.Join(ids, " ")) // for journalctl --boot=
		}
		// The end of it: `status --json` has all.
		for _, text := range st.LastRollback.Journal[max(0, len(st.LastRollback.Journal)-journalShown):] {
			line("", "  %s", text)
		}
	}
	op := st.Operation.Stage
	switch {
	case st.Operation.Stage != StageIdle:
		op += fmt.Sprintf(" %d %% %s", st.Operation.Progress, or(st.Operation.Error, st.Operation.Message))
	case st.Operation.Message != "":
		op += " (" + st.Operation.Message + ")"
	}
	line("operation", "%s", op)
	line("free", "%d MiB", st.FreeBytes>>20)
	if st.Damage != "" {
		line("damage", "%s", st.Damage)
	}
}
