package weak

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/try"
)

// A Node is a tree that does not change any more: what was found on a disk, or what
// a power cut leaves of it.
type Node struct {
	ID     crashpoint.ID
	Mode   fs.FileMode // type and permissions
	Data   *Blob       // of a file
	Target string      // of a symlink
	Names  map[string]*Node

	sum [sha256.Size]byte // of all of it but the IDs; zero: not asked yet
}

// A Blob is what a file holds. It does not change.
type Blob struct {
	bytes []byte
	sum   [sha256.Size]byte // zero: not asked yet
}

var empty = &Blob{}

// Len is its length in bytes.
func (b *Blob) Len() int64 { return int64(len(b.bytes)) }

func (b *Blob) with(at int64, data []byte) *Blob {
	next := make([]byte, max(b.Len(), at+int64(len(data))))
	copy(next, b.bytes)
	copy(next[at:], data)
	return &Blob{bytes: next}
}

func (b *Blob) resized(size int64) *Blob {
	next := make([]byte, size)
	copy(next, b.bytes)
	return &Blob{bytes: next}
}

// Sum tells blobs apart.
func (b *Blob) Sum() [sha256.Size]byte {
	if b.sum == ([sha256.Size]byte{}) {
		b.sum = sha256.Sum256(b.bytes)
	}
	return b.sum
}

// Sum tells trees apart: two have the same if they have the same names, modes,
// links and content.
func (n *Node) Sum() [sha256.Size]byte {
	if n.sum != ([sha256.Size]byte{}) {
		return n.sum
	}
	h := sha256.New()
	var head [4]byte
	binary.LittleEndian.PutUint32(head[:], uint32(n.Mode))
	h.Write(head[:])
	switch n.Mode.Type() {
	case fs.ModeDir:
		for _, name := range slices.Sorted(maps.Keys(n.Names)) {
			sum := n.Names[name].Sum()
			_, _ = io.WriteString(h, name+"\x00")
			h.Write(sum[:])
		}
	case fs.ModeSymlink:
		_, _ = io.WriteString(h, n.Target)
	default:
		if n.Data != nil {
			sum := n.Data.Sum()
			h.Write(sum[:])
		}
	}
	h.Sum(n.sum[:0])
	return n.sum
}

// ReadNode reads the directory dir with all that is in it.
func ReadNode(dir string) (*Node, error) {
	return read(dir, make(map[crashpoint.ID]*Node))
}

func read(name string, seen map[crashpoint.ID]*Node) (_ *Node, err error) {
	defer try.End(&err)
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	n := &Node{ID: crashpoint.ID{Dev: st.Dev, Ino: st.Ino}, Mode: fs.FileMode(st.Mode & 0o777)}
	if same := seen[n.ID]; same != nil {
		return same, nil
	}
	seen[n.ID] = n
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.Mode |= fs.ModeDir
		n.Names = make(map[string]*Node)
		entries := try.Get(os.ReadDir(name))
		for _, e := range entries {
			n.Names[e.Name()] = try.Get(read(filepath.Join(name, e.Name()), seen))
		}
	case unix.S_IFLNK:
		n.Mode |= fs.ModeSymlink
		n.Target = try.Get(os.Readlink(name))
	case unix.S_IFREG:
		n.Data = &Blob{bytes: try.Get(os.ReadFile(name))}
	default:
		n.Mode |= fs.ModeIrregular // a FIFO or socket: nothing is written to it
	}
	return n, nil
}

// Crash is what a power cut leaves. keep says which of the pending
// changes of an inode are there, by their place in Pending; data says what a file
// holds of which some change of its data is pending.
func (d *Disk) Crash(keep func(i *Inode, pending int) bool, data func(*Inode) *Blob) *Node {
	if d.clean == nil {
		d.clean = make(map[*Inode]*Node)
	}
	c := crash{d: d, keep: keep, data: data, made: make(map[*Inode]*Node)}
	n, _ := c.node(d.root)
	return n
}

type crash struct {
	d    *Disk
	keep func(*Inode, int) bool
	data func(*Inode) *Blob
	made map[*Inode]*Node // a file with two names is one file
}

