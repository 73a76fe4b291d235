package bootcheck

import (
	"cmp"
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
// start; ConfirmUnit confirms it or rolls it back.
const (
	GuardianUnit = "ota-guardian.service"
	ConfirmUnit  = "ota-confirm.service"
)

// Summary is one sentence for people: what the device rolled back, and why.
func (l *Rollback) Summary() string {
	if l.Level == LevelNone {
		return fmt.Sprintf("version %s failed and no version is left to roll back to: %s", l.From, l.why())
	}
	return fmt.Sprintf("rolled back from %s to %s (%s): %s", l.From, l.To, l.Level, l.why())
}

// Brief is Summary for a row of a table: `ota why` has the rest.
func (l *Rollback) Brief() string {
	return fmt.Sprintf("rolled back from %s: %s", l.From, l.briefly())
}

// row is Brief behind the word "rollback".
func (l *Rollback) row() string {
	if l.Level == LevelNone {
		return fmt.Sprintf("none, %s failed: %s", l.From, l.briefly())
	}
	return fmt.Sprintf("%s to %s (%s): %s", l.From, l.To, l.Level, l.briefly())
}

func (l *Rollback) briefly() string {
	why := map[Cause]string{
		CauseHealth: "health check failed", CauseCrash: "service crash", CauseBoots: "too many boots", CauseHard: "system crashes",
		CauseDamaged: "damaged", CauseRevoked: "key revoked", CauseOperator: "operator request", CauseUnrecorded: "disk full",
	}[l.Cause]
	return cmp.Or(why, string(l.Cause))
}

// Detail is Summary and, of a service that crashed, the last line that it wrote.
func (l *Rollback) Detail() string {
	if line := l.lastLine(); line != "" && l.Cause == CauseCrash {
		return l.Summary() + "; its last line: " + line
	}
	return l.Summary()
}

func (l *Rollback) why() string {
	switch l.Cause {
	case CauseHealth:
		return fmt.Sprintf("health check %q failed", l.Check)
	case CauseCrash:
		said, _, _ := strings.Cut(l.Output, ": ")
		if !strings.Contains(said, " crashed ") {
			said = fmt.Sprintf("service crash (%s)", l.Check)
		}
		if l.Seconds > 0 {
			said += fmt.Sprintf(" in %d s", l.Seconds)
		}
		return said
	case CauseBoots:
		if said, ok := strings.CutPrefix(l.Output, "unconfirmed: "); ok { // see Decide
			said, _, _ = strings.Cut(said, ";")
			return said + " before it was confirmed"
		}
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

// lastLine is what the service that failed wrote last to the journal, and not systemd about
// it; empty: nothing is kept.
func (l *Rollback) lastLine() string {
	for _, line := range slices.Backward(l.Journal) {
		// "[    7.540369] device-api[93]: text"
		_, line, _ = strings.Cut(line, "] ")
		who, text, _ := strings.Cut(line, "]: ")
		if name, _, ok := strings.Cut(who, "["); ok && name != "systemd" && text != "" {
			return Clip(text, 120)
		}
	}
	return ""
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
	Watching     *Watching `json:"watching"` // how far the trial has come; nil: it is not watched now
	Blocked      []Blocked `json:"blocked"`
	LastRollback *Rollback `json:"last_rollback"`
	// When current became current, and when it was rolled back last; nil: not known, as
	// the clock was not set or the history does not reach so far.
	ActivatedAt    *time.Time      `json:"activated_at"`
	LastRollbackAt *time.Time      `json:"last_rollback_at"`
	Operation      Operation       `json:"operation"`
	Follow         *Following      `json:"follow"` // what a server asks for; nil: no follower runs
	Versions       []VersionStatus `json:"versions"`
	FreeBytes      uint64          `json:"free_bytes"`
	Next           OrNull          `json:"next"`          // what the next boot puts on trial
	ReleaseFloor   int64           `json:"release_floor"` // bundles with a lower release are refused
	RevokedKeys    []string        `json:"revoked_keys"`  // bundles that these signed are refused
	Hold           OrNull          `json:"hold"`          // why the device is on hold
	Damage         OrNull          `json:"damage"`        // what is wrong with the store
	// The same as current, previous, factory and next say by name; nil: none.
	CurrentVersion  *VersionInfo `json:"current_version"`
	PreviousVersion *VersionInfo `json:"previous_version"`
	FactoryVersion  *VersionInfo `json:"factory_version"`
	NextVersion     *VersionInfo `json:"next_version"`

	lost     bool // the record is, so nothing is known of what it says
	outdated bool // another update was confirmed after the last rollback
}

// VersionStatus is one snapshot of the store.
type VersionStatus struct {
	VersionInfo
	// State is the first that is true of: current, previous, factory, blocked,
	// confirmed, damaged (its manifest cannot be used), unknown (the caller may not
	// read it), staged (never confirmed). States has these, and: next (from the next boot
	// on), revoked (its signature is), retained (confirmed, and none of the first three).
	State       string     `json:"state"`
	States      []string   `json:"states"`       // all that are true
	InstalledAt *time.Time `json:"installed_at"` // nil: not known
	// What it takes on the disk, bytes: Own is freed when it is removed, Shared are the
	// files that other versions have, too. nil: it was not measured, see Measure.
	Own    *uint64 `json:"own_bytes"`
	Shared *uint64 `json:"shared_bytes"`
}

// Status collects what there is to say. progress is where the applier keeps its
// operation, in the run directory of both programs. An empty store has a status. With a
// record that is lost the status comes with an error: it has what is known without.
// Any other error says why nothing could be read, and comes without a status.
func (s *Store) Status(progress string) (*Status, error) {
	status := &Status{Schema: OutputSchema, Blocked: []Blocked{}, Operation: ReadOperation(progress), Follow: ReadFollowing(filepath.Dir(progress))}
	record := &Record{}
	active, err := s.Active()
	switch {
	case err == nil:
		record = active.Record
		status.Damage = OrNull(active.Damage)
	case errors.Is(err, ErrEmpty):
		err = nil
	default:
		err = CannotRead(err)
		if !errors.Is(err, ErrRecord) {
			return nil, err
		}
		status.Damage, status.lost = OrNull(err.Error()), true
	}
	lost := err
	// Found by a check of this boot, which cannot write it into the record.
	if c := ReadFactoryCheck(filepath.Dir(progress), record.Factory); c != nil && c.Damage != "" {
		status.damaged(c.Damage)
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
		status.damaged(err.Error())
	}
	status.ReleaseFloor = record.Floor
	if record.Next != nil {
		status.Next = OrNull(record.Next.Version)
	}
	if record.Phase.Unconfirmed() {
		status.Watching = ReadWatching(filepath.Dir(progress), record.Current.Version)
	}
	status.ActivatedAt, status.LastRollbackAt, status.outdated = s.ChangedAt()
	status.Phase, status.Trial, status.LastRollback, status.Hold = record.Phase, record.Trial, record.LastRollback, OrNull(record.HoldReason)
	if record.Blocked != nil {
		status.Blocked = record.Blocked
	}
	for i, to := range []*string{&status.Current, &status.Previous, &status.Factory} {
		if ref := record.Links()[i].Ref; ref != nil {
			*to = ref.Version
		}
	}
	if status.Versions, err = s.versionStatus(record, len(keys) > 0); err != nil {
		return nil, err
	}
	status.CurrentVersion, status.PreviousVersion, status.FactoryVersion = status.info(record.Current), status.info(record.Previous), status.info(record.Factory)
	if record.Next != nil {
		status.NextVersion = status.info(&record.Next.Ref)
	}
	free, err := s.Free()
	status.FreeBytes = free.Bytes
	if err == nil {
		err = lost
	}
	return status, err
}

// Measure adds what each version takes on the disk, which needs a look at each file.
func (st *Status) Measure(s *Store) error {
	for i := range st.Versions {
		v := &st.Versions[i]
		own, shared, err := s.Occupied(v.Version)
		if err != nil {
			return err
		}
		v.Own, v.Shared = &own.Bytes, &shared
	}
	return nil
}

// damaged adds text to what is wrong with the store.
func (st *Status) damaged(text string) {
	st.Damage = OrNull(strings.TrimPrefix(string(st.Damage)+"; "+text, "; "))
}

// info is ref as JSON shows it, from the versions that were looked at; nil: none.
func (st *Status) info(ref *Ref) *VersionInfo {
	if ref == nil {
		return nil
	}
	for _, v := range st.Versions {
		if v.Version == ref.Version && (v.Digest == nil || ref.Same(&Ref{v.Version, *v.Digest})) {
			return &v.VersionInfo
		}
	}
	return new(ref.info())
}

// ChangedAt is when current became current, when the last rollback was, and whether another
// update was confirmed since; nil: not known. The times are those of files, which no
// decision reads.
func (s *Store) ChangedAt() (activated, rolledBack *time.Time, outdated bool) {
	history, _ := s.History()
	for i, r := range history {
		at := s.WrittenAt(r)
		l := r.LastRollback
		if i == 0 && r.Generation == 1 || i > 0 && !r.Current.Same(history[i-1].Current) {
			activated = at
		}
		if i > 0 && l != nil && (history[i-1].LastRollback == nil || fmt.Sprint(r.Rollbacks) != fmt.Sprint(history[i-1].Rollbacks)) {
			rolledBack, outdated = at, false
		}
		if l != nil && r.Phase == PhaseConfirmed && r.Current.Version != l.To {
			outdated = true
		}
	}
	return activated, rolledBack, outdated
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
	e := &Error{Err: fmt.Errorf("cannot read the record: %w", err)}
	if !Inconclusive(err) {
		e.Advice = "`ota-guardian boot` repairs the record"
	}
	return e
}

// versionStatus is what is in the store; revoked: some key is.
func (s *Store) versionStatus(record *Record, revoked bool) ([]VersionStatus, error) {
	names, err := s.VersionNames()
	if err != nil {
		return nil, err
	}
	all := make([]VersionStatus, 0, len(names))
	for _, version := range names {
		v := VersionStatus{VersionInfo: VersionInfo{Version: version}, State: "staged"}
		ref := &Ref{Version: version}
		snapshot, err := s.Snapshot(version)
		switch {
		case err == nil:
			ref, v.VersionInfo = &snapshot.Ref, snapshot.Manifest.Info(snapshot.Ref.Digest)
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
		linked := false
		for _, l := range record.Links() {
			here := l.Ref != nil && l.Ref.Version == version
			linked = linked || here
			is(l.Name, here)
		}
		confirmed := err == nil && record.IsConfirmed(ref)
		is("blocked", record.BlockedBy(ref) != nil)
		is("confirmed", confirmed)
		if v.States == nil || err != nil {
			v.States = append(v.States, v.State)
		}
		v.State = v.States[0]
		is("retained", confirmed && !linked)
		is("next", record.Next != nil && record.Next.Version == version)
		is("revoked", revoked && err == nil && Exit(s.CheckRevoked(ref, record)) == ExitRefused)
		all = append(all, v)
	}
	return all, nil
}
