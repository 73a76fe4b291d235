package bootcheck

import "context"

// Known is version with the content that r knows of it, as far as it does, and the link that
// leads to it: factory, current or previous; empty: none, it is kept. r may be nil.
func (r *Record) Known(version string) (ref *Ref, link string) {
	ref = &Ref{Version: version}
	if r == nil {
		return ref, ""
	}
	if r.Factory != nil && r.Factory.Version == version {
		return r.Factory, LevelFactory // before current: of factory more is asked
	}
	if l := r.Linked(version); l.Ref != nil {
		return l.Ref, l.Name
	}
	for i := range r.Confirmed {
		if c := &r.Confirmed[i]; c.Version == version {
			return c, ""
		}
	}
	return ref, ""
}

// VerifyAs is Verify of ref, to which link leads, every byte of it. Of factory every mode counts,
// too, unless it was adopted and stayed as it was: in any other version the application may have
// put files beside those that it came with.
func (s *Store) VerifyAs(ctx context.Context, ref *Ref, link string) error {
	depth := Content
	if link == LevelFactory && (s.Sealed(ref.Version) || !s.Unsigned(ref.Version)) {
		depth = Sealed
	}
	return s.Verify(ctx, ref, depth)
}
