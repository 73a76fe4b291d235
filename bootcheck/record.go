package bootcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Schema is the record's format that this program writes. A record with a
// higher number is read as far as it is known and its other keys are kept.
const Schema = 1

// Phase says where a device stands between two versions. It is one named
// constant, never a pair of booleans that could contradict each other.
type Phase string

const (
	// PhaseConfirmed: current was confirmed. Nothing is counted, nothing is written at a boot.
	PhaseConfirmed Phase = "confirmed"
	// PhaseTrial: a new version runs until it is confirmed.
	PhaseTrial Phase = "trial"
	// PhaseFallback: an older version runs again because the newer one failed; it is on trial itself.
	PhaseFallback Phase = "fallback"
	// PhaseFactory: factory runs because everything else failed; nothing stands behind it, so it is never counted.
	PhaseFactory Phase = "factory"
	// PhaseHold: nothing switches and nothing reboots by itself; an operator or a new version ends it.
	PhaseHold Phase = "hold"
)

// Counted reports whether a boot in this phase counts against the current version.
func (p Phase) Counted() bool { return p == PhaseTrial || p == PhaseFallback }

// Unconfirmed reports whether the current version still has to be confirmed.
func (p Phase) Unconfirmed() bool { return p == PhaseTrial || p == PhaseFallback || p == PhaseFactory }

func (p Phase) known() bool { return p.Unconfirmed() || p == PhaseConfirmed || p == PhaseHold }

// Ref names a version and the content it had when it was installed. Two trees
// with the same version and different digests are not the same version.
type Ref struct {
	Version string `json:"version"` // without a leading path; "1.2.0" lives in the directory v1.2.0
	Digest  string `json:"digest"`  // "sha256:…" of its manifest; NoManifest: it has none; empty: not known (read from a link)
}

func (r *Ref) String() string {
	if r == nil {
		return "none"
	}
	return r.Version
}

// Same reports whether both name one version with one content. An unknown
// digest is compared by version alone. No version is the same as none.
func (r *Ref) Same(other *Ref) bool {
	if r == nil || other == nil || r.Version != other.Version {
		return false
	}
	return r.Digest == "" || other.Digest == "" || r.Digest == other.Digest
}

// Trial is what is counted while a version has to be confirmed.
type Trial struct {
	// BootID is the boot that was counted last, or in which the switch was made:
	// no boot is counted twice, and the boot of the switch is not counted as one that came up.
	// It is the same boot only if the run directory has its mark, too, see BootSeen.
	BootID string `json:"boot_id"`
	// Boots that ended unconfirmed, by how the boot before ended.
	Hard    int `json:"hard"`    // watchdog reset, kernel panic, reset by the guardian
	Unclean int `json:"unclean"` // the power went
	Clean   int `json:"clean"`   // an orderly reboot
	// Baseline is how the checks stood just before the switch. A check
	// that is false here failed already and does not roll back the new version.
	Baseline map[string]bool `json:"baseline,omitempty"`
	// BootIDs are the boots that were counted, oldest first.
	BootIDs []string `json:"boot_ids,omitempty"`
}

// Attempts is the number of boots counted so far.
func (t *Trial) Attempts() int {
	if t == nil {
		return 0
	}
	return t.Hard + t.Unclean + t.Clean
}

// Blocked is a version that failed here and is not run again unless an operator says so.
type Blocked struct {
	Ref
	Reason string `json:"reason"` // a Cause
	Check  string `json:"check"`  // the health check that failed; empty: none did
}

// Cause is why a version was rolled back.
type Cause string

const (
	CauseHealth   Cause = "health"     // a required check failed until the deadline
	CauseCrash    Cause = "crash-loop" // a service failed until systemd gave up restarting it
	CauseBoots    Cause = "boots"      // too many boots while unconfirmed
	CauseHard     Cause = "hard-boots" // a confirmed version, and too many boots in a row ended in a watchdog reset or a kernel panic
	CauseDamaged  Cause = "damaged"    // files are missing or differ from the manifest
	CauseRevoked  Cause = "revoked"    // never confirmed, and the key that signed it was revoked
	CauseOperator Cause = "operator"   // an operator asked for it
	// CauseUnrecorded: the disk had no room for the cause, see RollBack of Store. The
	// journal of that boot has it.
	CauseUnrecorded Cause = "unrecorded"
)

// Levels of a rollback: what the device rolled back to.
const (
	LevelPrevious = "previous"
	LevelFactory  = "factory"
	LevelNone     = "none" // nothing to roll back to: hold
)

