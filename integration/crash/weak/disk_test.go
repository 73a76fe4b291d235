package weak

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
)

// What is played on the disk in memory and what is done to a real one is the same.
func TestPlayAsReal(t *testing.T) {
	l := store("/site/store")
	before := filepath.Join(t.TempDir(), "store")
	if err := l.Before[l.Root].Write(before); err != nil {
		t.Fatal(err)
	}
	l.Install()
	l.Write("v2/shared", 5, "!")
	l.Do(crashpoint.Call{Name: "truncate", File: crashpoint.Place{Path: "/site/store/v2/bin/app", ID: id(t, l, "v2/bin/app")}, Offset: 2})
	l.Rename("v2", ".trash/v2-0")
	l.RemoveAll(".trash/v2-0/bin")

	d := NewDisk(l.Before)
	for i := range l.Calls {
		c := &l.Calls[i]
		if err := d.Play(c); err != nil {
			t.Fatal(err)
		}
		if err := really(c, "/site/store", before); err != nil {
			t.Fatalf("%s %s: %v", c.Name, c.File.Path, err)
		}
	}
	real, err := ReadNode(before)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := text(d.Live(l.Root)), text(real); got != want {
		t.Errorf("the disk in memory:\n%s\nthe real one:\n%s", got, want)
	}
}

func id(t *testing.T, l *handLog, name string) crashpoint.ID {
	t.Helper()
	d := NewDisk(l.Before)
	for i := range l.Calls {
		if err := d.Play(&l.Calls[i]); err != nil {
			t.Fatal(err)
		}
	}
	return d.Lookup(filepath.Join(l.Root, name)).ID
}

func really(c *crashpoint.Call, from, to string) error {
	at := func(p crashpoint.Place) string { return filepath.Join(to, p.Path[len(from):]) }
	switch c.Name {
	case "open":
		f, err := os.OpenFile(at(c.File), c.Flags, c.Mode)
		if err != nil {
			return err
		}
		return f.Close()
	case "write":
		f, err := os.OpenFile(at(c.File), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt(c.Data, c.Offset)
		return err
	case "truncate":
		return os.Truncate(at(c.File), c.Offset)
	case "mkdir":
		return os.Mkdir(at(c.File), c.Mode)
	case "symlink":
		return os.Symlink(c.Target, at(c.File))
	case "rename":
		return os.Rename(at(c.File), at(c.To))
	case "unlink":
		return os.Remove(at(c.File))
	case "chmod":
		return os.Chmod(at(c.File), c.Mode)
	case "fsync", "syncfs":
		return nil
	}
	return unix.ENOSYS
}

// text is a tree, but for its times and numbers.
func text(n *Node) string {
	var all string
	var walk func(at string, n *Node)
	walk = func(at string, n *Node) {
		data := ""
		if n.Data != nil {
			data = string(n.Data.Bytes())
		}
		all += at + " " + n.Mode.String() + " " + n.Target + data + "\n"
		for _, name := range Sorted(n) {
			walk(at+"/"+name, n.Names[name])
		}
	}
	walk(".", n)
	return all
}

// The mirror shows what it is told to, whatever it showed before.
func TestMirror(t *testing.T) {
	l := store("/site/store")
	l.Install()
	m, err := NewMirror(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var trees []*Node
	d := NewDisk(l.Before)
	for i := range l.Calls {
		if err := d.Play(&l.Calls[i]); err != nil {
			t.Fatal(err)
		}
		trees = append(trees, d.Live(l.Root))
	}
	for i := range trees {
		for _, tree := range []*Node{trees[i], trees[len(trees)-1-i]} {
			if err := m.Show(tree); err != nil {
				t.Fatal(err)
			}
			shown, err := ReadNode(m.Dir())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := text(shown), text(tree); got != want {
				t.Fatalf("point %d: shown\n%s\nwant\n%s", i+1, got, want)
			}
		}
	}
}
