package blocks

import (
	"bytes"
	"testing"
)

func write(sector, sectors int64, flags Flags, fill byte) Entry {
	return Entry{
		Offset: sector * sectorSize, Length: sectors * sectorSize, Flags: flags,
		Data: bytes.Repeat([]byte{fill}, int(sectors*sectorSize)),
	}
}

// What a disk may hold is what was flushed, what was written with FUA, and any part
// of the rest; and everything that it may hold is found.
func TestSet(t *testing.T) {
	r := &Recording{Entries: []Entry{
		write(0, 1, 0, 1), // 1
		{Flags: Flush},
		write(1, 4, 0, 2),                         // 3
		write(9, 1, FUA, 3),                       // 4
		{Flags: Mark},                             // 5
		write(20, 1, 0, 4),                        // 6
		{Flags: Flush},                            // 7
		write(30, 2, 0, 5),                        // 8
		write(40, 1, Flush, 6),                    // 9: what came before is flushed, this is not
		{Offset: 0, Length: 4096, Flags: Discard}, // 10
	}}
	type outcome struct{ none, all, part bool }
	for _, test := range []struct {
		point, flushed int
		writes         map[int]bool // may it be lost
	}{
		{0, 0, nil},
		{1, 0, map[int]bool{1: true}},
		{2, 2, nil},
		{3, 2, map[int]bool{3: true}},
		{5, 2, map[int]bool{3: true, 4: false}},
		{6, 2, map[int]bool{3: true, 4: false, 6: true}},
		{7, 7, nil},
		{8, 7, map[int]bool{8: true}},
		{9, 8, map[int]bool{9: true}},
		{10, 8, map[int]bool{9: true, 10: true}},
	} {
		outcomes := make(map[int]outcome)
		for seed := range uint64(500) {
			set := r.Set(State{test.point, seed})
			if set.Flushed != test.flushed || len(set.Writes) != len(test.writes) {
				t.Fatalf("Set(point %d, seed %d) = %v, want entries 1-%d and %d writes", test.point, seed, set, test.flushed, len(test.writes))
			}
			if again := r.Set(State{test.point, seed}); again.String() != set.String() {
				t.Errorf("Set(point %d, seed %d) = %v, and then %v", test.point, seed, set, again)
			}
			for _, w := range set.Writes {
				o := outcomes[w.Entry]
				o.none = o.none || !w.some()
				o.all = o.all || w.all()
				o.part = o.part || w.some() && !w.all()
				outcomes[w.Entry] = o
				if w.some() && !w.all() != set.Torn && len(test.writes) == 1 {
					t.Errorf("Set(point %d, seed %d) = %v, torn %v", test.point, seed, set, set.Torn)
				}
				if seed == 0 && !w.all() {
					t.Errorf("Set(point %d, seed 0) = %v, want everything", test.point, set)
				}
			}
		}
		for entry, loses := range test.writes {
			o := outcomes[entry]
			tears := loses && r.Entries[entry-1].Length > sectorSize && r.Entries[entry-1].Flags&Discard == 0
			if want := (outcome{none: loses, all: true, part: tears}); o != want {
				t.Errorf("point %d: entry %d: %+v, want %+v", test.point, entry, o, want)
			}
		}
	}
	// Each of the 8 subsets of three writes, and some sectors of one without others.
	three := &Recording{Entries: []Entry{write(0, 1, 0, 1), write(1, 1, 0, 1), write(2, 1, 0, 1)}}
	subsets := make(map[string]bool)
	for seed := range uint64(2000) {
		subsets[three.Set(State{3, seed}).String()] = true
	}
	if len(subsets) != 8 {
		t.Errorf("3 writes arrive in %d ways, want 8: %v", len(subsets), subsets)
	}
}
