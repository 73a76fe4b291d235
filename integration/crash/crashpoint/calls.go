package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An act is a call that was understood.
type act struct {
	Call
	// do makes it, and returns what it returned.
	do func() (int64, error)
	// done notes what is known only now; may be nil. It is not called if the call
	// has failed.
	done func(result int64)
	// opens: the result is a descriptor of ours that becomes one of the caller's,
	// with these flags.
	opens   bool
	fdFlags int
}

// calls are all that are asked for. Each says what a call is about and how to make
// it, and changes nothing. The error errGone leaves the call to the kernel: it
// changes no file system, or fails. Any other ends the run.
var calls = map[uint32]func(*ask) (*act, error){
	unix.SYS_OPENAT: func(a *ask) (*act, error) {
		return a.open(0, 1, int(int32(a.arg[2])), uint32(a.arg[3]))
	},
	unix.SYS_OPENAT2: (*ask).openat2,

	unix.SYS_WRITE:    func(a *ask) (*act, error) { return a.write([]uint64{a.arg[1], a.arg[2]}, false, 0) },
	unix.SYS_PWRITE64: func(a *ask) (*act, error) { return a.write([]uint64{a.arg[1], a.arg[2]}, true, int64(a.arg[3])) },
	unix.SYS_WRITEV:   func(a *ask) (*act, error) { return a.writev(false, 0) },
	unix.SYS_PWRITEV:  func(a *ask) (*act, error) { return a.writev(true, int64(a.arg[3])) },
	unix.SYS_PWRITEV2: unknown("pwritev2"),

	unix.SYS_COPY_FILE_RANGE: (*ask).copyFileRange,
	unix.SYS_SENDFILE:        (*ask).sendfile,
	unix.SYS_SPLICE:          (*ask).splice,
	unix.SYS_IOCTL:           (*ask).ioctl,
	unix.SYS_MMAP:            (*ask).mmap,

	unix.SYS_TRUNCATE: func(a *ask) (*act, error) {
		n, err := a.name(here, 0, true)
		if err != nil {
			return nil, err
		}
		size := int64(a.arg[1])
		return &act{Call: Call{Name: "truncate", File: n.place, Offset: size},
			do: func() (int64, error) {
				// There is no truncateat: a descriptor does it.
				fd, err := unix.Openat(n.dir, n.path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
				if err != nil {
					return 0, err
				}
				return 0, unix.Ftruncate(a.keep(fd), size)
			}}, nil
	},
	unix.SYS_FTRUNCATE: func(a *ask) (*act, error) {
		size := int64(a.arg[1])
		return a.onFile(Call{Name: "truncate", Offset: size}, func(fd int) error { return unix.Ftruncate(fd, size) })
	},
	unix.SYS_FALLOCATE: func(a *ask) (*act, error) {
		c := Call{Name: "fallocate", Flags: int(int32(a.arg[1])), Offset: int64(a.arg[2]), Length: int64(a.arg[3])}
		return a.onFile(c, func(fd int) error { return unix.Fallocate(fd, uint32(c.Flags), c.Offset, c.Length) })
	},

	unix.SYS_MKDIRAT:    func(a *ask) (*act, error) { return a.mkdir(0, 1, 2) },
	unix.SYS_UNLINKAT:   func(a *ask) (*act, error) { return a.unlink(0, 1, int(int32(a.arg[2]))) },
	unix.SYS_SYMLINKAT:  func(a *ask) (*act, error) { return a.symlink(0, 1, 2) },
	unix.SYS_LINKAT:     func(a *ask) (*act, error) { return a.link(0, 1, 2, 3, int(int32(a.arg[4]))) },
	unix.SYS_RENAMEAT:   func(a *ask) (*act, error) { return a.rename(0, 1, 2, 3, 0) },
	unix.SYS_RENAMEAT2:  func(a *ask) (*act, error) { return a.rename(0, 1, 2, 3, int(uint32(a.arg[4]))) },
	unix.SYS_FCHMODAT:   func(a *ask) (*act, error) { return a.chmod(0, 1, 2, 0) },
	unix.SYS_FCHMODAT2:  func(a *ask) (*act, error) { return a.chmod(0, 1, 2, int(uint32(a.arg[3]))) },
	unix.SYS_FCHOWNAT:   func(a *ask) (*act, error) { return a.chown(0, 1, 2, int(int32(a.arg[4]))) },
	unix.SYS_UTIMENSAT:  (*ask).utimensat,
	unix.SYS_SETXATTR:   func(a *ask) (*act, error) { return a.setxattr(true) },
	unix.SYS_LSETXATTR:  func(a *ask) (*act, error) { return a.setxattr(false) },
	unix.SYS_FSETXATTR:  (*ask).fsetxattr,
	unix.SYS_SETXATTRAT: unknown("setxattrat"),

	unix.SYS_FCHMOD: func(a *ask) (*act, error) {
		mode := uint32(a.arg[1])
		return a.onFile(Call{Name: "chmod", Mode: fileMode(mode &^ unix.S_IFMT)}, func(fd int) error { return unix.Fchmod(fd, mode) })
	},
	unix.SYS_FCHOWN: func(a *ask) (*act, error) {
		c := Call{Name: "chown", Owner: int(int32(a.arg[1])), Group: int(int32(a.arg[2]))}
		return a.onFile(c, func(fd int) error { return unix.Fchown(fd, c.Owner, c.Group) })
	},

	unix.SYS_FSYNC: func(a *ask) (*act, error) { return a.onFile(Call{Name: "fsync"}, unix.Fsync) },
	unix.SYS_FDATASYNC: func(a *ask) (*act, error) {
		return a.onFile(Call{Name: "fsync"}, unix.Fdatasync)
	},
	unix.SYS_SYNCFS: func(a *ask) (*act, error) { return a.onFile(Call{Name: "syncfs"}, unix.Syncfs) },
	unix.SYS_SYNC: func(*ask) (*act, error) {
		return &act{Call: Call{Name: "syncfs"}, do: func() (int64, error) { unix.Sync(); return 0, nil }}, nil
	},
	unix.SYS_SYNC_FILE_RANGE: func(a *ask) (*act, error) {
		c := Call{Name: "syncrange", Offset: int64(a.arg[1]), Length: int64(a.arg[2])}
		return a.onFile(c, func(fd int) error { return unix.SyncFileRange(fd, c.Offset, c.Length, int(int32(a.arg[3]))) })
	},

	// A socket with a name makes a file.
	unix.SYS_BIND: func(a *ask) (*act, error) {
		address := make([]byte, 3)
		if a.arg[2] < uint64(len(address)) {
			return nil, errGone
		}
		if err := a.memory(a.arg[1], address); err != nil {
			return nil, err
		}
		if *(*uint16)(unsafe.Pointer(&address[0])) != unix.AF_UNIX || address[2] == 0 {
			return nil, errGone
		}
		return unknown("bind of a socket with a name")(a)
	},

	unix.SYS_MKNODAT:           unknown("mknodat"),
	unix.SYS_REMOVEXATTR:       unknown("removexattr"),
	unix.SYS_LREMOVEXATTR:      unknown("lremovexattr"),
	unix.SYS_FREMOVEXATTR:      unknown("fremovexattr"),
	unix.SYS_REMOVEXATTRAT:     unknown("removexattrat"),
	unix.SYS_FILE_SETATTR:      unknown("file_setattr"),
	unix.SYS_OPEN_BY_HANDLE_AT: unknown("open_by_handle_at"),
	unix.SYS_IO_URING_SETUP:    unknown("io_uring_setup"),
	unix.SYS_IO_SETUP:          unknown("io_setup"),
	unix.SYS_MOUNT:             unknown("mount"),
	unix.SYS_UMOUNT2:           unknown("umount2"),
	unix.SYS_MOVE_MOUNT:        unknown("move_mount"),
	unix.SYS_FSMOUNT:           unknown("fsmount"),
	unix.SYS_MOUNT_SETATTR:     unknown("mount_setattr"),
	unix.SYS_PIVOT_ROOT:        unknown("pivot_root"),
	unix.SYS_SWAPON:            unknown("swapon"),
	unix.SYS_QUOTACTL:          unknown("quotactl"),
}

// unknown is a call that may change a file system in a way that no log can tell.
func unknown(name string) func(*ask) (*act, error) {
	return func(a *ask) (*act, error) {
		return nil, fmt.Errorf("%s (process %d) calls %s, which this supervisor does not understand: it may have changed a file system unseen", a.program(), a.pid, name)
	}
}

// onFile is a call on the descriptor in argument 0.
func (a *ask) onFile(c Call, do func(fd int) error) (*act, error) {
	fd, place, err := a.file(0)
	if err != nil {
		return nil, err
	}
	c.File = place
	return &act{Call: c, do: func() (int64, error) { return 0, do(fd) }}, nil
}

func (a *ask) open(dir, path, flags int, mode uint32) (*act, error) {
	return a.openHow(dir, path, unix.OpenHow{Flags: uint64(uint32(flags)), Mode: uint64(mode & 0o7777)},
		func(n name, mode uint32) (int, error) {
			return unix.Openat(n.dir, n.path, flags|unix.O_CLOEXEC, mode)
		})
}

func (a *ask) openat2() (*act, error) {
	var how unix.OpenHow
	size := int(unsafe.Sizeof(how))
	if a.arg[3] != uint64(size) {
		return unknown(fmt.Sprintf("openat2 with %d bytes of what it wants", a.arg[3]))(a)
	}
	if err := a.memory(a.arg[2], unsafe.Slice((*byte)(unsafe.Pointer(&how)), size)); err != nil {
		return nil, err
	}
	if how.Flags&mayMake == 0 {
		return nil, errGone
	}
	if how.Resolve&unix.RESOLVE_IN_ROOT != 0 {
		return unknown("openat2 in a root of its own")(a)
	}
	return a.openHow(0, 1, how, func(n name, mode uint32) (int, error) {
		mine := how
		mine.Flags |= unix.O_CLOEXEC
		if mine.Mode != 0 {
			mine.Mode = uint64(mode)
		}
		return unix.Openat2(n.dir, n.path, &mine)
	})
}

func (a *ask) openHow(dir, path int, how unix.OpenHow, open func(name, uint32) (int, error)) (*act, error) {
	flags := int(how.Flags)
	unnamed := flags&unix.O_TMPFILE == unix.O_TMPFILE
	n, err := a.name(dir, path, flags&unix.O_NOFOLLOW == 0 && flags&(unix.O_CREAT|unix.O_EXCL) != unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return nil, err
	}
	exists := n.place.ID != ID{} && !unnamed
	if exists && (n.place.Type != 0 || flags&(unix.O_CREAT|unix.O_EXCL) != unix.O_CREAT|unix.O_EXCL && a.isUnreal(n)) {
		return nil, errGone // a device, a pipe, /proc: nothing is made and nothing truncated
	}
	mask, err := a.umask()
	if err != nil {
		return nil, err
	}
	mode := uint32(how.Mode) &^ mask
	t := &act{Call: Call{Name: "open", File: n.place, Flags: flags}, opens: true, fdFlags: flags & unix.O_CLOEXEC}
	if flags&unix.O_CREAT != 0 || unnamed {
		t.Mode = fileMode(mode)
	}
	if unnamed {
		t.File = Place{}
	}
	t.do = func() (int64, error) {
		fd, err := open(n, mode)
		if err != nil {
			return 0, err
		}
		a.keep(fd)
		if !exists {
			made, err := describe(fd)
			if err != nil {
				return 0, err
			}
			t.File.ID, t.File.Type, t.File.Made = made.ID, made.Type, true
		}
		return int64(fd), nil
	}
	return t, nil
}

func (a *ask) isUnreal(n name) bool {
	fd, err := unix.Openat(n.dir, n.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	return err == nil && unreal(a.keep(fd))
}

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

func (a *ask) mkdir(dir, path, mode int) (*act, error) {
	n, err := a.name(dir, path, false)
	if err != nil {
		return nil, err
	}
	mask, err := a.umask()
	if err != nil {
		return nil, err
	}
	bits := uint32(a.arg[mode]) & 0o1777 &^ mask // linux/fs.h, vfs_mkdir
	t := &act{Call: Call{Name: "mkdir", File: n.place, Mode: fileMode(bits)}}
	t.do = func() (int64, error) { return 0, unix.Mkdirat(n.dir, n.path, bits) }
	t.done = func(int64) { a.made(&t.File, n) }
	return t, nil
}

// made notes what a call has made in p.
func (a *ask) made(p *Place, n name) {
	if now, err := a.locate(n.dir, n.path, false); err == nil {
		p.ID, p.Type, p.Made = now.ID, now.Type, true
	}
}

func (a *ask) unlink(dir, path, flags int) (*act, error) {
	n, err := a.name(dir, path, false)
	if err != nil {
		return nil, err
	}
	return &act{Call: Call{Name: "unlink", File: n.place, Flags: flags},
		do: func() (int64, error) { return 0, unix.Unlinkat(n.dir, n.path, flags) }}, nil
}

func (a *ask) symlink(target, dir, path int) (*act, error) {
	text, err := a.text(a.arg[target])
	if err != nil {
		return nil, err
	}
	n, err := a.name(dir, path, false)
	if err != nil {
		return nil, err
	}
	t := &act{Call: Call{Name: "symlink", File: n.place, Target: text}}
	t.do = func() (int64, error) { return 0, unix.Symlinkat(text, n.dir, n.path) }
	t.done = func(int64) { a.made(&t.File, n) }
	return t, nil
}

func (a *ask) link(dir, path, toDir, toPath, flags int) (*act, error) {
	from, err := a.nameOrFile(dir, path, flags, flags&unix.AT_SYMLINK_FOLLOW != 0)
	if err != nil {
		return nil, err
	}
	to, err := a.name(toDir, toPath, false)
	if err != nil {
		return nil, err
	}
	return &act{Call: Call{Name: "link", File: from.place, Source: from.place, To: to.place, Flags: flags},
		do: func() (int64, error) { return 0, unix.Linkat(from.dir, from.path, to.dir, to.path, flags) }}, nil
}

func (a *ask) rename(dir, path, toDir, toPath, flags int) (*act, error) {
	from, err := a.name(dir, path, false)
	if err != nil {
		return nil, err
	}
	to, err := a.name(toDir, toPath, false)
	if err != nil {
		return nil, err
	}
	return &act{Call: Call{Name: "rename", File: from.place, To: to.place, Flags: flags},
		do: func() (int64, error) {
			return 0, unix.Renameat2(from.dir, from.path, to.dir, to.path, uint(flags))
		}}, nil
}

// nameOrFile is name, but of the descriptor itself if the path is empty and flags
// say that it may be.
func (a *ask) nameOrFile(dir, path, flags int, follow bool) (name, error) {
	if flags&unix.AT_EMPTY_PATH != 0 {
		text, err := a.text(a.arg[path])
		if err != nil {
			return name{}, err
		}
		if text == "" {
			fd, err := a.dir(dir)
			if err != nil {
				return name{}, err
			}
			p, err := describe(fd)
			return name{dir: fd, place: p}, err
		}
	}
	return a.name(dir, path, follow)
}

func (a *ask) chmod(dir, path, mode, flags int) (*act, error) {
	n, err := a.nameOrFile(dir, path, flags, flags&unix.AT_SYMLINK_NOFOLLOW == 0)
	if err != nil {
		return nil, err
	}
	if !isFile(n.place) && n.place.ID != (ID{}) {
		return nil, errGone
	}
	bits := uint32(a.arg[mode])
	return &act{Call: Call{Name: "chmod", File: n.place, Flags: flags, Mode: fileMode(bits &^ unix.S_IFMT)},
		do: func() (int64, error) { return 0, unix.Fchmodat(n.dir, n.path, bits, flags) }}, nil
}

func (a *ask) chown(dir, path, owner, flags int) (*act, error) {
	n, err := a.nameOrFile(dir, path, flags, flags&unix.AT_SYMLINK_NOFOLLOW == 0)
	if err != nil {
		return nil, err
	}
	if !isFile(n.place) && n.place.ID != (ID{}) {
		return nil, errGone
	}
	uid, gid := int(int32(a.arg[owner])), int(int32(a.arg[owner+1]))
	return &act{Call: Call{Name: "chown", File: n.place, Flags: flags, Owner: uid, Group: gid},
		do: func() (int64, error) { return 0, unix.Fchownat(n.dir, n.path, uid, gid, flags) }}, nil
}

func (a *ask) utimensat() (*act, error) {
	flags := int(int32(a.arg[3]))
	var n name
	var err error
	if a.arg[1] == 0 { // the descriptor itself
		n.dir, n.place, err = a.file(0)
	} else {
		n, err = a.nameOrFile(0, 1, flags, flags&unix.AT_SYMLINK_NOFOLLOW == 0)
	}
	if err != nil {
		return nil, err
	}
	if !isFile(n.place) && n.place.ID != (ID{}) {
		return nil, errGone
	}
	t := &act{Call: Call{Name: "utimes", File: n.place, Flags: flags}}
	if a.arg[2] != 0 {
		v, err := a.numbers(a.arg[2], 4)
		if err != nil {
			return nil, err
		}
		t.Times = []unix.Timespec{{Sec: v[0], Nsec: v[1]}, {Sec: v[2], Nsec: v[3]}}
	}
	t.do = func() (int64, error) {
		var path *byte
		if a.arg[1] != 0 {
			if path, err = unix.BytePtrFromString(n.path); err != nil {
				return 0, err
			}
		}
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(n.dir), uintptr(unsafe.Pointer(path)), uintptr(unsafe.Pointer(unsafe.SliceData(t.Times))), uintptr(flags), 0, 0)
		if errno != 0 {
			return 0, errno
		}
		return 0, nil
	}
	return t, nil
}

func (a *ask) setxattr(follow bool) (*act, error) {
	n, err := a.name(here, 0, follow)
	if err != nil {
		return nil, err
	}
	// There is no form with a folder before 6.13: what it means is opened.
	flags := unix.O_PATH | unix.O_CLOEXEC
	if !follow {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat(n.dir, n.path, flags, 0)
	if err != nil {
		return nil, errGone
	}
	own := fmt.Sprintf("/proc/self/fd/%d", a.keep(fd))
	return a.attribute(n.place, func(name string, value []byte, flags int) error {
		return unix.Setxattr(own, name, value, flags)
	})
}

func (a *ask) fsetxattr() (*act, error) {
	fd, place, err := a.file(0)
	if err != nil {
		return nil, err
	}
	return a.attribute(place, func(name string, value []byte, flags int) error {
		return unix.Fsetxattr(fd, name, value, flags)
	})
}

func (a *ask) attribute(p Place, set func(name string, value []byte, flags int) error) (*act, error) {
	name, err := a.text(a.arg[1])
	if err != nil {
		return nil, err
	}
	if a.arg[3] > 64<<10 { // XATTR_SIZE_MAX
		return nil, errGone
	}
	value := make([]byte, a.arg[3])
	if err := a.memory(a.arg[2], value); err != nil {
		return nil, err
	}
	flags := int(int32(a.arg[4]))
	return &act{Call: Call{Name: "setxattr", File: p, Flags: flags, Target: name, Data: bytes.Clone(value)},
		do: func() (int64, error) { return 0, set(name, value, flags) }}, nil
}

// errnoOf is the number of an error of a call.
func errnoOf(err error) (unix.Errno, bool) {
	var errno unix.Errno
	ok := errors.As(err, &errno)
	return errno, ok
}
