package blocks

import (
	"fmt"
	"io"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// An Image is the content of a disk, in memory: only what is not zero takes room.
type Image struct {
	data []byte   // anonymous memory; a page that was never written to does not exist
	used []uint64 // a bit a page: it was written to
}

// NewImage is a disk of size bytes, all zero. Close gives its memory back.
func NewImage(size int64) (*Image, error) {
	data, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("cannot have an image of %d bytes: %w", size, err)
	}
	pages := (size + pageSize - 1) / pageSize
	return &Image{data, make([]uint64, (pages+63)/64)}, nil
}

// LoadImage is a copy of the first size bytes of f.
func LoadImage(f *os.File, size int64) (_ *Image, err error) {
	m, err := NewImage(size)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; {
		// Holes are skipped, and so are pages of zeros.
		next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && next >= size {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look for the data in %s: %w", f.Name(), err)
		}
		at = next / pageSize * pageSize
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && err != io.EOF || n == 0 {
			return nil, fmt.Errorf("cannot read %s at %d: %w", f.Name(), at, err)
		}
		for off := 0; off < n; off += pageSize {
			if page := buf[off:min(off+pageSize, n)]; !zero(page) {
				m.Write(at+int64(off), page)
			}
		}
		at += int64(n)
	}
	return m, nil
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// Close gives the memory back.
func (m *Image) Close() { _ = unix.Munmap(m.data) }

// Size is that of the disk, in bytes.
func (m *Image) Size() int64 { return int64(len(m.data)) }

// Write writes p at off. What is beyond the end of the disk is not written.
func (m *Image) Write(off int64, p []byte) {
	if off >= m.Size() {
		return
	}
	n := copy(m.data[off:], p)
	m.touch(off, int64(n))
}

// Zero writes n zeros at off.
func (m *Image) Zero(off, n int64) {
	n = min(n, m.Size()-off)
	// A page that is zero anyway is left alone: a discard may be of half the disk.
	for end := off + n; off < end; {
		next := min((off/pageSize+1)*pageSize, end)
		if page := off / pageSize; m.used[page/64]&(1<<(page%64)) != 0 {
			clear(m.data[off:next])
		}
		off = next
	}
}

func (m *Image) touch(off, n int64) {
	if n <= 0 {
		return
	}
	for page := off / pageSize; page <= (off+n-1)/pageSize; page++ {
		m.used[page/64] |= 1 << (page % 64)
	}
}

// Clone is a copy.
func (m *Image) Clone() (*Image, error) {
	c, err := NewImage(m.Size())
	if err != nil {
		return nil, err
	}
	_ = m.runs(func(off int64, p []byte) error { c.Write(off, p); return nil })
	return c, nil
}

// CopyTo makes f, which is empty, the same, with holes where nothing is.
func (m *Image) CopyTo(f *os.File) error {
	if err := f.Truncate(m.Size()); err != nil {
		return err
	}
	return m.runs(func(off int64, p []byte) error {
		_, err := f.WriteAt(p, off)
		return err
	})
}

// runs calls do with each run of pages that were written to.
func (m *Image) runs(do func(off int64, p []byte) error) error {
	start, end := int64(-1), int64(0) // of the run, in pages
	flush := func() error {
		if start < 0 {
			return nil
		}
		from := start * pageSize
		start = -1
		return do(from, m.data[from:min(end*pageSize, m.Size())])
	}
	for i, word := range m.used {
		for ; word != 0; word &= word - 1 {
			page := int64(i*64 + bits.TrailingZeros64(word))
			if start >= 0 && page != end {
				if err := flush(); err != nil {
					return err
				}
			}
			if start < 0 {
				start = page
			}
			end = page + 1
		}
	}
	return flush()
}
