package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

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
	// Full is Content, and refuses what the manifest does not list, in .ota too: there
	// only the manifest and its signature may be.
	Full
)

// startBytes bounds what Start reads, in bytes. The service reads the same pages a
// moment later anyway, so reading them from flash is paid once; what it adds is
// the hashing: 39 ms at 1.7 GB/s with SHA instructions, 290 ms at 230 MB/s without.
const startBytes = 64 << 20

// hashBuffer is what is read from a file at once, bytes: larger gains nothing.
const hashBuffer = 256 << 10

// CheckTree checks the snapshot in dir against its manifest. A mode without its
// write bits is as good as the one that the manifest says, as a factory version
// is kept 0555 and 0444. What is in .ota is not read: the reader of m did that. No link
// is followed, and a FIFO in the place of a file does not block.
//
// The error names the first wrong file, "bin/device-api: size 812, want 800",
// and is an *Error with ExitDamaged; an error of the disk (EIO) is in it. One that is
// Inconclusive is no *Error. If ctx ends, its error is returned as it is.
func CheckTree(ctx context.Context, dir string, m *Manifest, depth Depth) error {
	c := treeCheck{ctx: ctx, depth: depth}
	return c.run(dir, m)
}

func (c *treeCheck) run(dir string, m *Manifest) error {
	c.children = make(map[string][]*Entry)
	for i := range m.Entries {
		e := &m.Entries[i]
		parent := path.Dir(e.Path)
		c.children[parent] = append(c.children[parent], e)
	}
	root, err := openDirectory(dir)
	if err == nil {
		defer func() { _ = root.Close() }()
		if c.depth == Sealed {
			err = checkSealed(root, ".", ManifestDir, ManifestPath)
		}
		if err == nil {
			err = c.checkDir(root, ".")
		}
	}
	switch {
	case err == nil:
		return nil
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	}
	return damage(CodeHashMismatch, err)
}

