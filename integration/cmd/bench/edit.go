package main

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
)

// between is how far new code of a rebuilt program is apart, in bytes.
const between = 32 << 10

// rebuild returns program as it is linked again after changes of its source: new code
// in many places, and the addresses of all that comes after it, in calls, in accesses
// to data and in tables, shifted.
func rebuild(program []byte, m *material, r *rand.Rand) []byte {
	var at, shift []int // shift[i] is what precedes in the new program from at[i] on
	var code [][]byte
	for range 3 + len(program)/between {
		at = append(at, r.IntN(len(program))&^15)
	}
	slices.Sort(at)
	sum := 0
	for range at {
		data := m.take(elf, int64(1+r.IntN(64))*16)
		code = append(code, data)
		sum += len(data)
		shift = append(shift, sum)
	}
	moved := func(old int) int {
		if i, _ := slices.BinarySearch(at, old+1); i > 0 {
			return old + shift[i-1]
		}
		return old
	}
	next := make([]byte, 0, len(program)+sum)
	last := 0
	for i, a := range at {
		next = append(append(next, program[last:a]...), code[i]...)
		last = a
	}
	next = append(next, program[last:]...)
	for i := 0; i+8 <= len(program); i++ {
		n := instruction(program[i:])
		if n > 0 {
			from := i + n
			target := from + int(int32(binary.LittleEndian.Uint32(program[from-4:])))
			if target >= 0 && target < len(program) {
				binary.LittleEndian.PutUint32(next[moved(i)+n-4:], uint32(moved(target)-moved(i)-n))
				i = from - 1
			}
			continue
		}
		// A word of a table that looks as an address does.
		if v := binary.LittleEndian.Uint64(program[i:]); i%8 == 0 && v >= 1<<16 && v < uint64(len(program)) {
			binary.LittleEndian.PutUint64(next[moved(i):], uint64(moved(int(v))))
			i += 7
		}
	}
	return next
}

// instruction is the length of an instruction of amd64 that ends with a distance of 32
// bits: a call, a jump, or an access to data (REX.W, mov or lea, RIP-relative). Else 0.
func instruction(b []byte) int {
	switch {
	case b[0] == 0xe8 || b[0] == 0xe9:
		return 5
	case b[0]&^4 == 0x48 && (b[1] == 0x8b || b[1] == 0x8d || b[1] == 0x89) && b[2]&0xc7 == 5:
		return 7
	}
	return 0
}

// edit returns source with a few lines replaced, added and removed.
func edit(source []byte, k kind, m *material, r *rand.Rand) []byte {
	lines := slices.Collect(bytes.Lines(source))
	for range 1 + r.IntN(6) {
		add := m.lines(k, r.IntN(4))
		at := r.IntN(len(lines))
		lines = slices.Replace(lines, at, min(at+r.IntN(3), len(lines)), add)
	}
	if next := bytes.Join(lines, nil); !bytes.Equal(next, source) {
		return next
	}
	return append(source, "# edited\n"...)
}
