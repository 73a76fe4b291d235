package cuts

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/vm"
)

// A delta is a file of what a disk has otherwise than another one: for each block
// its number, 8 bytes, and its content. A run of a machine changes some MB of its
// disk, and makes dozens of them.
const deltaBlock = 4096

// writeDelta makes file the delta from base to disk, which have the same size.
func writeDelta(base, disk, file string) (err error) {
	a, err := os.Open(base)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer b.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(f, 1<<20)
	defer func() { err = errors.Join(err, out.Flush(), f.Close()) }()
	info, err := b.Stat()
	if err != nil {
		return err
	}
	const chunk = 64 * deltaBlock
	was, is := make([]byte, chunk), make([]byte, chunk)
	for pos := int64(0); pos < info.Size(); pos += chunk {
		// A hole in both is nothing to look at.
		if next := min(dataAfter(a, pos), dataAfter(b, pos)); next >= pos+chunk {
			pos = next/chunk*chunk - chunk
			continue
		}
		n, err := b.ReadAt(is, pos)
		if err != nil && err != io.EOF {
			return err
		}
		m, err := a.ReadAt(was, pos)
		if err != nil && err != io.EOF {
			return err
		}
		if n != m || n%deltaBlock != 0 {
			return fmt.Errorf("%s has %d bytes at %d, %s has %d", base, m, pos, disk, n)
		}
		for i := 0; i < n; i += deltaBlock {
			if block := is[i : i+deltaBlock]; !bytes.Equal(block, was[i:i+deltaBlock]) {
				var number [8]byte
				binary.LittleEndian.PutUint64(number[:], uint64(pos+int64(i))/deltaBlock)
				out.Write(number[:])
				out.Write(block) // Flush has the error
			}
		}
	}
	return nil
}

// dataAfter is where f has data next; its size if there is none.
func dataAfter(f *os.File, pos int64) int64 {
	next, err := unix.Seek(int(f.Fd()), pos, unix.SEEK_DATA)
	if err == unix.ENXIO {
		return 1 << 62
	}
	if err != nil {
		return pos // a file system that does not know holes
	}
	return next
}

// applyDelta makes disk what base is with the delta in file.
func applyDelta(base, file, disk string) (err error) {
	if err := vm.CopySparse(base, disk); err != nil {
		return err
	}
	d, err := os.Open(file)
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in := bufio.NewReaderSize(d, 1<<20)
	record := make([]byte, 8+deltaBlock)
	for {
		if _, err := io.ReadFull(in, record); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("cannot read %s: %w", file, err)
		}
		if _, err := f.WriteAt(record[8:], int64(binary.LittleEndian.Uint64(record))*deltaBlock); err != nil {
			return err
		}
	}
}
