// Package disk is a file system in memory that a log of calls is played on. Of
// everything it knows what a power cut cannot take any more, and what it may, by the
// weakest rules that POSIX allows:
//
//   - A name (made, linked, renamed, removed) is durable after an fsync of its
//     folder, and not before.
//   - What a file holds, its length and its mode are durable after an fsync of the
//     file, which says nothing about its name.
//   - A syncfs makes durable whatever is on its file system.
//   - A sync that failed makes nothing durable, and no later one makes up for it: the
//     kernel may have dropped what it could not write.
//   - sync_file_range promises nothing.
//
// What is not durable may be there or not, each change for itself, whatever came
// before or after it. So a rename from one folder to another may leave both names,
// or none. Two things are taken to be one, because no program could be right
// without: a rename within one folder is done or not, and a name that is given to
// another file is the old or the new one, never gone. The text of a symlink comes
// with the link, since nothing could make it durable alone.
package disk

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
)

// A Disk is some folders, as they are now and as a power cut may leave them.
type Disk struct {
	tops  map[string]*Inode
	files map[crashpoint.ID]*Inode
	clean map[*Inode]*Node // of what nothing is pending, see Crash
}

// An Inode is a file, folder or link, whatever its names are. Its fields say how it
// is now.
type Inode struct {
	ID     crashpoint.ID
	Type   fs.FileMode // only the bits of the type
	Mode   fs.FileMode // only those of the permissions
	Target string      // of a symlink
	Data   *Blob       // of a file
	Names  map[string]*Inode
	// Pending is what changed it and is not durable, in order.
	Pending []*Change

	// kept is what a power cut cannot take.
	kept struct {
		mode  fs.FileMode
		data  *Blob
		names map[string]*Inode
	}
}

// A Change is one thing that a power cut takes or leaves as a whole.
type Change struct {
	Point int
	// Lost: a sync of it failed. It may yet be there, but nothing makes it durable.
	Lost bool
	// Names are the names of a folder that it changed: two if it renamed within it.
	Names []Name
	// Data is what the file held from then on; nil: it did not change that.
	Data *Blob
	// Mode is what the file's mode was from then on, if HasMode.
	Mode    fs.FileMode
	HasMode bool
}

// A Name is what a change made a name mean; Is is nil where it was removed.
type Name struct {
	Name string
	Is   *Inode
}

// New makes a disk with folders, by their paths, which are durable.
func New(folders map[string]*Node) *Disk {
	d := &Disk{tops: make(map[string]*Inode), files: make(map[crashpoint.ID]*Inode)}
	for name, n := range folders {
		d.tops[filepath.Clean(name)] = d.add(n)
	}
	return d
}

func (d *Disk) add(n *Node) *Inode {
	if i := d.files[n.ID]; i != nil {
		return i // another name of it
	}
	i := &Inode{ID: n.ID, Type: n.Mode.Type(), Mode: n.Mode.Perm(), Target: n.Target, Data: n.Data}
	d.files[n.ID] = i
	if n.Mode.IsDir() {
		i.Names = make(map[string]*Inode, len(n.Names))
		for name, sub := range n.Names {
			i.Names[name] = d.add(sub)
		}
	}
	i.kept.mode, i.kept.data, i.kept.names = i.Mode, i.Data, maps.Clone(i.Names)
	return i
}

// Unsettle takes name as if it had got its meaning a moment ago, and nobody had synced
// its folder since. It is an error if there is no such name.
func (d *Disk) Unsettle(name string) error {
	dir, base, err := d.parent(name)
	if err != nil {
		return err
	}
	if dir == nil || dir.Names[base] == nil {
		return fmt.Errorf("there is no %s", name)
	}
	delete(dir.kept.names, base)
	dir.Pending = append(dir.Pending, &Change{Names: []Name{{base, dir.Names[base]}}})
	return nil
}

// Top is the path of the folder of the disk that name is in, or is; empty: it is in none.
func (d *Disk) Top(name string) string {
	for top := range d.tops {
		if name == top || strings.HasPrefix(name, top+"/") {
			return top
		}
	}
	return ""
}

// Lookup is what has the name now, no link followed; nil: nothing.
func (d *Disk) Lookup(name string) *Inode {
	name = filepath.Clean(name)
	top := d.Top(name)
	if top == "" {
		return nil
	}
	i := d.tops[top]
	for _, part := range strings.Split(strings.TrimPrefix(name[len(top):], "/"), "/") {
		if part != "" && i != nil {
			i = i.Names[part]
		}
	}
	return i
}

// A Step is one name on the way that a path leads.
type Step struct {
	Dir  *Inode
	Path string // of what it names
	Name string
}

