package blocks

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// log writes a log as dm-log-writes does: its struct log_write_super and struct
// log_write_entry, each in a sector of its own.
type log struct {
	sector  int
	entries uint64
	body    bytes.Buffer
}

func (l *log) add(first, count, flags uint64, mark string, data []byte) {
	header := make([]byte, l.sector)
	binary.LittleEndian.PutUint64(header[0:], first)
	binary.LittleEndian.PutUint64(header[8:], count)
	binary.LittleEndian.PutUint64(header[16:], flags)
	binary.LittleEndian.PutUint64(header[24:], uint64(len(mark)))
	copy(header[32:], mark)
	l.body.Write(header)
	l.body.Write(data)
	l.entries++
}

func (l *log) bytes() []byte {
	super := make([]byte, l.sector)
	copy(super, "rhswfsj\x00") // as `hexdump -C` shows a log of QEMU's
	binary.LittleEndian.PutUint64(super[8:], 1)
	binary.LittleEndian.PutUint64(super[16:], l.entries)
	binary.LittleEndian.PutUint32(super[24:], uint32(l.sector))
	return append(super, l.body.Bytes()...)
}

func TestReadLog(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		a, b := bytes.Repeat([]byte{1}, sector), bytes.Repeat([]byte{2}, 3*sector)
		l := &log{sector: sector}
		l.add(7, 1, 0, "", a)
		l.add(0, 0, 1, "", nil)
		l.add(9, 3, 2|16, "", b)
		l.add(100, 1<<20, 4, "", nil)
		l.add(0, 0, 8, "installed", nil)
		l.add(7, 1, 1|2, "", a)
		s := int64(sector)
		want := []Entry{
			{Offset: 7 * s, Length: s, Data: a},
			{Flags: Flush},
			{Offset: 9 * s, Length: 3 * s, Flags: FUA | Metadata, Data: b},
			{Offset: 100 * s, Length: 1 << 20 * s, Flags: Discard},
			{Flags: Mark, Data: []byte("installed")},
			{Offset: 7 * s, Length: s, Flags: Flush | FUA, Data: a},
		}
		got, err := readLog(bytes.NewReader(append(l.bytes(), "what an older log left behind its end"...)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("sectors of %d bytes (-want +got):\n%s", sector, diff)
		}
		// Whatever is missing at the end is missed.
		whole := l.bytes()
		for n := 0; n < len(whole); n += sector / 2 {
			if _, err := readLog(bytes.NewReader(whole[:n])); err == nil {
				t.Errorf("sectors of %d bytes: Read of the first %d bytes of %d: no error", sector, n, len(whole))
			}
		}
	}
}

func TestReadRefuses(t *testing.T) {
	whole := func(change func(raw []byte)) []byte {
		l := &log{sector: 512}
		l.add(7, 1, 0, "", make([]byte, 512))
		raw := l.bytes()
		change(raw)
		return raw
	}
	put := binary.LittleEndian.PutUint64
	for _, test := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"another file", []byte(strings.Repeat("not a log ", 100)), "not a log of writes"},
		{"another version", whole(func(raw []byte) { put(raw[8:], 2) }), "version 2, want 1"},
		{"sectors of no size", whole(func(raw []byte) { raw[25] = 0 }), "a sector has 0 bytes"},
		{"sectors that are no power of two", whole(func(raw []byte) { raw[24] = 1 }), "a sector has 513 bytes"},
		{"more entries than there are", whole(func(raw []byte) { put(raw[16:], 2) }), "entry 2 of 2: unexpected EOF"},
		{"a flag that nobody knows", whole(func(raw []byte) { put(raw[512+16:], 32) }), "nobody knows: 0x20"},
		{"a mark that is longer than its sector", whole(func(raw []byte) { put(raw[512+16:], 8); put(raw[512+24:], 481) }), "does not fit"},
		{"a write behind every disk", whole(func(raw []byte) { put(raw[512:], 1<<60) }), "on no disk"},
		{"a write of more than there is", whole(func(raw []byte) { put(raw[512+8:], 1<<22) }), "a write of 2147483648 bytes"},
	} {
		_, err := readLog(bytes.NewReader(test.raw))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %q", test.name, err, test.want)
		}
	}
}

func TestFlags(t *testing.T) {
	for flags, want := range map[Flags]string{0: "write", Flush: "flush", Flush | FUA: "flush+fua", Discard: "discard", Mark: "mark", Metadata: "metadata"} {
		if got := flags.String(); got != want {
			t.Errorf("Flags(%d).String() = %q, want %q", flags, got, want)
		}
	}
}
