package bootcheck

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Fill makes what a manifest lists in an empty directory, in these steps:
//
//	NewFill    makes the directories, and .ota
//	Take       gets the files that another version on this device has
//	Finish     makes the links, and gives the directories their modes
//	Sync       makes all of it durable
//
// Files that no donor has the caller makes, between NewFill and Finish, and sets Have.
// What an error leaves behind the caller removes.
type Fill struct {
	M      *Manifest
	Sealed bool   // no user gets the right to write, as in a factory version
	Have   []bool // by entry: files that are there
	Taken  int64  // bytes of content of those that Take took
	Unread error  // why a donor could not be read, which says nothing about it; nil: all could

	// Resolve is asked where each link leads, when those that stay inside are made. nil:
	// a caller asked that of the same manifest before.
	Resolve func(link string) error

	root *os.File // open since before the first write
}

// NewFill begins in the directory dir, which is empty and the caller's. raw is the text of the manifest
// m, signature that of its signature; nil: it has none.
func NewFill(dir string, m *Manifest, raw, signature []byte, sealed bool) (*Fill, error) {
	root, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	f := &Fill{M: m, Sealed: sealed, Have: make([]bool, len(m.Entries)), root: root}
	if err := f.begin(raw, signature); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Fill) begin(raw, signature []byte) error {
	if _, err := f.root.ReadDir(1); !errors.Is(err, io.EOF) {
		return cmp.Or(err, fmt.Errorf("%s is not empty", f.root.Name()))
	}
	dirs := f.Dirs()
	defer dirs.Close()
	write := func(name string, content []byte, mode Mode) error {
		file, err := dirs.Create(name)
		if err != nil {
			return err
		}
		return WriteAndClose(file, content, f.mode(mode))
	}
	// Directories get their modes in Finish: until then this program writes to them.
	if err := dirs.mkdir(ManifestDir); err != nil {
		return err
	}
	if err := write(ManifestPath, raw, 0o644); err != nil {
		return err
	}
	if signature != nil {
		if err := write(SignaturePath, signature, 0o644); err != nil {
			return err
		}
	}
	for i := range f.M.Entries {
		var err error
		switch e := &f.M.Entries[i]; {
		case e.Type == TypeDir:
			err = dirs.mkdir(e.Path)
		case e.Type == TypeFile && e.Size == 0: // it needs no donor
			err = write(e.Path, nil, e.Mode)
			f.Have[i] = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Dirs is for what makes files in the new tree.
func (f *Fill) Dirs() Dirs { return Dirs{root: f.root} }

// Close lets go of what NewFill opened.
func (f *Fill) Close() {
	_ = f.root.Close()
}

func (f *Fill) mode(m Mode) Mode {
	if f.Sealed {
		m &^= 0o222
	}
	return m
}

// Missing are the files that are not there yet.
func (f *Fill) Missing() (paths []string) {
	for i := range f.M.Entries {
		if e := &f.M.Entries[i]; e.Type == TypeFile && !f.Have[i] {
			paths = append(paths, e.Path)
		}
	}
	return paths
}

// Finish makes the links, sees where each leads on this disk, and gives the directories
// their modes, the deepest first.
func (f *Fill) Finish() error {
	dirs := f.Dirs()
	defer dirs.Close()
	links := func(external bool) error {
		for i := range f.M.Entries {
			if e := &f.M.Entries[i]; e.Type == TypeLink && e.External == external {
				fd, err := dirs.fd(e.Path)
				if err == nil {
					err = unix.Symlinkat(e.Target, fd, path.Base(e.Path))
				}
				if err != nil {
					return &fs.PathError{Op: "symlink", Path: e.Path, Err: err}
				}
			}
		}
		return nil
	}
	if err := links(false); err != nil {
		return err
	}
	// ParseManifest has resolved the links on paper. This is the same by the
	// kernel, in case the two do not agree, before there is a link that leads out.
	for i := range f.M.Entries {
		if e := &f.M.Entries[i]; e.Type == TypeLink && !e.External && f.Resolve != nil {
			if err := f.Resolve(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return Errorf(ExitDamaged, CodeInvalidManifest, "link %q -> %q refused: %w", e.Path, e.Target, err)
			}
		}
	}
	if err := links(true); err != nil {
		return err
	}
	for i := len(f.M.Entries) - 1; i >= 0; i-- {
		if e := &f.M.Entries[i]; e.Type == TypeDir {
			if err := dirs.chmod(e.Path, f.mode(e.Mode)); err != nil {
				return err
			}
		}
	}
	return errors.Join(dirs.chmod(ManifestDir, f.mode(0o755)), dirs.chmod(".", f.mode(0o755)))
}

// Sync makes all of it durable, files and directories, .ota too: by one syncfs, on a
// descriptor that was opened before the first write, so that no write error of the
// device can be missed. Where the kernel is older than 5.8, syncfs does not say that the
// content of a file could not be written: there, each is synced by itself. The name of
// Root in its parent is the caller's business.
func (f *Fill) Sync() error {
	if !syncfsTells() {
		if err := f.syncEach(); err != nil {
			return fmt.Errorf("the disk did not take it: %w", err)
		}
		return nil
	}
	if err := unix.Syncfs(int(f.root.Fd())); err != nil {
		return fmt.Errorf("the disk did not take it: %w", os.NewSyscallError("syncfs", err))
	}
	return nil
}

// syncfsTells reports whether syncfs returns the write errors of files: since Linux
// 5.8. syncFile is what is done otherwise. Variables for the tests.
var (
	syncfsTells = sync.OnceValue(func() bool {
		var name unix.Utsname
		var major, minor int
		if unix.Uname(&name) == nil {
			_, _ = fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
		}
		return major > 5 || major == 5 && minor >= 8
	})
	syncFile = (*os.File).Sync
)

// syncEach makes each file and directory durable, the files before the directories
// that they are in.
func (f *Fill) syncEach() error {
	dirs := f.Dirs()
	defer dirs.Close()
	names := []string{ManifestDir, SignaturePath, ManifestPath}
	for i := range f.M.Entries {
		if e := &f.M.Entries[i]; e.Type != TypeLink {
			names = append(names, e.Path)
		}
	}
	for _, name := range slices.Backward(names) {
		file, err := dirs.openFile(name, 0)
		if errors.Is(err, fs.ErrNotExist) && name == SignaturePath {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(syncFile(file), file.Close()); err != nil {
			return err // never a second time: all of it is thrown away
		}
	}
	return syncFile(f.root)
}

// A Dirs opens and makes what is in one tree, by paths of which no component may be a
// link. It keeps the directories that lead to the last one open for the next one: in the
// order of a manifest, each is opened once.
type Dirs struct {
	root *os.File
	open []openedDir // each in the one before
}

// An openedDir is a descriptor of a directory, and its name in the one above it.
type openedDir struct {
	name string
	fd   int
}

// fd returns a descriptor of the directory of p, which stays that of c.
func (c *Dirs) fd(p string) (int, error) {
	if !fs.ValidPath(p) { // ParseManifest refuses such names; this is the second wall
		return -1, errors.New("path escapes from the version")
	}
	return c.dir(path.Dir(p))
}

// dir returns a descriptor of the directory dir, "." is the root; it stays that of c.
func (c *Dirs) dir(dir string) (int, error) {
	fd, depth := int(c.root.Fd()), 0
	if dir == "." {
		return fd, nil
	}
	for name := range strings.SplitSeq(dir, "/") {
		if depth == len(c.open) || c.open[depth].name != name {
			c.closeBelow(depth)
			opened, err := openAt(fd, name, unix.O_DIRECTORY)
			if err != nil {
				return -1, err
			}
			c.open = append(c.open, openedDir{name, opened})
		}
		fd = c.open[depth].fd
		depth++
	}
	return fd, nil
}

// closeBelow closes all but the first depth directories.
func (c *Dirs) closeBelow(depth int) {
	for _, d := range c.open[depth:] {
		_ = unix.Close(d.fd)
	}
	c.open = c.open[:depth]
}

// openFile opens p for reading. A FIFO is not waited for, as os.Root would.
func (c *Dirs) openFile(p string, flags int) (*os.File, error) {
	fd, err := c.fd(p)
	if err != nil {
		return nil, err
	}
	return openNoFollow(fd, path.Base(p), flags)
}

// Create makes the file p, which must not be there.
func (c *Dirs) Create(p string) (*os.File, error) {
	fd, err := c.fd(p)
	if err == nil {
		const flags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC // a clone is read, too
		fd, err = unix.Openat(fd, path.Base(p), flags, 0o600)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

func (c *Dirs) mkdir(p string) error {
	fd, err := c.fd(p)
	if err == nil {
		err = unix.Mkdirat(fd, path.Base(p), 0o700)
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	return nil
}

// Remove removes the file p.
func (c *Dirs) Remove(p string) error {
	fd, err := c.fd(p)
	if err != nil {
		return err
	}
	return unix.Unlinkat(fd, path.Base(p), 0)
}

// chmod changes the mode of the directory p: by name it would follow links.
func (c *Dirs) chmod(p string, mode Mode) error {
	d, err := c.openFile(p, unix.O_DIRECTORY)
	if err != nil {
		return &fs.PathError{Op: "open", Path: p, Err: err}
	}
	defer func() { _ = d.Close() }()
	return setMode(d, mode)
}

// Close lets go of the directories that are open.
func (c *Dirs) Close() { c.closeBelow(0) }

// Write writes content to f. The disk begins to take what is long while the rest is made:
// a kernel with memory to spare keeps all of it until Sync.
func Write(f *os.File, content []byte) error {
	_, err := f.Write(content)
	if err == nil && len(content) >= longWrite {
		// A wish: what the disk does not take, Sync says.
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return err
}

// longWrite, in bytes, is from where a write to the disk is worth one of its own; what is
// shorter it takes together with other files.
const longWrite = 256 << 10

// WriteAndClose writes the end of f, and gives it its mode.
func WriteAndClose(f *os.File, content []byte, mode Mode) error {
	err := Write(f, content)
	if err == nil {
		err = setMode(f, mode)
	}
	// Close reports what a network file system or a quota has kept for it.
	return errors.Join(err, f.Close())
}

// setMode gives f, which belongs to this process, its mode.
func setMode(f *os.File, mode Mode) error {
	err := f.Chmod(mode.Perm())
	if errors.Is(err, unix.EPERM) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) {
		return Unfit(f.Name(), fmt.Sprintf("cannot keep the mode %v", mode)) // vfat
	}
	return err
}