// Resolve follows name, and links, to what it leads to now; nil: it leads nowhere,
// or out of the disk. steps are all names on the way.
func (d *Disk) Resolve(name string) (is *Inode, steps []Step) {
	const most = 40 // links, as Linux
	name = filepath.Clean(name)
	for links := 0; links <= most; {
		top := d.Top(name)
		if top == "" {
			return nil, steps
		}
		dir, at, rest := d.tops[top], top, strings.TrimPrefix(name[len(top):], "/")
		again := false
		for rest != "" {
			var part string
			part, rest, _ = strings.Cut(rest, "/")
			next := dir.Names[part]
			if next == nil {
				return nil, steps
			}
			steps = append(steps, Step{dir, path.Join(at, part), part})
			if next.Type == fs.ModeSymlink {
				if filepath.IsAbs(next.Target) {
					return nil, steps
				}
				// .. of a path without links is what it looks like: of one with
				// links too, as at holds none.
				name, again = path.Join(at, next.Target, rest), true
				links++
				break
			}
			dir, at = next, path.Join(at, part)
		}
		if !again {
			return dir, steps
		}
	}
	return nil, steps
}

// Play does what c did. It is an error if c cannot have been called on this disk:
// then a call is missing in the log. What is outside of all folders changes nothing.
func (d *Disk) Play(c *crashpoint.Call) error {
	d.clean = nil
	if err := d.play(c); err != nil {
		return fmt.Errorf("point %d: cannot play %s of %q: %w", c.Point, c.Name, c.File.Path, err)
	}
	return nil
}

func (d *Disk) play(c *crashpoint.Call) error {
	if c.Errno != 0 {
		switch c.Name {
		case "fsync":
			if c.Errno != unix.EINTR {
				d.lose(d.files[c.File.ID])
			}
		case "syncfs":
			for _, i := range d.files {
				d.lose(i)
			}
		}
		return nil
	}
	switch c.Name {
	case "open":
		return d.open(c)
	case "mkdir":
		return d.make(c, &Inode{Type: fs.ModeDir, Mode: c.Mode.Perm(), Names: map[string]*Inode{}})
	case "symlink":
		return d.make(c, &Inode{Type: fs.ModeSymlink, Mode: 0o777, Target: c.Target})
	case "link":
		return d.link(c)
	case "rename":
		return d.rename(c)
	case "unlink":
		dir, name, err := d.parent(c.File.Path)
		if err != nil || dir == nil {
			return err
		}
		if dir.Names[name] == nil {
			return fs.ErrNotExist
		}
		dir.bind(c.Point, Name{name, nil})
		return nil
	case "fsync":
		d.keep(d.files[c.File.ID])
		return nil
	case "syncfs":
		for _, i := range d.files {
			if c.File.ID.Dev == 0 || i.ID.Dev == c.File.ID.Dev { // 0: sync, of all
				d.keep(i)
			}
		}
		return nil
	}
	i := d.files[c.File.ID]
	if i == nil {
		if d.Top(c.File.Path) != "" && d.Lookup(c.File.Path) != nil {
			return fmt.Errorf("it is another file than %v", c.File.ID)
		}
		return nil
	}
	switch c.Name {
	case "write", "copy", "clone":
		i.write(c.Point, i.Data.with(c.Offset, c.Data))
	case "truncate":
		i.write(c.Point, i.Data.resized(c.Offset))
	case "fallocate":
		const keepSize, punch = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE
		switch {
		case c.Flags&punch != 0:
			end := min(c.Offset+c.Length, i.Data.Len())
			i.write(c.Point, i.Data.with(c.Offset, make([]byte, max(0, end-c.Offset))))
		case c.Flags&keepSize == 0 && c.Offset+c.Length > i.Data.Len():
			i.write(c.Point, i.Data.resized(c.Offset+c.Length))
		}
	case "utimes":
		// No program believes a time.
	case "chmod":
		i.Mode = c.Mode.Perm()
		i.Pending = append(i.Pending, &Change{Point: c.Point, Mode: i.Mode, HasMode: true})
	}
	return nil
}

func (d *Disk) open(c *crashpoint.Call) error {
	if c.File.Made {
		return d.make(c, &Inode{Mode: c.Mode.Perm(), Data: empty})
	}
	if i := d.files[c.File.ID]; i != nil && c.Flags&unix.O_TRUNC != 0 && i.Type.IsRegular() && i.Data.Len() > 0 {
		i.write(c.Point, empty)
	}
	return nil
}

func (d *Disk) make(c *crashpoint.Call, i *Inode) error {
	dir, name, err := d.parent(c.File.Path)
	if err != nil || dir == nil {
		return err
	}
	if dir.Names[name] != nil {
		return fs.ErrExist
	}
	if c.File.ID == (crashpoint.ID{}) {
		return fmt.Errorf("the log does not say which file it made")
	}
	i.ID = c.File.ID
	// There is nothing else to be had of it: what it was made with is what it has
	// if its name is there.
	i.kept.mode, i.kept.data = i.Mode, i.Data
	if i.Names != nil {
		i.kept.names = map[string]*Inode{}
	}
	d.files[i.ID] = i // a number that is used again is of another file
	dir.bind(c.Point, Name{name, i})
	return nil
}

