package blocks

import (
	"bytes"
	"encoding/binary"
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
