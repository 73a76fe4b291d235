package crashpoint

import (
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

func (a *ask) mkdir(dir, path, mode int) (_ *act, err error) {
	defer try.End(&err)
	n := try.Get(a.name(dir, path, false))
	mask := try.Get(a.umask())
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

func (a *ask) symlink(target, dir, path int) (_ *act, err error) {
	defer try.End(&err)
	text := try.Get(a.text(a.arg[target]))
	n := try.Get(a.name(dir, path, false))
	t := &act{Call: Call{Name: "symlink", File: n.place, Target: text}}
	t.do = func() (int64, error) { return 0, unix.Symlinkat(text, n.dir, n.path) }
	t.done = func(int64) { a.made(&t.File, n) }
	return t, nil
}

func (a *ask) link(dir, path, toDir, toPath, flags int) (_ *act, err error) {
	defer try.End(&err)
	from := try.Get(a.nameOrFile(dir, path, flags, flags&unix.AT_SYMLINK_FOLLOW != 0))
	to := try.Get(a.name(toDir, toPath, false))
	return &act{Call: Call{Name: "link", File: from.place, Source: from.place, To: to.place, Flags: flags},
		do: func() (int64, error) { return 0, unix.Linkat(from.dir, from.path, to.dir, to.path, flags) }}, nil
}

func (a *ask) rename(dir, path, toDir, toPath, flags int) (_ *act, err error) {
	defer try.End(&err)
	from := try.Get(a.name(dir, path, false))
	to := try.Get(a.name(toDir, toPath, false))
	return &act{Call: Call{Name: "rename", File: from.place, To: to.place, Flags: flags},
		do: func() (int64, error) {
			return 0, unix.Renameat2(from.dir, from.path, to.dir, to.path, uint(flags))
		}}, nil
}

// nameOrFile is name, but of the descriptor itself if the path is empty and flags
// say that it may be.
func (a *ask) nameOrFile(dir, path, flags int, follow bool) (_ name, err error) {
	defer try.End(&err)
	if flags&unix.AT_EMPTY_PATH != 0 {
		text := try.Get(a.text(a.arg[path]))
		if text == "" {
			fd := try.Get(a.dir(dir))
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
