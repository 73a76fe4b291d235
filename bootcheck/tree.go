package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"
)

// Depth says how much of a tree CheckTree looks at.
type Depth int

const (
	// Quick looks at every entry's type, mode, size and link target: a few
	// microseconds each, and no file is read.
	Quick Depth = iota
	// Start also hashes the entry points: the files that may be executed in the
	// tree's root, in bin and in sbin, in the manifest's order and up to startBytes
	// altogether. One that does not fit any more is looked at as by Quick. This is
	// what a boot looks at.
	Start
	// Content also hashes every file. What the manifest does not list is left
	// alone: an application that wrote a cache beside its own files must not make
	// its version useless for a rollback.
	Content
	// Sealed is Content of a factory version: no user may write to what it has.
	Sealed
	// Full is Content, and refuses what Extra lists: what the manifest does not.
	Full
)

// startBytes bounds what Start reads, in bytes. The service reads the same pages a
// moment later anyway, so reading them from flash is paid once; what it adds is
// the hashing: 39 ms at 1.7 GB/s with SHA instructions, 290 ms at 230 MB/s without.
const startBytes = 64 << 20

// CheckTree checks the snapshot in dir against its manifest. A mode without its
// write bits is as good as the one that the manifest says, as a factory version
// is kept 0555 and 0444. What is in .ota is not read: the reader of m did that. No link
// is followed, and a FIFO in the place of a file does not block.
//
// The error names the first wrong file, "bin/device-api: size 812, want 800",
// and is an *Error with ExitDamaged; an error of the disk (EIO) is in it. One that is
// Inconclusive is no *Error. If ctx ends, its error is returned as it is.
func CheckTree(ctx context.Context, dir string, m *Manifest, depth Depth) error {
	c := treeCheck{hasher: hasher{ctx: ctx}, depth: depth}
	return c.run(dir, m)
}

type treeCheck struct {
	hasher
	depth   Depth
	dirs    Dirs
	started int64     // bytes of entry points that were hashed
	wrong   *[]string // entries that are damaged, all of them; nil: the first ends it
}

func (c *treeCheck) run(dir string, m *Manifest) error {
	root, err := openDirectory(dir)
	if err == nil {
		c.dirs.root = root
		err = c.check(m)
		c.close()
		c.dirs.Close()
		_ = root.Close()
	}
	switch {
	case err == nil:
		return nil
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	}
	return damage(CodeHashMismatch, err)
}

func (c *treeCheck) check(m *Manifest) error {
	if c.depth == Sealed {
		if err := c.checkSealed(".", ManifestDir, ManifestPath); err != nil {
			return err
		}
	}
	lost := make(map[string]error) // directories that cannot be opened, each asked once
	for i := range m.Entries {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		e := &m.Entries[i]
		dir := path.Dir(e.Path)
		err := lost[dir]
		if err == nil {
			var fd int
			if fd, err = c.dirs.dir(dir); err != nil {
				lost[dir] = err
			} else {
				err = c.checkEntry(fd, e)
			}
		}
		if err != nil && c.wrong != nil && !Inconclusive(err) {
			*c.wrong = append(*c.wrong, e.Path)
		} else if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	}
	if c.depth == Full {
		extra, err := extraIn(c.dirs.root.Name(), m, false)
		if len(extra) > 0 {
			err = fmt.Errorf("%q: the manifest does not list it", extra[0])
		}
		return err
	}
	return nil
}

// reads reports whether the content of e is to be looked at.
func (c *treeCheck) reads(e *Entry) bool {
	if c.depth != Start {
		return c.depth >= Content
	}
	dir := path.Dir(e.Path)
	if e.Mode&0o111 == 0 || dir != "." && dir != "bin" && dir != "sbin" || c.started+e.Size > startBytes {
		return false
	}
	c.started += e.Size
	return true
}

// checkSealed sees that no user may write to names, which no manifest lists.
func (c *treeCheck) checkSealed(names ...string) error {
	for _, name := range names {
		var st unix.Stat_t
		if err := statAt(int(c.dirs.root.Fd()), name, &st); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if st.Mode&0o222 != 0 {
			return fmt.Errorf("%s: mode %04o, want %04o", name, st.Mode&modeBits, st.Mode&modeBits&^0o222)
		}
	}
	return nil
}

// modeBits are all bits of a mode that chmod sets.
const modeBits = 0o7777

// checkEntry checks e, in its directory, which is open as fd.
func (c *treeCheck) checkEntry(fd int, e *Entry) error {
	name := path.Base(e.Path)
	var st unix.Stat_t
	if err := statAt(fd, name, &st); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("it is missing: %w", err)
		}
		return err
	}
	want := map[EntryType]uint32{TypeDir: unix.S_IFDIR, TypeFile: unix.S_IFREG, TypeLink: unix.S_IFLNK}[e.Type]
	if got := st.Mode & unix.S_IFMT; got != want {
		return fmt.Errorf("it is a %s, want a %s", typeName(got), e.Type)
	}
	if e.Type == TypeLink {
		return checkLink(fd, name, e.Target)
	}
	got, mode := st.Mode&modeBits, uint32(e.Mode)
	if c.depth == Sealed {
		mode &^= 0o222
	}
	switch {
	case got != mode && got != mode&^0o222:
		return fmt.Errorf("mode %04o, want %04o", got, mode)
	case e.Type == TypeDir && c.depth >= Content: // an empty one, too
		_, err := c.dirs.dir(e.Path)
		return err
	case e.Type == TypeDir:
		return nil
	case st.Size != e.Size:
		return fmt.Errorf("size %d, want %d", st.Size, e.Size)
	case !c.reads(e):
		return nil
	}
	f, err := openNoFollow(fd, name, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return c.copy(nil, f, e)
}

func checkLink(fd int, name, want string) error {
	// One byte more than allowed, to see that a target is longer.
	buf := make([]byte, MaxPath+1)
	n, err := retried(func() (int, error) { return unix.Readlinkat(fd, name, buf) })
	if err != nil {
		return fmt.Errorf("cannot read the link: %w", err)
	}
	if got := string(buf[:n]); got != want {
		return fmt.Errorf("link to %.80q, want %q", got, want)
	}
	return nil
}

func typeName(format uint32) string {
	switch format {
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "link"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "device"
}