type treeCheck struct {
	ctx      context.Context
	depth    Depth
	children map[string][]*Entry // by path of the directory
	started  int64               // bytes of entry points that were hashed
	wrong    *[]string           // entries that are damaged, all of them; nil: the first ends it
	buf      []byte
	sum      hash.Hash
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

// checkDir checks what is in the directory open as d. It holds a descriptor for
// each level, at most MaxDepth.
func (c *treeCheck) checkDir(d *os.File, dir string) error {
	if c.depth == Full {
		if err := c.checkExtra(d, dir); err != nil {
			return err
		}
	}
	for _, e := range c.children[dir] {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		err := c.checkEntry(d, e)
		if err != nil && c.wrong != nil && !Inconclusive(err) {
			*c.wrong = append(*c.wrong, e.Path)
		} else if err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if e.Type != TypeDir || len(c.children[e.Path]) == 0 && c.depth < Content {
			continue
		}
		sub, openErr := openNoFollow(int(d.Fd()), path.Base(e.Path), unix.O_DIRECTORY)
		if openErr != nil && c.wrong != nil && !Inconclusive(openErr) {
			*c.wrong = append(*c.wrong, c.below(e.Path)...)
			continue
		}
		if openErr != nil {
			return fmt.Errorf("%s: %w", e.Path, openErr)
		}
		err = c.checkDir(sub, e.Path)
		_ = sub.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// below lists the entries below the directory dir.
func (c *treeCheck) below(dir string) (paths []string) {
	for _, e := range c.children[dir] {
		paths = append(append(paths, e.Path), c.below(e.Path)...)
	}
	return paths
}

func (c *treeCheck) checkExtra(d *os.File, dir string) error {
	known := make(map[string]bool, len(c.children[dir]))
	for _, e := range c.children[dir] {
		known[path.Base(e.Path)] = true
	}
	names, err := namesIn(d)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	for _, name := range names {
		if !known[name] && (dir != "." || name != ManifestDir) {
			return fmt.Errorf("%q: the manifest does not list it", path.Join(dir, name))
		}
	}
	if dir == "." {
		return checkManifestDir(d)
	}
	return nil
}

// checkManifestDir refuses everything in .ota but its two files. No directory .ota is
// no failure: m was read somewhere.
func checkManifestDir(root *os.File) error {
	d, err := openNoFollow(int(root.Fd()), ManifestDir, unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", ManifestDir, err)
	}
	defer func() { _ = d.Close() }()
	names, err := namesIn(d)
	if err != nil {
		return fmt.Errorf("%s: %w", ManifestDir, err)
	}
	for _, name := range names {
		full := path.Join(ManifestDir, name)
		if full != ManifestPath && full != SignaturePath {
			return fmt.Errorf("%q: only the manifest and its signature belong there", full)
		}
		var st unix.Stat_t
		if err := statAt(d, name, &st); err != nil {
			return fmt.Errorf("%s: %w", full, err)
		}
		if got := st.Mode & unix.S_IFMT; got != unix.S_IFREG {
			return fmt.Errorf("%s: it is a %s, want a %s", full, typeName(got), TypeFile)
		}
	}
	return nil
}

// checkSealed sees that no user may write to names below root, which no manifest lists.
func checkSealed(root *os.File, names ...string) error {
	for _, name := range names {
		var st unix.Stat_t
		if err := statAt(root, name, &st); err != nil {
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

func (c *treeCheck) checkEntry(d *os.File, e *Entry) error {
	name := path.Base(e.Path)
	var st unix.Stat_t
	if err := statAt(d, name, &st); err != nil {
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
		return checkLink(d, name, e.Target)
	}
	got, mode := st.Mode&modeBits, uint32(e.Mode)
	if c.depth == Sealed {
		mode &^= 0o222
	}
	if got != mode && got != mode&^0o222 {
		return fmt.Errorf("mode %04o, want %04o", got, mode)
	}
	if e.Type != TypeFile {
		return nil
	}
	if st.Size != e.Size {
		return fmt.Errorf("size %d, want %d", st.Size, e.Size)
	}
	if c.reads(e) {
		return c.checkContent(d, name, e)
	}
	return nil
}

func checkLink(d *os.File, name, want string) error {
	// One byte more than allowed, to see that a target is longer.
	buf := make([]byte, MaxPath+1)
	n, err := retried(func() (int, error) { return unix.Readlinkat(int(d.Fd()), name, buf) })
	if err != nil {
		return fmt.Errorf("cannot read the link: %w", err)
	}
	if got := string(buf[:n]); got != want {
		return fmt.Errorf("link to %.80q, want %q", got, want)
	}
	return nil
}

func (c *treeCheck) checkContent(d *os.File, name string, e *Entry) error {
	f, err := openNoFollow(int(d.Fd()), name, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if c.buf == nil {
		c.buf, c.sum = make([]byte, hashBuffer), sha256.New()
	}
	return Retry(func() error {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return c.hash(f, e)
	})
}

// CheckContent fails unless f, from where it is, has the size and the hash of e. If ctx
// ends, its error is returned as it is.
func (e *Entry) CheckContent(ctx context.Context, f io.Reader) error {
	c := treeCheck{ctx: ctx, buf: make([]byte, min(hashBuffer, e.Size+1)), sum: sha256.New()}
	return c.hash(f, e)
}

// hash is CheckContent.
func (c *treeCheck) hash(f io.Reader, e *Entry) error {
	c.sum.Reset()
	var size int64
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(c.buf)
		c.sum.Write(c.buf[:n])
		// A file that grows meanwhile must not be read for ever.
		if size += int64(n); size > e.Size {
			return fmt.Errorf("size %d, want %d", size, e.Size)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if size != e.Size {
		return fmt.Errorf("size %d, want %d", size, e.Size)
	}
	if got := hex.EncodeToString(c.sum.Sum(nil)); got != e.SHA256 {
		return fmt.Errorf("sha256 %s, want %s", got, e.SHA256)
	}
	return nil
}

// openBeneath opens the file path below the directory fd. No component may be a
// link. openat2 would do it in one call, but is newer (5.6) than some kernels in
// the field.
func openBeneath(fd int, p string) (*os.File, error) {
	dir, name := path.Split(p)
	at := fd
	for part := range strings.SplitSeq(strings.TrimSuffix(dir, "/"), "/") {
		if part == "" {
			continue
		}
		d, err := openNoFollow(at, part, unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		defer func() { _ = d.Close() }()
		at = int(d.Fd())
	}
	return openNoFollow(at, name, 0)
}

// openNoFollow opens name, one component, in the directory fd for reading, with Retry.
func openNoFollow(fd int, name string, flags int) (*os.File, error) {
	n, err := openAt(fd, name, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), name), nil
}

// openAt is openNoFollow without what an os.File costs.
func openAt(fd int, name string, flags int) (int, error) {
	return retried(func() (int, error) {
		return unix.Openat(fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|flags, 0)
	})
}

// openDirectory opens the directory dir; a link leads to it, if there is one.
func openDirectory(dir string) (*os.File, error) {
	return retried(func() (*os.File, error) { return os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0) })
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
