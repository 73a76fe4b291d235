package weak

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
)

// A disk is a file system in memory that a log of calls is played on. Of everything it
// knows what a power cut cannot take any more, and what it may, by the
// weakest rules that POSIX allows:
//
//   - A name (made, linked, renamed, removed) is durable after an fsync of its
//     directory, and not before.
//   - What a file holds, its length and its mode are durable after an fsync of the
//     file, which says nothing about its name.
//   - A syncfs makes durable all that is on its file system.
//   - A sync that failed makes nothing durable, and no later one makes up for it: the
//     kernel may have dropped what it could not write.
//   - sync_file_range promises nothing.
//
// What is not durable may be there or not, each change for itself, also without those that came
// before or after it. So a rename from one directory to another may leave both names,
// or none. Two things are taken to be one, because no program could be right
// without: a rename within one directory is done or not, and a name that is given to
// another file is the old or the new one, never gone. The text of a symlink comes
// with the link, since nothing could make it durable alone.

// A Disk is a directory, as it is now and as a power cut may leave it.
type Disk struct {
	top   string
	root  *Inode // at top
	files map[crashpoint.ID]*Inode
	clean map[*Inode]*Node // of what nothing is pending, see Crash
}

// An Inode is a file, directory or link, under any of its names. Its fields say how it
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
	// Names are the names of a directory that it changed: two if it renamed within it.
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

// NewDisk makes a disk of n at the path top, all of it durable.
func NewDisk(top string, n *Node) *Disk {
	d := &Disk{top: filepath.Clean(top), files: make(map[crashpoint.ID]*Inode)}
	d.root = d.add(n)
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

// Unsettle takes name as if it had got its meaning a moment ago, and no program had synced
// its directory since. It is an error if there is no such name.
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

// below are the names that lead from the top of the disk to name, which is in it or is it.
func (d *Disk) below(name string) (names []string, in bool) {
	rest, in := strings.CutPrefix(filepath.Clean(name)+"/", d.top+"/")
	return strings.FieldsFunc(rest, func(r rune) bool { return r == '/' }), in
}

// Lookup is what has the name now, no link followed; nil: nothing.
func (d *Disk) Lookup(name string) *Inode {
	names, in := d.below(name)
	if !in {
		return nil
	}
	i := d.root
	for _, part := range names {
		if i != nil {
			i = i.Names[part]
		}
	}
	return i
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

// MayHold is what a power cut may leave in the directory i, each once, in an order
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
