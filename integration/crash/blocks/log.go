package blocks

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The log of what was written to a disk, write by write, has the format of Linux's
// dm-log-writes, which QEMU's driver blklogwrites writes too.
//
//	sector 0    magic, version, number of entries, size of a sector
//	then, for each entry:
//	  1 sector  where, how many sectors, flags, bytes of a mark
//	  n sectors what was written there; none of a discard
//
// All numbers are little-endian. A sector is as large as the log says; entries count
// in it, too.

// Flags say what an Entry is.
type Flags uint64

// The values are those of drivers/md/dm-log-writes.c.
const (
	Flush    Flags = 1 << 0 // all that was written before is on the medium
	FUA      Flags = 1 << 1 // this write is on the medium
	Discard  Flags = 1 << 2 // the bytes are not needed any more
	Mark     Flags = 1 << 3 // a note by the observer; nothing was written
	Metadata Flags = 1 << 4 // the file system's own

	known = Flush | FUA | Discard | Mark | Metadata
)

// An Entry is one request that the disk completed.
type Entry struct {
	Offset, Length int64 // bytes of the disk that it changes; a flush alone: 0
	Flags          Flags
	Data           []byte // of a write Length bytes, of a mark its text; of a discard none
}

const (
	magic      = 0x6a736677736872 // dm-log-writes.c, WRITE_LOG_MAGIC
	version    = 1
	headerSize = 32
	// maxData bounds one entry: the block layer's requests are far smaller, and a
	// log that is damaged must not take all the memory.
	maxData = 1 << 30
)

// readLog reads a whole log. One that was cut off, or that says of itself what cannot
// be, is an error: to replay a part of what happened would prove nothing.
func readLog(from io.Reader) ([]Entry, error) {
	r := bufio.NewReaderSize(from, 1<<20)
	var super [headerSize]byte
	if _, err := io.ReadFull(r, super[:]); err != nil {
		return nil, fmt.Errorf("cannot read the log's first sector: %w", noEOF(err))
	}
	if got := binary.LittleEndian.Uint64(super[0:]); got != magic {
		return nil, fmt.Errorf("not a log of writes: it begins with %#x, want %#x", got, uint64(magic))
	}
	if got := binary.LittleEndian.Uint64(super[8:]); got != version {
		return nil, fmt.Errorf("cannot read a log of version %d, want %d", got, version)
	}
	n := binary.LittleEndian.Uint64(super[16:])
	sector := int64(binary.LittleEndian.Uint32(super[24:]))
	if sector < 512 || sector > 64<<10 || sector&(sector-1) != 0 {
		return nil, fmt.Errorf("the log says that a sector has %d bytes", sector)
	}
	if _, err := io.CopyN(io.Discard, r, sector-headerSize); err != nil {
		return nil, fmt.Errorf("cannot read the log's first sector: %w", noEOF(err))
	}
	var entries []Entry
	header := make([]byte, sector)
	for i := range n {
		e, err := readEntry(r, header)
		if err != nil {
			return nil, fmt.Errorf("cannot read entry %d of %d: %w", i+1, n, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// readEntry reads one entry; header is one sector to read into.
func readEntry(r io.Reader, header []byte) (Entry, error) {
	if _, err := io.ReadFull(r, header); err != nil {
		return Entry{}, noEOF(err)
	}
	sector := uint64(len(header))
	first, count := binary.LittleEndian.Uint64(header[0:]), binary.LittleEndian.Uint64(header[8:])
	e := Entry{Flags: Flags(binary.LittleEndian.Uint64(header[16:]))}
	mark := binary.LittleEndian.Uint64(header[24:])
	switch {
	case e.Flags&^known != 0:
		return Entry{}, fmt.Errorf("it has unknown flags: %#x", uint64(e.Flags&^known))
	case e.Flags&Mark != 0:
		if mark > sector-headerSize {
			return Entry{}, fmt.Errorf("a mark of %d bytes does not fit into a sector of %d", mark, sector)
		}
		e.Data = append([]byte(nil), header[headerSize:headerSize+mark]...)
		return e, nil
	case first > 1<<62/sector || count > 1<<62/sector:
		return Entry{}, fmt.Errorf("%d sectors at %d are on no disk", count, first)
	}
	e.Offset, e.Length = int64(first*sector), int64(count*sector)
	if e.Flags&Discard != 0 || count == 0 {
		return e, nil
	}
	if e.Length > maxData {
		return Entry{}, fmt.Errorf("a write of %d bytes", e.Length)
	}
	e.Data = make([]byte, e.Length)
	if _, err := io.ReadFull(r, e.Data); err != nil {
		return Entry{}, noEOF(err)
	}
	return e, nil
}

// noEOF: the end of a file is no end of a log that says that it continues.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
