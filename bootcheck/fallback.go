package bootcheck

import "slices"

// RollbackTarget is the version to run instead of the current one, and what it counts as:
// the first that is intact, not blocked and not current itself; nil and LevelNone: there
// is none. The order is in the table of guardian.Decide. intact says which versions may
// run as far as is known.
func (r *Record) RollbackTarget(intact func(*Ref) bool) (target *Ref, level string) {
	type candidate struct {
		ref   *Ref
		level string
	}
	var confirmed []candidate
	for _, c := range slices.Backward(r.Confirmed) {
		if !c.Same(r.Factory) { // that one has its own place in the order
			confirmed = append(confirmed, candidate{&c, LevelPrevious})
		}
	}
	previous := candidate{r.Previous, LevelPrevious}
	factory := candidate{r.Factory, LevelFactory}
	var order []candidate
	switch r.Phase {
	case PhaseFallback:
		order = append([]candidate{factory}, confirmed...)
	case PhaseFactory:
		order = confirmed
	default:
		order = append(append([]candidate{previous}, confirmed...), factory)
	}
	for _, c := range order {
		if c.ref != nil && r.usable(c.ref, intact) {
			ref := *c.ref
			return &ref, c.level
		}
	}
	return nil, LevelNone
}

// SwitchTo makes target the current version of r, on trial itself unless it is factory,
// and finds the version behind it. The boot bootID is not counted against target;
// baseline is that of the trial that ends, nil: none.
func (r *Record) SwitchTo(target *Ref, level, bootID string, baseline map[string]bool, intact func(*Ref) bool) {
	r.Current, r.Previous = target, nil
	r.Phase, r.Trial = PhaseFactory, nil
	if level != LevelFactory {
		r.Phase, r.Trial = PhaseFallback, &Trial{BootID: bootID, Baseline: baseline}
	}
	r.Previous = r.newestConfirmed(func(c *Ref) bool { return r.usable(c, intact) })
}

// newestConfirmed is the newest version that was confirmed and may run; nil: none may.
func (r *Record) newestConfirmed(may func(*Ref) bool) *Ref {
	for _, c := range slices.Backward(r.Confirmed) {
		if may(&c) {
			return &c
		}
	}
	return nil
}

// usable reports whether ref may run instead of the current version.
func (r *Record) usable(ref *Ref, intact func(*Ref) bool) bool {
	return ref.Version != r.Current.Version && r.BlockedBy(ref) == nil && intact(ref)
}