// node is what is left of i. clean: no other power cut at this moment leaves
// anything else.
func (c *crash) node(i *Inode) (n *Node, clean bool) {
	if n := c.d.clean[i]; n != nil {
		return n, true
	}
	if n := c.made[i]; n != nil {
		return n, false
	}
	n = &Node{ID: i.ID, Mode: i.Type | i.kept.mode, Target: i.Target, Data: i.kept.data}
	clean = len(i.Pending) == 0
	names := i.kept.names
	if !clean && names != nil {
		names = maps.Clone(names)
	}
	written := false
	for k, change := range i.Pending {
		written = written || change.Data != nil
		if change.Data != nil || !c.keep(i, k) {
			continue
		}
		if change.HasMode {
			n.Mode = i.Type | change.Mode
		}
		for _, name := range change.Names {
			if name.Is == nil {
				delete(names, name.Name)
			} else {
				names[name.Name] = name.Is
			}
		}
	}
	if written {
		n.Data = c.data(i)
	}
	if i.Type.IsDir() {
		n.Names = make(map[string]*Node, len(names))
		for name, is := range names {
			sub, subClean := c.node(is)
			n.Names[name] = sub
			clean = clean && subClean
		}
	}
	if clean {
		c.d.clean[i] = n
	} else {
		c.made[i] = n
	}
	return n, clean
}

// resolve is what name, a path in n, leads to when links are followed; nil: nothing, or it
// leads out of n.
func (n *Node) resolve(name string) *Node {
links:
	for range 40 { // as many as Linux follows
		is, at := n, "."
		names := strings.Split(path.Clean(name), "/")
		for i, part := range names {
			next := is.Names[part]
			if next == nil || next.Mode.Type() == fs.ModeSymlink && path.IsAbs(next.Target) {
				return nil
			}
			if next.Mode.Type() == fs.ModeSymlink {
				// .. is what it looks like, as at holds no links.
				name = path.Join(at, next.Target, path.Join(names[i+1:]...))
				continue links
			}
			is, at = next, path.Join(at, part)
		}
		return is
	}
	return nil
}

// names are how many names what has the ID has in n.
func (n *Node) names(id crashpoint.ID) int {
	all := 0
	if n.ID == id {
		all = 1
	}
	for _, sub := range n.Names {
		all += sub.names(id)
	}
	return all
}

// Write makes the tree n at dir, which must not exist. Files with two names get them.
func (n *Node) Write(dir string) error {
	files := make(map[*Node]string)
	return show(dir, nil, n, func(name string, n *Node) error {
		if first := files[n]; first != "" {
			return os.Link(first, name)
		}
		files[n] = name
		return n.writeFile(name)
	})
}

func (n *Node) writeFile(name string) error {
	return errors.Join(os.WriteFile(name, n.Data.bytes, 0o600), os.Chmod(name, n.Mode.Perm()))
}

// show makes want what is at name, where now is; nil: nothing. Files are made by file.
func show(name string, is, want *Node, file func(name string, n *Node) error) (err error) {
	defer try.End(&err)
	switch {
	case is != nil && (is == want || is.Sum() == want.Sum()):
		return nil
	case is != nil && is.Mode.IsDir() && want.Mode.IsDir():
		for sub := range is.Names {
			if want.Names[sub] == nil {
				try.Check(os.RemoveAll(filepath.Join(name, sub)))
			}
		}
	case is != nil:
		try.Check(os.RemoveAll(name))
		is = nil
	}
	switch want.Mode.Type() {
	case fs.ModeSymlink:
		return os.Symlink(want.Target, name)
	case fs.ModeDir:
		names := map[string]*Node(nil)
		if is == nil {
			try.Check(os.Mkdir(name, 0o700))
		} else {
			names = is.Names
		}
		for sub, n := range want.Names {
			try.Check(show(filepath.Join(name, sub), names[sub], n, file))
		}
		return os.Chmod(name, want.Mode.Perm())
	case 0:
		return file(name, want)
	}
	return fmt.Errorf("cannot make %s: what it was is not known", name)
}
