package blocks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// newDisk is a file in memory of size bytes, all zero: only what is written takes room. It is
// gone when it is closed.
func newDisk(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("ota-blocks", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ota-blocks")
	return f, f.Truncate(size)
}

// put writes at off of f what from holds, but for pages of zeros: f has them.
func put(f *os.File, off int64, from io.Reader) error {
	var zeros [4096]byte
	buf := make([]byte, 1<<20)
	for {
		n, err := io.ReadFull(from, buf)
		for page := range slices.Chunk(buf[:n], len(zeros)) {
			if !bytes.Equal(page, zeros[:len(page)]) {
				if _, err := f.WriteAt(page, off); err != nil {
					return err
				}
			}
			off += int64(len(page))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyDisk makes f, in which nothing was written, the same as from.
func copyDisk(f, from *os.File) error {
	for at := int64(0); ; {
		// Holes are skipped.
		start, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil
		}
		end := int64(0)
		if err == nil {
			end, err = unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE)
		}
		if err == nil {
			err = put(f, start, io.NewSectionReader(from, start, end-start))
		}
		if err != nil {
			return fmt.Errorf("cannot copy a disk: %w", err)
		}
		at = end
	}
}

// zero makes n bytes at off of f zero, as a discard does.
func zero(f *os.File, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}
