package bundle

import (
	"errors"
	"fmt"
	"hash"
	"os"

	"github.com/tope-ota/ota/bootcheck"
)

// A share is what one frame holds: whole members, or a part of one file's
// member, or, with no entry, the end of the archive.
type share struct {
	first, count int   // entries
	part         *part // not nil: a part of the one entry
	offset       int64 // of the part, from the member's start

	done chan struct{} // of a part: closed when the next frame may continue with it
}

// A part is one file that is spread over several frames. Its frames work on it
// one after another.
type part struct {
	entry int
	size  int64     // of the member
	out   *os.File  // made by the first frame, unless it is only checked
	sum   hash.Hash // of the content so far; made by the first frame
}

// planFrames says what each frame of m holds, by the lengths that the manifest
// gives. So it is known before anything is fetched, and a frame can be worked on
// without the others. It refuses frames that cut where the format does not allow.
func planFrames(m *bootcheck.Manifest) ([]share, error) {
	shares := make([]share, 0, len(m.Frames))
	next := 0        // the first entry that no frame holds yet
	var open *part   // the file that the next frame must continue with
	var offset int64 // how much of open is in frames
	ended := false   // the end of the archive was there
	for i, f := range m.Frames {
		left := f.Size
		if left%blockSize != 0 {
			return nil, fmt.Errorf("frame %d: its size, %d, is not a multiple of %d", i, left, blockSize)
		}
		if open != nil {
			if left > open.size-offset {
				return nil, fmt.Errorf("frame %d ends %q and holds more", i, m.Entries[open.entry].Path)
			}
			shares = append(shares, share{first: open.entry, count: 1, part: open, offset: offset, done: make(chan struct{})})
			if offset += left; offset == open.size {
				open = nil
			}
			continue
		}
		if next == len(m.Entries) {
			if i != len(m.Frames)-1 || left != endSize {
				return nil, fmt.Errorf("frame %d: after the last entry comes one frame of %d bytes", i, endSize)
			}
			shares = append(shares, share{})
			ended = true
			continue
		}
		s := share{first: next}
		for ; left > 0 && next < len(m.Entries); next++ {
			mem := entryMember(&m.Entries[next])
			n := mem.memberLen()
			if n > left {
				if s.count > 0 || mem.headerLen() > left {
					return nil, fmt.Errorf("frame %d ends inside %q", i, m.Entries[next].Path)
				}
				open, offset = &part{entry: next, size: n}, left
				s.part, s.done, n = open, make(chan struct{}), left
			}
			left -= n
			s.count++
		}
		if left > 0 {
			return nil, fmt.Errorf("frame %d: %d bytes are too many for the entries", i, f.Size)
		}
		shares = append(shares, s)
	}
	switch {
	case len(m.Frames) == 0:
		return nil, errors.New("it lists no frames")
	case open != nil:
		return nil, fmt.Errorf("the frames end inside %q", m.Entries[open.entry].Path)
	case next < len(m.Entries):
		return nil, fmt.Errorf("the frames end before %q", m.Entries[next].Path)
	case !ended:
		return nil, errors.New("the frames have no end of the archive")
	}
	return shares, nil
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