// Rollback is the evidence of the last rollback. It is kept until the next one.
type Rollback struct {
	From     string   `json:"from"`
	To       string   `json:"to"` // empty with LevelNone
	Level    string   `json:"level"`
	Cause    Cause    `json:"cause"`
	Check    string   `json:"check"`    // the health check that failed; empty: none did
	Output   string   `json:"output"`   // what it said last, at most 4 KiB
	Attempts int      `json:"attempts"` // boots that were counted against From
	BootIDs  []string `json:"boot_ids"` // those boots, oldest first
	// Journal is what the unit that failed wrote last, oldest line first: at most
	// 50 lines and 16 KiB. Empty: no unit failed, or nothing keeps a journal.
	Journal []string `json:"journal,omitempty"`
	// Seconds is how long the service crashed and was restarted, rounded up. 0: none
	// crashed, or nothing keeps a journal.
	Seconds  int  `json:"crash_seconds,omitempty"`
	Reported bool `json:"reported"` // device-api has been told
	// Skipped are the versions that came before To in the order of a rollback, and
	// why they do not run. Empty: none did, or they are blocked.
	Skipped []Skipped `json:"skipped,omitempty"`
}

// Skipped is a version that a rollback stepped over.
type Skipped struct {
	Version string `json:"version"`
	Why     string `json:"why"` // damage, or why it could not be looked at; at most 300 bytes
}

// RolledBack makes l the last rollback of r, and counts it by its cause and level.
// Of what the failed version printed, the record keeps what is Printable.
func (r *Record) RolledBack(l *Rollback) {
	l.Output = Printable(l.Output)
	r.LastRollback = l
	if l.Level != LevelNone {
		r.AskedBy = ""
	}
	if r.Rollbacks == nil {
		r.Rollbacks = make(map[Cause]map[string]uint64)
	}
	if r.Rollbacks[l.Cause] == nil {
		r.Rollbacks[l.Cause] = make(map[string]uint64)
	}
	r.Rollbacks[l.Cause][l.Level]++
}

// Record is everything the device remembers about its versions: the current version, what
// is on trial, what is blocked and why. A Record is a value to be replaced
// whole by Commit; one on disk is never edited.
type Record struct {
	Schema       int       `json:"schema"`
	Generation   uint64    `json:"generation"` // set by Commit
	Phase        Phase     `json:"phase"`
	Current      *Ref      `json:"current"`  // nil only before the first install
	Previous     *Ref      `json:"previous"` // what a rollback prefers; nil: none
	Factory      *Ref      `json:"factory"`  // nil: none made yet
	Trial        *Trial    `json:"trial"`    // non-nil exactly in the phases trial and fallback
	HoldReason   string    `json:"hold,omitempty"`
	AskedBy      string    `json:"asked_by,omitempty"`  // who activated Current: AskedByOperator, AskedByFollower or a service; empty: not known, or a rollback
	Confirmed    []Ref     `json:"confirmed,omitempty"` // versions that were confirmed here, oldest first
	Floor        int64     `json:"release_floor"`       // highest release counter that ever was confirmed here
	Blocked      []Blocked `json:"blocked"`
	LastRollback *Rollback `json:"last_rollback"`
	// RevokedKeys are the keys that were revoked here: the second copy of what the
	// store's file has, see RevokedKeys of Store.
	RevokedKeys []string `json:"revoked_keys,omitempty"`
	// HardStreak are the boots of a confirmed version, oldest first, before each
	// of which the machine ended in a watchdog reset or a kernel panic, in a row up
	// to now, and none of which was healthy. Empty, as nearly always: the last one
	// did not, or was.
	HardStreak []string `json:"hard_streak,omitempty"`
	// WatchdogAlways: the watchdog's bit was set after the last orderly shutdown that
	// left its mark, so it says nothing about how a boot ended.
	WatchdogAlways bool `json:"watchdog_always,omitempty"`
	// WatchdogHealthy is how many boots in a row began with the bit set and were
	// healthy. Five of them: it says nothing either, until it is clear once.
	WatchdogHealthy int `json:"watchdog_healthy,omitempty"`
	// LastPanic is what the kernel's panic store held of panics at a boot that looked last:
	// the same again is no new panic. Empty: nothing was ever there.
	LastPanic string `json:"last_panic,omitempty"`
	// Next is a version that the next boot puts on trial. nil, as nearly always: none.
	Next *Next `json:"next,omitempty"`
	// Rollbacks counts every rollback of this device, see RolledBack. Here, and not
	// in the history, of which the oldest part goes: the switch and its count are
	// one commit, so that none is counted twice or not at all.
	Rollbacks map[Cause]map[string]uint64 `json:"rollbacks,omitempty"`

	// unknown are the keys that this program does not know, and below those of the
	// objects in the record, by place and by what they are about: see keepUnknown.
	// Neither is ever changed, so clones share them.
	unknown unknownKeys
	below   map[string]unknownKeys
}

