package crashpoint

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// write is of the parts in vector: address, length, address, length. fixed: at
// offset, else where the file is.
func (a *ask) write(vector []uint64, fixed bool, offset int64) (*act, error) {
	fd, place, err := a.file(0)
	if err != nil {
		return nil, err
	}
	var data []byte
	for i := 0; i < len(vector); i += 2 {
		part := make([]byte, vector[i+1])
		if err := a.memory(vector[i], part); err != nil {
			return nil, err
		}
		data = append(data, part...)
	}
	t := &act{Call: Call{Name: "write", File: place, Offset: offset, Length: int64(len(data)), Data: data}}
	if t.Offset, err = startOf(fd, fixed, offset); err != nil {
		return nil, err
	}
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

func (a *ask) writev(fixed bool, offset int64) (*act, error) {
	if a.arg[2] > 1024 { // UIO_MAXIOV
		return nil, errGone
	}
	parts, err := a.numbers(a.arg[1], 2*int(a.arg[2]))
	if err != nil {
		return nil, err
	}
	vector := make([]uint64, len(parts))
	for i, v := range parts {
		vector[i] = uint64(v)
	}
	return a.write(vector, fixed, offset)
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
		return 0, errGone // a folder
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

func (a *ask) copyFileRange() (*act, error) {
	flags := int(uint32(a.arg[5]))
	return a.move("copy", 0, 1, 2, 3, int(a.arg[4]), func(in int, inAt *int64, out int, outAt *int64, n int) (int, error) {
		return unix.CopyFileRange(in, inAt, out, outAt, n, flags)
	})
}

func (a *ask) sendfile() (*act, error) {
	return a.move("copy", 1, 2, 0, here, int(a.arg[3]), func(in int, inAt *int64, out int, _ *int64, n int) (int, error) {
		return unix.Sendfile(out, in, inAt, n)
	})
}

func (a *ask) splice() (*act, error) {
	flags := int(uint32(a.arg[5]))
	t, err := a.move("write", 0, 1, 2, 3, int(a.arg[4]), func(in int, inAt *int64, out int, outAt *int64, n int) (int, error) {
		k, _, errno := unix.Syscall6(unix.SYS_SPLICE, uintptr(in), uintptr(unsafe.Pointer(inAt)), uintptr(out), uintptr(unsafe.Pointer(outAt)), uintptr(n), uintptr(flags))
		if errno != 0 {
			return 0, errno
		}
		return int(k), nil
	})
	if err == nil && flags&unix.SPLICE_F_NONBLOCK == 0 {
		return unknown("splice that may wait")(a) // all would wait with it
	}
	return t, err
}

// move is a call that moves n bytes from the descriptor in argument in to that in
// argument out, each at the offset that another argument points to, if it does.
func (a *ask) move(name string, in, inAt, out, outAt, n int, do func(in int, inAt *int64, out int, outAt *int64, n int) (int, error)) (*act, error) {
	to, place, err := a.file(out)
	if err != nil {
		return nil, err
	}
	from, err := a.fd(int(int32(a.arg[in])))
	if err != nil {
		return nil, err
	}
	t := &act{Call: Call{Name: name, File: place, Length: int64(n)}}
	if t.Source, err = describe(from); err != nil {
		return nil, err
	}
	var at [2]*int64
	for i, argument := range []int{inAt, outAt} {
		if argument != here && a.arg[argument] != 0 {
			v, err := a.numbers(a.arg[argument], 1)
			if err != nil {
				return nil, err
			}
			at[i] = &v[0]
		}
	}
	fixed := int64(0)
	if at[1] != nil {
		fixed = *at[1]
	}
	if t.Offset, err = startOf(to, at[1] != nil, fixed); err != nil {
		return nil, err
	}
	t.do = func() (int64, error) {
		k, err := do(from, at[0], to, at[1], n)
		if err != nil {
			return 0, err
		}
		for i, argument := range []int{inAt, outAt} {
			if at[i] != nil {
				if err := a.poke(a.arg[argument], *at[i]); err != nil {
					return 0, err
				}
			}
		}
		t.Data, err = written(to, t.Offset, int64(k))
		return int64(k), err
	}
	t.done = func(k int64) { t.Length = k }
	return t, nil
}

func (a *ask) ioctl() (*act, error) {
	request := uint32(a.arg[1])
	if request != unix.FICLONE && request != unix.FICLONERANGE {
		return unknown(fmt.Sprintf("ioctl %#x", request))(a)
	}
	to, place, err := a.file(0)
	if err != nil {
		return nil, err
	}
	r := unix.FileCloneRange{Src_fd: int64(int32(a.arg[2]))}
	if request == unix.FICLONERANGE {
		if err := a.memory(a.arg[2], unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))); err != nil {
			return nil, err
		}
	}
	from, err := a.fd(int(r.Src_fd))
	if err != nil {
		return nil, err
	}
	r.Src_fd = int64(from)
	t := &act{Call: Call{Name: "clone", File: place, Offset: int64(r.Dest_offset), Length: int64(r.Src_length)}}
	if t.Source, err = describe(from); err != nil {
		return nil, err
	}
	if r.Src_length == 0 { // up to its end
		var st unix.Stat_t
		if err := unix.Fstat(from, &st); err != nil {
			return nil, err
		}
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

// mmap is asked for only if it shares a file. Who can write to the file can write
// through it, unseen.
func (a *ask) mmap() (*act, error) {
	fd, _, err := a.file(4)
	if err != nil {
		return nil, err
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	if flags&unix.O_ACCMODE == unix.O_RDWR {
		return unknown("mmap of a file that it can write to, and shares")(a)
	}
	return nil, errGone
}
