package patch

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// applyDiff makes out of the window and a difference, which is all used up.
func applyDiff(out, window, diff []byte) error {
	sizes, rest, err := varints(diff, 3)
	if err != nil {
		return err
	}
	var parts [3][]byte // steps, gaps, differences
	for i, n := range sizes {
		if n > uint64(len(rest)) {
			return errors.New("a difference that is cut off")
		}
		parts[i], rest = rest[:n], rest[n:]
	}
	steps, gaps, diffs := parts[0], parts[1], parts[2]
	// gap is how many bytes of the window are right until the next one that differs, -1: all.
	gap := int64(-1)
	nextGap := func() error {
		if gap = -1; len(gaps) == 0 {
			return nil
		}
		n, size := binary.Uvarint(gaps)
		if size <= 0 || n > maxOut || len(diffs) == 0 || diffs[0] == 0 {
			return errors.New("a difference with a wrong gap")
		}
		gap, gaps = int64(n), gaps[size:]
		return nil
	}
	if err := nextGap(); err != nil {
		return err
	}
	var at int64 // in the window
	for len(steps) > 0 {
		seek, size := binary.Varint(steps)
		if size <= 0 || seek < -maxWindow || seek > maxWindow {
			return errors.New("a difference with a wrong step")
		}
		n, left, err := varints(steps[size:], 2)
		if err != nil {
			return err
		}
		steps = left
		at += seek
		add, copied, room := n[0], n[1], uint64(len(out))
		switch {
		case add > room || copied > room-add || add+copied == 0:
			return errors.New("a difference that makes too much, or nothing")
		case at < 0 || at > int64(len(window)) || int64(add) > int64(len(window))-at:
			return errors.New("a difference to what is not in the window")
		case copied > uint64(len(rest)):
			return errors.New("a difference that is cut off")
		}
		copy(out[:add], window[at:])
		done := int64(0) // of add
		for gap >= 0 && done+gap < int64(add) {
			done += gap
			out[done] += diffs[0]
			diffs = diffs[1:]
			done++
			if err := nextGap(); err != nil {
				return err
			}
		}
		if gap >= 0 {
			gap -= int64(add) - done
		}
		at += int64(add)
		copy(out[add:], rest[:copied])
		rest, out = rest[copied:], out[add+copied:]
	}
	if len(out)+len(gaps)+len(diffs)+len(rest) > 0 || gap >= 0 {
		return errors.New("a difference that is not used up")
	}
	return nil
}

// varints takes n numbers from the front of b.
func varints(b []byte, n int) ([3]uint64, []byte, error) {
	var list [3]uint64
	for i := range n {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return list, nil, errors.New("a difference that is cut off")
		}
		list[i], b = v, b[size:]
	}
	return list, b, nil
}

// A matcher finds what a window has of something else.
type matcher struct {
	window []byte
	shift  int     // of a hash
	table  []int32 // by hash: one more than the first place in the window
	next   []int32 // by place: one more than the next of the same hash
}

const (
	matchLen   = 8    // bytes that are hashed
	matchTries = 64   // places that are looked at
	matchGood  = 32   // bytes: long enough to look at a quarter of them
	matchEnd   = 4096 // bytes: long enough not to look for a longer one
)

func newMatcher(window []byte) *matcher {
	// As many hashes as places: with fewer most places of a hash are of other bytes.
	n := bits.Len(uint(len(window) / 2))
	m := &matcher{window: window, shift: 64 - n, table: make([]int32, 1<<n), next: make([]int32, len(window))}
	for i := len(window) - matchLen; i >= 0; i-- {
		h := m.hash(window[i:])
		m.next[i], m.table[h] = m.table[h], int32(i+1)
	}
	return m
}

func (m *matcher) hash(b []byte) uint64 {
	return binary.LittleEndian.Uint64(b) * 0x9E3779B97F4A7C15 >> m.shift
}

// find returns the longest match of the beginning of b, preferably at first.
func (m *matcher) find(b []byte, first int) (length, at int) {
	if 0 <= first && first < len(m.window) {
		length, at = common(b, m.window[first:]), first
	}
	if len(b) < matchLen {
		return length, at
	}
	tries := matchTries
	if length >= matchGood {
		tries /= 4
	}
	for i := m.table[m.hash(b)]; i > 0 && tries > 0 && length < min(matchEnd, len(b)); tries-- {
		place := m.window[i-1:]
		// A place whose next byte differs has no longer match.
		if length < len(place) && place[length] == b[length] {
			if n := common(b, place); n > length {
				length, at = n, int(i-1)
			}
		}
		i = m.next[i-1]
	}
	return length, at
}

