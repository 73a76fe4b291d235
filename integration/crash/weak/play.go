package weak

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/try"
)

// Play does what c did. It is an error if c cannot have been called on this disk:
// then a call is missing in the log. What is outside of its directory changes nothing.
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
		if d.Lookup(c.File.Path) != nil {
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

func (d *Disk) rename(c *crashpoint.Call) (err error) {
	defer try.End(&err)
	from, old, err := d.parent(c.File.Path)
	try.Check(err)
	to, name, err := d.parent(c.To.Path)
	try.Check(err)
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

// parent is the directory that name is in. nil: it is outside of the disk.
func (d *Disk) parent(name string) (dir *Inode, base string, err error) {
	if names, in := d.below(name); !in || len(names) == 0 {
		return nil, "", nil
	}
	dir = d.Lookup(filepath.Dir(name))
	if dir == nil || !dir.Type.IsDir() {
		return nil, "", fmt.Errorf("there is no directory %s", filepath.Dir(name))
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
