package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// CheckContent fails unless f is a file with the size and the hash of e. If ctx ends, its
// error is returned as it is.
func (e *Entry) CheckContent(ctx context.Context, f *os.File) error {
	if _, err := e.fits(f); err != nil {
		return err
	}
	h := hasher{ctx: ctx}
	defer h.close()
	return h.copy(nil, f, e)
}

// fits fails unless f is a file with the size of e.
func (e *Entry) fits(f *os.File) (fs.FileInfo, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, damagef("it is not a file")
	case info.Size() != e.Size:
		return nil, damagef("size %d, want %d", info.Size(), e.Size)
	}
	return info, nil
}

// UntilDone reads from r until ctx ends, whose error it then returns.
func UntilDone(ctx context.Context, r io.Reader) io.Reader { return untilDone{ctx, r} }

type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// A contentDamage is a file that is not what its entry says.
type contentDamage struct{ error }

func (d contentDamage) Unwrap() error { return d.error }

func damagef(format string, args ...any) error { return contentDamage{fmt.Errorf(format, args...)} }

// A hasher compares files with what their entries say. It keeps its buffer from file to
// file.
type hasher struct {
	ctx context.Context
	buf []byte
	sum hash.Hash
}

// hashBuffer is how many bytes are read at once, and the size of the buffer for them:
// larger gains nothing.
const hashBuffer = 256 << 10

func (h *hasher) close() { Unmap(h.buf) }

// copy copies from, which must have the content of e, to to, until ctx ends; nil:
// it is only hashed.
func (h *hasher) copy(to io.Writer, from *os.File, e *Entry) (err error) {
	if h.buf == nil {
		if h.buf, err = Buffer(hashBuffer); err != nil {
			return err
		}
		h.sum = sha256.New()
	}
	h.sum.Reset()
	for n := int64(0); n < e.Size; {
		if err := h.ctx.Err(); err != nil {
			return err
		}
		part := h.buf[:min(int64(len(h.buf)), e.Size-n)]
		if err := Retry(func() error { return readDirect(from, part, n) }); err != nil {
			switch {
			case err == io.EOF:
				return damagef("size less than %d", e.Size) // just now
			case Inconclusive(err):
				return err
			}
			return contentDamage{err}
		}
		h.sum.Write(part)
		if to != nil {
			if _, err := to.Write(part); err != nil {
				return err
			}
		}
		n += int64(len(part))
	}
	if got := hex.EncodeToString(h.sum.Sum(nil)); got != e.SHA256 {
		return damagef("sha256 %s, want %s", got, e.SHA256)
	}
	return nil
}

// readDirect fills part, the start of a buffer of hashBuffer bytes, with what f has at
// offset at. f was opened with O_DIRECT where its file system can: it is the disk that is
// compared with the manifest, no copy in memory, and what the device has in its cache
// stays there. io.EOF: f ends before.
func readDirect(f *os.File, part []byte, at int64) error {
	const block = 4096 // bytes; what O_DIRECT reads has to be made of these, nearly everywhere
	fd := int(f.Fd())
	for n := 0; n < len(part); {
		// Up to the end of a block, which is in the buffer, too.
		k, err := pread(fd, part[n:(len(part)+block-1)/block*block], at+int64(n))
		switch {
		case err == unix.EINTR:
		case err == unix.EINVAL:
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_DIRECT == 0 {
				return unix.EINVAL
			}
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT); err != nil {
				return err
			}
		case err != nil:
			return &os.PathError{Op: "read", Path: f.Name(), Err: err}
		case k == 0:
			return io.EOF
		default:
			n += k
		}
	}
	return nil
}

var pread = unix.Pread // a variable for the tests

// Buffer maps n bytes, aligned to pages and outside Go's heap: Unmap gives them back at
// once.
func Buffer(n int64) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return b, nil
}

// Unmap gives back what Buffer made; those that are nil are none.
func Unmap(buffers ...[]byte) {
	for _, b := range buffers {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
}
