package bundle

import "github.com/tope-ota/ota/bootcheck"

// A share is what one frame holds: whole members, or a part of one file's
// member, or, with no entry, the end of the archive.
type share struct {
	first, count int   // entries
	offset       int64 // of the first one's member: what the frames before hold of it
}

// planFrames says what each frame of m holds, by the lengths that the manifest
// gives. So it is known before anything is fetched, and a frame can be worked on
// without the others. It refuses frames that cut where the format does not allow.
func planFrames(m *bootcheck.Manifest) ([]share, error) {
	refuse := func(format string, args ...any) ([]share, error) {
		return nil, damaged(bootcheck.CodeInvalidManifest, "manifest refused: "+format, args...)
	}
	if len(m.Frames) == 0 {
		return refuse("it lists no frames")
	}
	shares := make([]share, 0, len(m.Frames))
	next := 0        // the first entry that is not whole in the frames
	var offset int64 // how much of its member is
	ended := false   // the end of the archive was there
	for i, f := range m.Frames {
		left := f.Size
		if left%blockSize != 0 {
			return refuse("frame %d: its size, %d, is not a multiple of %d", i, left, blockSize)
		}
		if next == len(m.Entries) {
			if i != len(m.Frames)-1 || left != endSize {
				return refuse("frame %d: after the last entry comes one frame of %d bytes", i, endSize)
			}
			ended = true
			left = 0
		}
		s := share{first: next, offset: offset}
		for left > 0 && next < len(m.Entries) {
			path, mem := m.Entries[next].Path, entryMember(&m.Entries[next])
			n := mem.memberLen() - offset
			switch {
			case n > left && (s.count > 0 || offset == 0 && mem.headerLen() > left):
				return refuse("frame %d ends inside %q", i, path)
			case n > left:
				offset += left
				left = 0
			case n < left && offset > 0:
				return refuse("frame %d ends %q and holds more", i, path)
			default:
				offset = 0
				left -= n
				next++
			}
			s.count++
		}
		if left > 0 {
			return refuse("frame %d: %d bytes are too many for the entries", i, f.Size)
		}
		shares = append(shares, s)
	}
	switch {
	case offset > 0:
		return refuse("the frames end inside %q", m.Entries[next].Path)
	case next < len(m.Entries):
		return refuse("the frames end before %q", m.Entries[next].Path)
	case !ended:
		return refuse("the frames have no end of the archive")
	}
	return shares, nil
}

// needed are the frames, of those with shares, that hold an entry that needs names, or all.
func needed(shares []share, all bool, needs func(entry int) bool) (frames []int) {
	for i, s := range shares {
		needed := all
		for k := s.first; k < s.first+s.count && !needed; k++ {
			needed = needs(k)
		}
		if needed {
			frames = append(frames, i)
		}
	}
	return frames
}

// A Span is some bytes of a bundle: from First on, up to End, exclusive.
type Span struct{ First, End int64 }

// Missing are the parts of the bundle whose manifest is m that hold the files that
// are not there yet, in order. When none is there, that is all of the payload: then
// all of it is checked.
func (h *Head) Missing(m *bootcheck.Manifest, have func(entry int) bool) (spans []Span) {
	shares, err := planFrames(m)
	if err != nil {
		return nil // Verify has seen to that
	}
	has := make([]bool, len(m.Entries)) // all that is not to be unpacked
	some := false
	for i := range m.Entries {
		e := &m.Entries[i]
		has[i] = e.Type != bootcheck.TypeFile || e.Size == 0 || have(i)
		some = some || has[i] && e.Size > 0
	}
	for _, i := range needed(shares, !some, func(i int) bool { return !has[i] }) {
		f := &m.Frames[i]
		s := Span{h.PayloadOffset + f.Offset, h.PayloadOffset + f.Offset + f.Length}
		if n := len(spans); n > 0 && spans[n-1].End == s.First {
			spans[n-1].End = s.End
		} else {
			spans = append(spans, s)
		}
	}
	return spans
}

// cutFrames is the writer's choice of frames for entries, as the size of each: members
// share one of up to group bytes, and a larger one has frames of its own.
func cutFrames(entries []bootcheck.Entry, group int64) []int64 {
	var sizes []int64
	var filled int64
	flush := func() {
		if filled > 0 {
			sizes = append(sizes, filled)
			filled = 0
		}
	}
	for i := range entries {
		n := entryMember(&entries[i]).memberLen()
		if filled+n > group {
			flush()
		}
		if n <= group {
			filled += n
			continue
		}
		for ; n > bootcheck.MaxFrameSize; n -= bootcheck.MaxFrameSize {
			sizes = append(sizes, bootcheck.MaxFrameSize)
		}
		sizes = append(sizes, n)
	}
	flush()
	return append(sizes, endSize)
}
