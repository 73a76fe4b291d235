package crashpoint

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// write is at the offset in argument 3 if fixed, else where the file is.
func (a *ask) write(fixed bool) (_ *act, err error) {
	defer try.End(&err)
	fd, place, err := a.file(0)
	try.Check(err)
	data, offset := make([]byte, a.arg[2]), int64(a.arg[3])
	try.Check(a.memory(a.arg[1], data))
	t := &act{Call: Call{Name: "write", File: place, Length: int64(len(data)), Data: data}}
	t.Offset = try.Get(startOf(fd, fixed, offset))
	t.do = func() (int64, error) {
		n := 0
		if fixed {
			n, err = unix.Pwrite(fd, data, offset)
		} else {
			n, err = unix.Write(fd, data)
		}
		return int64(n), err
	}
	t.done = func(n int64) { t.Length, t.Data = n, data[:n] }
	return t, nil
}

// startOf is where a write to fd begins.
func startOf(fd int, fixed bool, offset int64) (int64, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return 0, err
	}
	switch {
	case flags&unix.O_APPEND != 0:
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		return st.Size, err
	case fixed:
		return offset, nil
	}
	at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
	if err != nil {
		return 0, errGone // a directory
	}
	return at, nil
}

// written reads back what a call left in [at, at+n) of fd, which may be open for
// writing only.
func written(fd int, at, n int64) ([]byte, error) {
	file, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(file) }()
	data := make([]byte, n)
	for rest := data; len(rest) > 0; {
		k, err := unix.Pread(file, rest, at)
		if err != nil {
			return nil, err
		}
		if k == 0 {
			return nil, fmt.Errorf("a file ends at %d, after a call has written %d bytes more", at, len(rest))
		}
		rest, at = rest[k:], at+int64(k)
	}
	return data, nil
}

// copyFileRange copies between the descriptors in arguments 0 and 2, each at the offset
// that the argument after it points to, if it does.
func (a *ask) copyFileRange() (_ *act, err error) {
	defer try.End(&err)
	to, place, err := a.file(2)
	try.Check(err)
	from := try.Get(a.fd(int(int32(a.arg[0]))))
	n := int(a.arg[4])
	t := &act{Call: Call{Name: "copy", File: place, Length: int64(n), Source: try.Get(describe(from))}}
	var at [2]*int64
	for i := range at {
		if pointer := a.arg[2*i+1]; pointer != 0 {
			at[i] = &try.Get(a.numbers(pointer, 1))[0]
		}
	}
	fixed := int64(0)
	if at[1] != nil {
		fixed = *at[1]
	}
	t.Offset = try.Get(startOf(to, at[1] != nil, fixed))
	t.do = func() (_ int64, err error) {
		defer try.End(&err)
		k := try.Get(unix.CopyFileRange(from, at[0], to, at[1], n, int(uint32(a.arg[5]))))
		for i := range at {
			if at[i] != nil {
				try.Check(a.poke(a.arg[2*i+1], *at[i]))
			}
		}
		t.Data, err = written(to, t.Offset, int64(k))
		return int64(k), err
	}
	t.done = func(k int64) { t.Length = k }
	return t, nil
}

func (a *ask) ioctl() (_ *act, err error) {
	defer try.End(&err)
	request := uint32(a.arg[1])
	if request != unix.FICLONE && request != unix.FICLONERANGE {
		return unknown(fmt.Sprintf("ioctl %#x", request))(a)
	}
	to, place, err := a.file(0)
	try.Check(err)
	r := unix.FileCloneRange{Src_fd: int64(int32(a.arg[2]))}
	if request == unix.FICLONERANGE {
		try.Check(a.memory(a.arg[2], unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))))
	}
	from := try.Get(a.fd(int(r.Src_fd)))
	r.Src_fd = int64(from)
	t := &act{Call: Call{Name: "clone", File: place, Offset: int64(r.Dest_offset), Length: int64(r.Src_length)}}
	t.Source = try.Get(describe(from))
	if r.Src_length == 0 { // up to its end
		var st unix.Stat_t
		try.Check(unix.Fstat(from, &st))
		t.Length = max(0, st.Size-int64(r.Src_offset))
	}
	t.do = func() (int64, error) {
		if err := unix.IoctlFileCloneRange(to, &r); err != nil {
			return 0, err
		}
		t.Data, err = written(to, t.Offset, t.Length)
		return 0, err
	}
	return t, nil
}

// mmap is asked for only if it shares a file. A process that can write to the file can write
// through it, unseen.
func (a *ask) mmap() (_ *act, err error) {
	defer try.End(&err)
	fd, _, err := a.file(4)
	try.Check(err)
	flags := try.Get(unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0))
	if flags&unix.O_ACCMODE == unix.O_RDWR {
		return unknown("mmap of a file that it can write to, and shares")(a)
	}
	return nil, errGone
}
