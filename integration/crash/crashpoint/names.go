package crashpoint

import (
	"bytes"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

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
