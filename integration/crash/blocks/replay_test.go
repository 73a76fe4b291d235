package blocks

import (
	"bytes"
	"io"
	"math/rand/v2"
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

func TestContent(t *testing.T) {
	r := &Recording{Entries: []Entry{
		write(0, 1, 0, 1), {Flags: Flush}, {Flags: Mark}, write(1, 1, 0, 2), write(2, 1, 0, 3), {Flags: Flush}, {Flags: Mark},
	}}
	for _, test := range []struct {
		name string
		a, b Set
		same bool
	}{
		{"a flush and a mark write nothing", r.Set(State{Point: 1}), r.Set(State{Point: 3}), true},
		{"so at the end", r.Set(State{Point: 5}), r.Set(State{Point: 7}), true},
		{"a write that was lost was not made", r.Set(State{Point: 1}), Set{Flushed: 3, Writes: []Write{{Entry: 4, Sectors: 1}}}, true},
		{"the last of two", Set{Flushed: 3, Writes: []Write{{4, 1, []bool{true}}, {Entry: 5, Sectors: 1}}}, r.Set(State{Point: 4}), true},
		{"the first of two", Set{Flushed: 3, Writes: []Write{{Entry: 4, Sectors: 1}, {5, 1, []bool{true}}}}, r.Set(State{Point: 5}), false},
		{"a write more", r.Set(State{Point: 4}), r.Set(State{Point: 5}), false},
		{"none and one", r.Set(State{Point: 3}), r.Set(State{Point: 4}), false},
	} {
		if got := test.a.content(r) == test.b.content(r); got != test.same {
			t.Errorf("%s: %v (%s) and %v (%s): same disk %v, want %v", test.name, test.a, test.a.content(r), test.b, test.b.content(r), got, test.same)
		}
	}
}

// What File makes is what a slow and simple disk would hold.
func TestFile(t *testing.T) {
	const size = 128<<10 + 512
	rng := rand.New(rand.NewPCG(1, 2))
	base, err := NewImage(size)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	base.Write(12345, []byte("what was there before"))
	base.Write(size-4, []byte("the end, and more than fits"))
	r := &Recording{Base: base}
	for i := range 200 {
		sectors := 1 + rng.Int64N(40)
		e := write(rng.Int64N(size/sectorSize-sectors), sectors, 0, byte(i+1))
		switch rng.IntN(10) {
		case 0:
			e = Entry{Flags: Flush}
		case 1:
			e.Flags, e.Data = Discard, nil
		case 2:
			e.Flags = FUA
		case 3:
			e = Entry{Flags: Mark, Data: []byte("not written")}
		}
		r.Entries = append(r.Entries, e)
	}
	p, err := NewReplay(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { p.Close() }()
	for range 100 {
		s := State{rng.IntN(len(r.Entries) + 1), rng.Uint64N(5)}
		set := r.Set(s)
		want := make([]byte, size)
		copy(want[12345:], "what was there before")
		copy(want[size-4:], "the end, and more than fits")
		apply := func(e Entry, arrived func(sector int64) bool) {
			for at := int64(0); at < e.Length; at++ {
				if e.Flags&Mark != 0 || !arrived(at/sectorSize) {
					continue
				}
				want[e.Offset+at] = 0
				if e.Data != nil {
					want[e.Offset+at] = e.Data[at]
				}
			}
		}
		for _, e := range r.Entries[:set.Flushed] {
			apply(e, func(int64) bool { return true })
		}
		for _, w := range set.Writes {
			apply(r.Entries[w.Entry-1], func(sector int64) bool { return w.Arrived != nil && w.Arrived[sector] })
		}
		f, err := p.File(set)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, size+1))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%+v (%v): the file is not what the disk would hold", s, set)
		}
		// Nor does it change on its way to a file and back.
		m, err := LoadImage(f, size)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.data, want) {
			t.Fatalf("%+v (%v): the image of the file is not the file", s, set)
		}
		m.Close()
	}
}