func (d *Disk) link(c *crashpoint.Call) error {
	dir, name, err := d.parent(c.To.Path)
	if err != nil || dir == nil {
		return err
	}
	i := d.files[c.File.ID]
	if i == nil {
		return fs.ErrNotExist
	}
	dir.bind(c.Point, Name{name, i})
	return nil
}

func (d *Disk) rename(c *crashpoint.Call) error {
	from, old, err := d.parent(c.File.Path)
	if err != nil {
		return err
	}
	to, name, err := d.parent(c.To.Path)
	if err != nil {
		return err
	}
	if from == nil && to == nil {
		return nil
	}
	if from == nil || to == nil {
		return fmt.Errorf("it goes out of what is played, or comes in")
	}
	i := from.Names[old]
	if i == nil {
		return fs.ErrNotExist
	}
	var back *Inode // what the old name means then
	if c.Flags&unix.RENAME_EXCHANGE != 0 {
		back = to.Names[name]
	} else if to.Names[name] == i {
		return nil // two names of one file: nothing happens
	}
	if from == to {
		from.bind(c.Point, Name{old, back}, Name{name, i})
		return nil
	}
	from.bind(c.Point, Name{old, back})
	to.bind(c.Point, Name{name, i})
	return nil
}

// parent is the folder that name is in. nil: it is outside of the disk.
func (d *Disk) parent(name string) (dir *Inode, base string, err error) {
	if d.Top(name) == "" || d.tops[name] != nil {
		return nil, "", nil
	}
	dir = d.Lookup(filepath.Dir(name))
	if dir == nil || !dir.Type.IsDir() {
		return nil, "", fmt.Errorf("there is no folder %s", filepath.Dir(name))
	}
	return dir, filepath.Base(name), nil
}

func (i *Inode) bind(point int, names ...Name) {
	for _, n := range names {
		if n.Is == nil {
			delete(i.Names, n.Name)
		} else {
			i.Names[n.Name] = n.Is
		}
	}
	i.Pending = append(i.Pending, &Change{Point: point, Names: names})
}

func (i *Inode) write(point int, data *Blob) {
	i.Data = data
	i.Pending = append(i.Pending, &Change{Point: point, Data: data})
}

// keep makes durable what a sync of i does.
func (d *Disk) keep(i *Inode) {
	if i == nil || len(i.Pending) == 0 {
		return
	}
	var lost []*Change
	for _, c := range i.Pending {
		if c.Lost {
			lost = append(lost, c)
			continue
		}
		i.apply(c)
		// What is durable now is not undone by what was lost before it.
		for _, before := range lost {
			before.Names = slices.DeleteFunc(before.Names, func(n Name) bool {
				return slices.ContainsFunc(c.Names, func(now Name) bool { return now.Name == n.Name })
			})
		}
	}
	i.Pending = slices.DeleteFunc(lost, func(c *Change) bool { return c.Names != nil && len(c.Names) == 0 })
}

// apply makes c part of what is durable.
func (i *Inode) apply(c *Change) {
	for _, n := range c.Names {
		if n.Is == nil {
			delete(i.kept.names, n.Name)
		} else {
			i.kept.names[n.Name] = n.Is
		}
	}
	if c.Data != nil {
		i.kept.data = c.Data
	}
	if c.HasMode {
		i.kept.mode = c.Mode
	}
}

// lose says that what is pending of i could not be written.
func (d *Disk) lose(i *Inode) {
	if i == nil {
		return
	}
	for _, c := range i.Pending {
		c.Lost = true
	}
}

// Unsynced are the changes of the name that are not durable.
func (i *Inode) Unsynced(name string) []*Change {
	var changes []*Change
	for _, c := range i.Pending {
		if slices.ContainsFunc(c.Names, func(n Name) bool { return n.Name == name }) {
			changes = append(changes, c)
		}
	}
	return changes
}

// Walk calls f for i and everything below, with its path below i, in order.
func (i *Inode) Walk(f func(name string, i *Inode)) { i.walk(".", f) }

func (i *Inode) walk(at string, f func(string, *Inode)) {
	f(at, i)
	for _, name := range slices.Sorted(maps.Keys(i.Names)) {
		i.Names[name].walk(path.Join(at, name), f)
	}
}

// MayHold is whatever a power cut may leave in the folder i, each once, in an order
// that is the same each time.
func (i *Inode) MayHold() []*Inode {
	var all []*Inode
	add := func(is *Inode) {
		if is != nil && !slices.Contains(all, is) {
			all = append(all, is)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.kept.names)) {
		add(i.kept.names[name])
	}
	for _, c := range i.Pending {
		for _, n := range c.Names {
			add(n.Is)
		}
	}
	return all
}