// common is how many bytes a and b have in common from the front.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// makeDiff makes the difference of which applyDiff makes out. It is bsdiff's scan: a match
// that continues beside a better one, with bytes that differ, is worth more than the better one.
func makeDiff(out, window []byte) *diffWriter {
	m := newMatcher(window)
	w := &diffWriter{out: out, window: window}
	var scan, length, at, lastScan, lastAt, lastOffset int
	same := func(i int) bool {
		k := i + lastOffset
		return 0 <= k && k < len(window) && window[k] == out[i]
	}
	for scan < len(out) {
		score, scored := 0, scan+length
		for scan += length; scan < len(out); scan++ {
			length, at = m.find(out[scan:], scan+lastOffset)
			for ; scored < scan+length; scored++ {
				if same(scored) {
					score++
				}
			}
			if length == score && length != 0 || length > score+matchLen {
				break
			}
			if same(scan) {
				score--
			}
		}
		if length == score && scan < len(out) {
			continue
		}
		// Forth from the last match, then back from this one, as long as half is right.
		forth, back := 0, 0
		for i, right, best := 0, 0, 0; lastScan+i < scan && lastAt+i < len(window); {
			if window[lastAt+i] == out[lastScan+i] {
				right++
			}
			if i++; right*2-i > best {
				best, forth = right*2-i, i
			}
		}
		if scan < len(out) {
			for i, right, best := 1, 0, 0; scan >= lastScan+i && at >= i; i++ {
				if window[at-i] == out[scan-i] {
					right++
				}
				if right*2-i > best {
					best, back = right*2-i, i
				}
			}
		}
		if overlap := lastScan + forth - (scan - back); overlap > 0 {
			right, best, cut := 0, 0, 0
			for i := range overlap {
				if out[lastScan+forth-overlap+i] == window[lastAt+forth-overlap+i] {
					right++
				}
				if out[scan-back+i] == window[at-back+i] {
					right--
				}
				if right > best {
					best, cut = right, i+1
				}
			}
			forth -= overlap - cut
			back -= cut
		}
		w.step(lastScan, lastAt, forth, scan-back-lastScan-forth)
		lastScan, lastAt, lastOffset = scan-back, at-back, at-scan
	}
	return w
}

// A diffWriter puts a difference together.
type diffWriter struct {
	out, window         []byte
	steps               []diffStep
	first, end          int // of the window: what is used of it
	gap                 int
	gaps, diffs, copied []byte
}

// A diffStep takes add bytes of the window at at, then copies some.
type diffStep struct{ at, add, copied int }

// step takes add bytes of the window at at, and then the next copied of out, of which it
// makes what is from start on.
func (w *diffWriter) step(start, at, add, copied int) {
	if add+copied == 0 {
		return
	}
	w.steps = append(w.steps, diffStep{at, add, copied})
	if add > 0 && w.end == 0 {
		w.first = at
	}
	if add > 0 {
		w.first, w.end = min(w.first, at), max(w.end, at+add)
	}
	for i := range add {
		if d := w.out[start+i] - w.window[at+i]; d == 0 {
			w.gap++
		} else {
			w.gaps = binary.AppendUvarint(w.gaps, uint64(w.gap))
			w.diffs = append(w.diffs, d)
			w.gap = 0
		}
	}
	w.copied = append(w.copied, w.out[start+add:start+add+copied]...)
}

// stream is the difference to the window from byte first of it on.
func (w *diffWriter) stream(first int) []byte {
	var b, steps []byte
	last := first
	for _, s := range w.steps {
		if s.add == 0 {
			s.at = last // there is nothing there
		}
		steps = binary.AppendVarint(steps, int64(s.at-last))
		steps = binary.AppendUvarint(steps, uint64(s.add))
		steps = binary.AppendUvarint(steps, uint64(s.copied))
		last = s.at + s.add
	}
	for _, part := range [][]byte{steps, w.gaps, w.diffs} {
		b = binary.AppendUvarint(b, uint64(len(part)))
	}
	for _, part := range [][]byte{steps, w.gaps, w.diffs, w.copied} {
		b = append(b, part...)
	}
	return b
}
