package bootcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// recoverActive finds the newest intact generation of a store whose switch is lost.
func (s *Store) recoverActive(cause error) (*Active, error) {
	if Inconclusive(cause) {
		return nil, cause
	}
	generations, err := s.generations()
	if err != nil {
		return nil, err
	}
	if s.neverSwitched(generations, cause) {
		return nil, ErrEmpty
	}
	if record := s.newestIntact(generations); record != nil {
		record.recount()
		return &Active{Record: record, Damage: fmt.Sprintf("the switch is lost (%v); using generation %d", cause, record.Generation)}, nil
	}
	return nil, fmt.Errorf("%w: no generation is intact (%v)", ErrRecord, cause)
}

// newestIntact is the record of the last of generations that has one; nil: none has.
func (s *Store) newestIntact(generations []uint64) *Record {
	for _, n := range slices.Backward(generations) {
		if record, _, err := s.readGeneration(n); err == nil {
			return record
		}
	}
	return nil
}

// neverSwitched reports whether nothing was ever made current, where err is why the
// switch cannot be read: there is none, and no generation, or only the very first,
// which a crash left unfinished. It was to be switched to and never was. Damage
// leaves more, or a switch. Where another program keeps the links, they alone say what
// runs: a generation is of an adoption that was ended before its switch, or is left of
// a store that was given up.
func (s *Store) neverSwitched(generations []uint64, err error) bool {
	if !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if s.Foreign() {
		return true
	}
	if len(generations) == 1 && generations[0] == 1 {
		_, _, err := s.readGeneration(1)
		return errors.Is(err, ErrRecord)
	}
	return len(generations) == 0
}

// rebuild makes the record of generation n, which cannot be read, from the
// generations before it and from the links of n.
func (s *Store) rebuild(n uint64, cause error) (*Active, error) {
	links := make(map[string]*Ref)
	for _, name := range linkNames {
		ref, err := s.readLink(n, name)
		if Inconclusive(err) {
			return nil, err
		}
		links[name] = ref
	}
	current := links["current"]
	generations, err := s.generations()
	if err != nil {
		return nil, err
	}
	base := s.newestIntact(slices.DeleteFunc(generations, func(g uint64) bool { return g >= n }))
	switch {
	case base == nil && current == nil:
		return nil, fmt.Errorf("%w: generation %d: %v; no older one is intact", ErrRecord, n, cause)
	case base == nil:
		// Links alone: each version that they name ran before, so it is not blamed.
		none := &Record{}
		current = s.withDigest(current, none)
		return &Active{
			Record: &Record{Schema: Schema, Generation: n, Phase: PhaseConfirmed,
				Current: current, Previous: s.withDigest(links["previous"], none), Factory: s.withDigest(links["factory"], none),
				Confirmed: []Ref{*current}},
			Damage: fmt.Sprintf("the record of generation %d is lost (%v); using its links", n, cause),
		}, nil
	}
	damage := fmt.Sprintf("the record of generation %d is lost (%v); using generation %d and the links", n, cause, base.Generation)
	// What was made factory or previous by generation n, and by none before it.
	for _, name := range []string{"previous", "factory"} {
		if ref := links[name]; ref != nil && s.holds(ref) {
			base.setLink(name, s.withDigest(ref, base))
		}
	}
	if current == nil || current.Same(base.Current) {
		base.recount()
		return &Active{Record: base, Damage: damage}, nil
	}
	// Generation n switched versions and its record would say why. The links are
	// the current version, and nothing is rolled back because of a lost record: a version
	// that is known to be good is confirmed, any other is on trial again.
	if base.IsConfirmed(current) {
		base.Phase, base.Trial = PhaseConfirmed, nil
	} else {
		base.Phase, base.Trial = PhaseTrial, &Trial{}
	}
	base.Previous = s.withDigest(links["previous"], base)
	base.Current = s.withDigest(current, base)
	base.HoldReason = ""
	return &Active{Record: base, Damage: damage}, nil
}

// recount begins the count of a trial again: a record that was lost may be the one
// that confirmed the version, and what was counted before that must not count
// against it now.
func (r *Record) recount() {
	if r.Phase.Counted() {
		r.Trial = &Trial{Baseline: r.Trial.Baseline}
	}
}

// withDigest fills in the digest of a version that was read from a link, from
// what the record knows of it.
func (s *Store) withDigest(ref *Ref, known *Record) *Ref {
	if ref == nil {
		return nil
	}
	if l := known.Linked(ref.Version); ref.Same(l.Ref) {
		return l.Ref
	}
	for i := range known.Confirmed {
		if ref.Same(&known.Confirmed[i]) {
			return &known.Confirmed[i]
		}
	}
	return ref
}