// Next is a version that was activated for the next boot.
type Next struct {
	Ref
	// Baseline is how the checks stood when that was asked for.
	Baseline map[string]bool `json:"baseline,omitempty"`
	AskedBy  string          `json:"asked_by,omitempty"` // that of Record, then
	// AllowDowngrade: its release may be below the lowest that is accepted.
	AllowDowngrade bool `json:"allow_downgrade,omitempty"`
}

// Who asks for a version, as AskedBy of a Record says. A service of the configuration
// has its own name, as "device-api".
const (
	AskedByOperator = "operator"
	AskedByFollower = "follower" // for the server of [follow]
)

// Why a hold was entered.
const (
	HoldExhausted   = "exhausted"   // the current version failed and nothing is left to roll back to
	HoldEnvironment = "environment" // two versions fail the same check: it is not the version
)

// Clone returns a copy that shares nothing that a caller may change.
func (r *Record) Clone() *Record {
	c := *r
	c.Current, c.Previous, c.Factory = cloned(r.Current), cloned(r.Previous), cloned(r.Factory)
	if c.Trial = cloned(r.Trial); c.Trial != nil {
		c.Trial.Baseline = maps.Clone(c.Trial.Baseline)
		c.Trial.BootIDs = slices.Clone(c.Trial.BootIDs)
	}
	if l := cloned(r.LastRollback); l != nil {
		l.BootIDs = slices.Clone(l.BootIDs)
		l.Journal = slices.Clone(l.Journal)
		l.Skipped = slices.Clone(l.Skipped)
		c.LastRollback = l
	}
	c.RevokedKeys = slices.Clone(r.RevokedKeys)
	if c.Next = cloned(r.Next); c.Next != nil {
		c.Next.Baseline = maps.Clone(c.Next.Baseline)
	}
	c.HardStreak = slices.Clone(r.HardStreak)
	c.Rollbacks = maps.Clone(r.Rollbacks)
	for cause, levels := range c.Rollbacks {
		c.Rollbacks[cause] = maps.Clone(levels)
	}
	c.Confirmed = slices.Clone(r.Confirmed)
	c.Blocked = slices.Clone(r.Blocked)
	return &c
}

func cloned[T any](p *T) *T {
	if p == nil {
		return nil
	}
	return new(*p)
}

// Activate is the record that puts ref on trial, as by asked for, in the boot bootID, which
// is not counted as one that came up. r is nil on a new device. previous becomes the
// version that runs only if that was confirmed: a trial that follows a trial rolls
// back to the same version as the first. When that is ref itself, it becomes the
// newest other one that was confirmed and that intact says may run.
func (r *Record) Activate(ref *Ref, by, bootID string, baseline map[string]bool, intact func(*Ref) bool) *Record {
	next := &Record{Schema: Schema}
	if r != nil {
		next = r.Clone()
		if current := r.Current; r.IsConfirmed(current) && r.BlockedBy(current) == nil {
			next.Previous = current
		}
		if next.Previous.Same(ref) {
			next.Previous = r.newestConfirmed(func(c *Ref) bool { return !c.Same(ref) && r.BlockedBy(c) == nil && intact(c) })
		}
	}
	next.Unblock(ref.Version)
	next.Current, next.Next, next.AskedBy = ref, nil, by
	next.Phase, next.HoldReason, next.HardStreak = PhaseTrial, "", nil
	next.Trial = &Trial{BootID: bootID, Baseline: baseline}
	return next
}

// BlockedBy returns why ref must not run, or nil.
func (r *Record) BlockedBy(ref *Ref) *Blocked {
	for i := range r.Blocked {
		if r.Blocked[i].Ref.Same(ref) {
			return &r.Blocked[i]
		}
	}
	return nil
}

// RollbackOf is the rollback from ref, which is not current any more; nil: the device left it in
// another way. Where it left ref for damage, ref is not blocked.
func (r *Record) RollbackOf(ref *Ref) *Rollback {
	l := r.LastRollback
	if l == nil || l.From != ref.Version || r.Current.Same(ref) ||
		r.BlockedBy(ref) == nil && (l.Cause != CauseDamaged || l.To != r.Current.Version) {
		return nil
	}
	return l
}

