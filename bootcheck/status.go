package bootcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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

// Summary is one sentence for people: what the device rolled back, and why.
func (l *Rollback) Summary() string {
	if l.Level == LevelNone {
		return l.short()
	}
	return "rolled back from " + l.short()
}

// short is Summary as it stands in a table.
func (l *Rollback) short() string {
	if l.Level == LevelNone {
		return fmt.Sprintf("version %s failed and no version is left to roll back to: %s", l.From, l.why())
	}
	return fmt.Sprintf("%s to %s (%s): %s", l.From, l.To, l.Level, l.why())
}

func (l *Rollback) why() string {
	switch l.Cause {
	case CauseHealth:
		return fmt.Sprintf("health check %q failed", l.Check)
	case CauseCrash:
		if said, _, _ := strings.Cut(l.Output, ": "); strings.Contains(said, " crashed ") {
			return said
		}
		return fmt.Sprintf("service crash (%s)", l.Check)
	case CauseBoots:
		return fmt.Sprintf("%d boots ended before it was confirmed", l.Attempts)
	case CauseHard:
		return fmt.Sprintf("%d boots in a row ended in a watchdog reset or a kernel panic", l.Attempts)
	case CauseDamaged:
		return "it is damaged"
	case CauseRevoked:
		return "its key was revoked"
	case CauseOperator:
		return "operator request"
	case CauseUnrecorded:
		return "the disk was full; the journal of that boot has the reason"
	}
	return string(l.Cause)
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
	Schema       int       `json:"schema"` // 1
	Phase        Phase     `json:"phase"`  // empty: nothing was ever installed
	Current      string    `json:"current"`
	Previous     string    `json:"previous"` // empty: none
	Factory      string    `json:"factory"`  // empty: none
	Trial        *Trial    `json:"trial"`
	Blocked      []Blocked `json:"blocked"`
	LastRollback *Rollback `json:"last_rollback"`
	// When current became current, and when it was rolled back last; nil: not known, as
	// the clock was not set or the history does not reach so far.
	ActivatedAt    *time.Time      `json:"activated_at"`
	LastRollbackAt *time.Time      `json:"last_rollback_at"`
	Operation      Operation       `json:"operation"`
	Versions       []VersionStatus `json:"versions"`
	FreeBytes      uint64          `json:"free_bytes"`
	Next           string          `json:"next,omitempty"`   // what the next boot puts on trial; empty: nothing else
	ReleaseFloor   int64           `json:"release_floor"`    // bundles with a lower release are refused
	RevokedKeys    []string        `json:"revoked_keys"`     // bundles that these signed are refused
	Hold           string          `json:"hold,omitempty"`   // why the device is on hold
	Damage         string          `json:"damage,omitempty"` // what is wrong with the store

	lost bool // the record is, so nothing is known of what it says
}

// VersionStatus is one snapshot of the store.
type VersionStatus struct {
	Version string `json:"version"`
	// State is the first that is true of: current, previous, factory, blocked,
	// confirmed, damaged (its manifest cannot be used), unknown (the caller may not
	// read it), staged (never confirmed).
	State  string   `json:"state"`
	States []string `json:"states"` // all that are true
	Size   int64    `json:"size"`   // sum of its files, bytes; 0: not known
	// Of its manifest; nil: that cannot be read.
	Digest      *string    `json:"digest"`
	Release     *int64     `json:"release"`
	InstalledAt *time.Time `json:"installed_at"` // nil: not known
}

// Status collects what there is to say. progress is where the applier keeps its
// operation, in the run folder of both programs. An empty store has a status. With a
// record that is lost the status comes with an error: it has what is known without.
// Any other error says why nothing could be read, and comes without a status.
func (s *Store) Status(progress string) (*Status, error) {
	status := &Status{Schema: 1, Blocked: []Blocked{}, Operation: ReadOperation(progress)}
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
	status.ActivatedAt, status.LastRollbackAt = s.changedAt(record)
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

// changedAt is when current of record became current, and when the last rollback was;
// nil: not known. They are the times of the files, which no decision reads.
func (s *Store) changedAt(record *Record) (activated, rolledBack *time.Time) {
	history, _ := s.History()
	for i, r := range history {
		at := s.WrittenAt(r)
		if i > 0 && !r.Current.Same(history[i-1].Current) {
			activated = at
		}
		if l := r.LastRollback; i > 0 && l != nil && (history[i-1].LastRollback == nil || fmt.Sprint(r.Rollbacks) != fmt.Sprint(history[i-1].Rollbacks)) {
			rolledBack = at
		}
		if i == 0 && r.Generation == 1 {
			activated = at
		}
	}
	return activated, rolledBack
}

// WrittenAt is when the generation of r was written; nil: the clock was not set then.
func (s *Store) WrittenAt(r *Record) *time.Time {
	return writtenAt(filepath.Join(s.generation(r.Generation), recordFile))
}

// firstYear is before all of this project: a file of an earlier year was written before
// the clock was set. Not BuildDate: a newer program looks at older files.
const firstYear = 2026

func writtenAt(name string) *time.Time {
	info, err := os.Stat(name)
	if err != nil || info.ModTime().UTC().Year() < firstYear {
		return nil
	}
	at := info.ModTime().UTC().Truncate(time.Second)
	return &at
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
			v.Digest, v.Release = &snapshot.Ref.Digest, &snapshot.Manifest.Release
			v.InstalledAt = writtenAt(filepath.Join(snapshot.Dir, ManifestPath))
		case Inconclusive(err):
			v.State = "unknown"
		case errors.Is(s.There(version), fs.ErrNotExist):
			continue // removed just now
		default:
			v.State = "damaged"
		}
		is := func(state string, yes bool) {
			if yes {
				v.States = append(v.States, state)
			}
		}
		for _, l := range record.Links() {
			is(l.Name, l.Ref != nil && l.Ref.Version == version)
		}
		is("blocked", record.BlockedBy(ref) != nil)
		is("confirmed", err == nil && record.IsConfirmed(ref))
		if v.States == nil || err != nil {
			v.States = append(v.States, v.State)
		}
		v.State = v.States[0]
		all = append(all, v)
	}
	return all, nil
}
