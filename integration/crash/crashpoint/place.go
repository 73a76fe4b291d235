package crashpoint

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// here is, as an argument's number, AT_FDCWD.
const here = -1

// dir is the directory that paths of the caller are relative to: a copy of the
// descriptor in argument i, or of the working directory.
func (a *ask) dir(i int) (int, error) {
	if i != here && int32(a.arg[i]) != unix.AT_FDCWD {
		return a.fd(int(int32(a.arg[i])))
	}
	if a.here == 0 {
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/cwd", a.tid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, errGone
		}
		a.here = a.keep(fd)
	}
	return a.here, nil
}

// A name is a path of the caller as it can be given to the kernel again, and what
// it means.
type name struct {
	dir   int
	path  string
	place Place
}

// name reads the path in argument path, relative to that in argument dir. follow:
// if it is a link, the call means what that leads to.
func (a *ask) name(dir, path int, follow bool) (_ name, err error) {
	defer try.End(&err)
	try.Check(a.inOurs())
	text := try.Get(a.path(a.arg[path]))
	n := name{path: text}
	if n.dir = unix.AT_FDCWD; !strings.HasPrefix(text, "/") {
		n.dir = try.Get(a.dir(dir))
	}
	n.place, err = a.locate(n.dir, text, follow)
	return n, err
}

// locate finds out which file a path means. Of one that no call can reach it says
// at least how it was called.
func (a *ask) locate(dir int, path string, follow bool) (Place, error) {
	for range 40 { // MAXSYMLINKS, linux/namei.h
		parent, base := filepath.Split(strings.TrimRight(path, "/"))
		if base == "" || base == "." || base == ".." {
			return a.opened(dir, path)
		}
		if parent == "" {
			parent = "."
		}
		fd, err := unix.Openat(dir, parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return unreachable(dir, path), nil
		}
		a.keep(fd)
		var st unix.Stat_t
		err = unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK && (follow || strings.HasSuffix(path, "/")) {
			if unreal(fd) {
				return a.opened(dir, path) // a link of /proc leads where no text does
			}
			buf := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(fd, base, buf)
			if err != nil {
				return Place{}, errGone
			}
			dir, path = fd, string(buf[:n])
			continue
		}
		p := Place{Path: filepath.Join(pathOf(fd), base)}
		if err == nil {
			p.is(&st)
		}
		return p, nil
	}
	return unreachable(dir, path), nil // ELOOP
}

// opened is the place of a path that has no last component, or a link of /proc.
func (a *ask) opened(dir int, path string) (Place, error) {
	if path == "" {
		path = "."
	}
	fd, err := unix.Openat(dir, path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return unreachable(dir, path), nil
	}
	return describe(a.keep(fd))
}

func unreachable(dir int, path string) Place {
	if !filepath.IsAbs(path) {
		path = filepath.Join(pathOf(dir), path)
	}
	return Place{Path: filepath.Clean(path)}
}

func (p *Place) is(st *unix.Stat_t) {
	p.ID = ID{Dev: uint64(st.Dev), Ino: st.Ino}
	p.Type = fileMode(st.Mode).Type()
	if st.Mode&unix.S_IFMT == 0 {
		p.Type = fs.ModeIrregular // an eventfd, a timer and their like
	}
}

// describe is the place of a descriptor.
func describe(fd int) (Place, error) {
	var st, named unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Place{}, err
	}
	p := Place{Path: pathOf(fd)}
	p.is(&st)
	// A file whose name was removed is told with " (deleted)" behind it, which may
	// be a name, too.
	if strings.HasSuffix(p.Path, " (deleted)") && (unix.Lstat(p.Path, &named) != nil || named.Ino != st.Ino || named.Dev != st.Dev) {
		if strings.HasPrefix(p.Path, "/memfd:") {
			p.Type = fs.ModeIrregular // memory
		}
		p.Path = ""
	}
	return p, nil
}

// pathOf is how the kernel calls a descriptor.
func pathOf(fd int) string {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// unreal reports whether fd is on a file system that is no file system: what is
// written there is an order to the kernel.
func unreal(fd int) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return false
	}
	return slices.Contains([]int64{
		unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.DEVPTS_SUPER_MAGIC,
	}, int64(st.Type))
}

// file is a copy of the descriptor in argument i and its place. Of what is not on a
// file system, the call is not looked at: errGone.
func (a *ask) file(i int) (_ int, _ Place, err error) {
	defer try.End(&err)
	fd := try.Get(a.fd(int(int32(a.arg[i]))))
	p := try.Get(describe(fd))
	if !isFile(p) || unreal(fd) {
		return 0, Place{}, errGone
	}
	return fd, p, nil
}

// isFile reports whether a place is a file, a directory or a link.
func isFile(p Place) bool {
	switch p.Type {
	case 0, fs.ModeDir, fs.ModeSymlink:
		return p.ID != ID{}
	}
	return false
}

// fileTypes are those of the kernel, as Go writes them.
var fileTypes = map[uint32]fs.FileMode{
	unix.S_IFDIR: fs.ModeDir, unix.S_IFLNK: fs.ModeSymlink, unix.S_IFIFO: fs.ModeNamedPipe, unix.S_IFSOCK: fs.ModeSocket,
	unix.S_IFBLK: fs.ModeDevice, unix.S_IFCHR: fs.ModeDevice | fs.ModeCharDevice,
}

// fileMode is a mode of the kernel's as Go writes it.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode&0o777) | fileTypes[mode&unix.S_IFMT]
	for bit, name := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= name
		}
	}
	return m
}