// Block remembers that ref must not run again by itself. The newest reason of a
// version replaces its older one.
func (r *Record) Block(ref Ref, reason Cause, check string) {
	r.Unblock(ref.Version)
	r.Blocked = append(r.Blocked, Blocked{Ref: ref, Reason: string(reason), Check: check})
	if n := len(r.Blocked); n > maxBlocked {
		r.Blocked = slices.Clone(r.Blocked[n-maxBlocked:])
	}
}

// maxBlocked bounds the record of a device that is sent bad versions for years.
const maxBlocked = 64

// Unblock forgets every block of version and reports whether there was one.
func (r *Record) Unblock(version string) bool {
	n := len(r.Blocked)
	r.Blocked = slices.DeleteFunc(slices.Clone(r.Blocked), func(b Blocked) bool { return b.Version == version })
	return len(r.Blocked) != n
}

// IsConfirmed reports whether ref was confirmed on this device.
func (r *Record) IsConfirmed(ref *Ref) bool {
	return slices.ContainsFunc(r.Confirmed, func(c Ref) bool { return c.Same(ref) })
}

// Confirm notes that ref was confirmed, as the newest of those that did.
func (r *Record) Confirm(ref Ref) {
	r.Confirmed = slices.DeleteFunc(slices.Clone(r.Confirmed), func(c Ref) bool { return c.Version == ref.Version })
	r.Confirmed = append(r.Confirmed, ref)
	if n := len(r.Confirmed); n > maxBlocked {
		r.Confirmed = slices.Clone(r.Confirmed[n-maxBlocked:])
	}
}

// ErrRecord is a record that cannot be used. The candidate is broken, not the
// device: the reader looks for an older one.
var ErrRecord = errors.New("unusable record")

// maxRecord bounds what is read of a record, in bytes: the longest that Commit writes
// is below 180 KiB, and what encoding/json makes of empty things is 20 times as long.
const maxRecord = 256 << 10

// ParseRecord reads a record. Keys that it does not know are kept for
// MarshalJSON. Every error wraps ErrRecord.
func ParseRecord(data []byte) (*Record, error) {
	if len(data) > maxRecord {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrRecord, len(data), maxRecord)
	}
	type plain Record // without the methods: no recursion
	var r Record
	if err := ReadJSON(data, (*plain)(&r)); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrRecord, err)
	}
	r.keepUnknown(data)
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return &r, nil
}

// MarshalJSON writes the record with all keys that ParseRecord did not know.
func (r *Record) MarshalJSON() ([]byte, error) {
	type plain Record
	c := *r
	if c.Blocked == nil {
		c.Blocked = []Blocked{}
	}
	mine, err := json.Marshal((*plain)(&c))
	if err != nil {
		return nil, err
	}
	return r.withUnknown(mine), nil
}

// check says what makes a record unusable: the same for one that was read and
// one that is to be written.
func (r *Record) check() error {
	if r.Schema < 1 {
		return fmt.Errorf("schema %d, want 1 or newer", r.Schema)
	}
	// A newer program may know more phases: Decide leaves those alone.
	if !r.Phase.known() && r.Schema <= Schema {
		return fmt.Errorf("phase %q is not known", r.Phase)
	}
	if r.Current == nil {
		return errors.New("it names no current version")
	}
	for _, link := range r.Links() {
		if link.Ref != nil && !ValidVersion(link.Ref.Version) {
			return fmt.Errorf("%s: %q cannot be a version", link.Name, link.Ref.Version)
		}
	}
	if r.Next != nil && !ValidVersion(r.Next.Version) {
		return fmt.Errorf("next: %q cannot be a version", r.Next.Version)
	}
	for _, c := range r.Confirmed {
		if !ValidVersion(c.Version) {
			return fmt.Errorf("confirmed: %q cannot be a version", c.Version)
		}
		// It was confirmed with one content and says that it runs with another: one
		// bit of a digest or of a version's name is not what was written. A reader that
		// trusted it would find that version damaged.
		if r.Phase == PhaseConfirmed && c.Version == r.Current.Version && !c.Same(r.Current) {
			return fmt.Errorf("current is version %s with the digest %.80q, which was confirmed with %.80q", c.Version, r.Current.Digest, c.Digest)
		}
	}
	if r.Phase.Counted() && r.Trial == nil {
		return fmt.Errorf("phase %q without its counters", r.Phase)
	}
	if t := r.Trial; t != nil {
		for _, n := range []int{t.Hard, t.Unclean, t.Clean} {
			if n < 0 || n > maxBootCount {
				return fmt.Errorf("trial: %d boots cannot have been counted", n)
			}
		}
	}
	return nil
}

// maxBootCount is more boots than any limit allows; a larger counter is damage.
const maxBootCount = 1 << 20
