package crashpoint

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// An act is a call that was understood.
type act struct {
	Call
	// do makes it, and returns what it returned.
	do func() (int64, error)
	// done notes what is known only now; may be nil. It is not called if the call
	// has failed.
	done func(result int64)
	// opens: the result is a descriptor of the supervisor that becomes one of the caller's,
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

	unix.SYS_WRITE:    func(a *ask) (*act, error) { return a.write(false) },
	unix.SYS_PWRITE64: func(a *ask) (*act, error) { return a.write(true) },
	unix.SYS_WRITEV:   unknownTo("writev", 0),
	unix.SYS_PWRITEV:  unknownTo("pwritev", 0),
	unix.SYS_PWRITEV2: unknownTo("pwritev2", 0),

	unix.SYS_COPY_FILE_RANGE: (*ask).copyFileRange,
	unix.SYS_SENDFILE:        unknownTo("sendfile", 0),
	unix.SYS_SPLICE:          unknownTo("splice", 2),
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
	unix.SYS_FCHOWNAT:   unknown("fchownat"),
	unix.SYS_FCHOWN:     unknownTo("fchown", 0),
	unix.SYS_UTIMENSAT:  unknown("utimensat"),
	unix.SYS_SETXATTR:   unknown("setxattr"),
	unix.SYS_LSETXATTR:  unknown("lsetxattr"),
	unix.SYS_FSETXATTR:  unknownTo("fsetxattr", 0),
	unix.SYS_SETXATTRAT: unknown("setxattrat"),

	unix.SYS_FCHMOD: func(a *ask) (*act, error) {
		mode := uint32(a.arg[1])
		return a.onFile(Call{Name: "chmod", Mode: fileMode(mode &^ unix.S_IFMT)}, func(fd int) error { return unix.Fchmod(fd, mode) })
	},
	unix.SYS_FSYNC: func(a *ask) (*act, error) { return a.onFile(Call{Name: "fsync"}, unix.Fsync) },
	unix.SYS_FDATASYNC: func(a *ask) (*act, error) {
		return a.onFile(Call{Name: "fsync"}, unix.Fdatasync)
	},
	unix.SYS_SYNCFS: func(a *ask) (*act, error) { return a.onFile(Call{Name: "syncfs"}, unix.Syncfs) },
	unix.SYS_SYNC: func(*ask) (*act, error) {
		return &act{Call: Call{Name: "syncfs"}, do: func() (int64, error) { unix.Sync(); return 0, nil }}, nil
	},
	// Not sync_file_range: it changes nothing, and makes nothing last.

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

// unknownTo is unknown, if the descriptor in argument i is of a file.
func unknownTo(name string, i int) func(*ask) (*act, error) {
	return func(a *ask) (*act, error) {
		if _, _, err := a.file(i); err != nil {
			return nil, err
		}
		return unknown(name)(a)
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

func (a *ask) openHow(dir, path int, how unix.OpenHow, open func(name, uint32) (int, error)) (_ *act, err error) {
	defer try.End(&err)
	flags := int(how.Flags)
	unnamed := flags&unix.O_TMPFILE == unix.O_TMPFILE
	n := try.Get(a.name(dir, path, flags&unix.O_NOFOLLOW == 0 && flags&(unix.O_CREAT|unix.O_EXCL) != unix.O_CREAT|unix.O_EXCL))
	exists := n.place.ID != ID{} && !unnamed
	if exists && (n.place.Type != 0 || flags&(unix.O_CREAT|unix.O_EXCL) != unix.O_CREAT|unix.O_EXCL && a.isUnreal(n)) {
		return nil, errGone // a device, a pipe, /proc: nothing is made and nothing truncated
	}
	mask := try.Get(a.umask())
	mode := uint32(how.Mode) &^ mask
	t := &act{Call: Call{Name: "open", File: n.place, Flags: flags}, opens: true, fdFlags: flags & unix.O_CLOEXEC}
	if flags&unix.O_CREAT != 0 || unnamed {
		t.Mode = fileMode(mode)
	}
	if unnamed {
		t.File = Place{}
	}
	t.do = func() (_ int64, err error) {
		defer try.End(&err)
		fd := try.Get(open(n, mode))
		a.keep(fd)
		if !exists {
			made := try.Get(describe(fd))
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
