package weak

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tope-ota/ota/integration/try"
)

// A Mirror shows one tree after the other at one place of a real disk, for programs that
// only read. Of the next tree it makes only what is different, and that by giving
// files that it made before one more name: so a tree costs microseconds.
type Mirror struct {
	dir   string // where the tree is
	files string // where files are kept that have been shown, by what they are
	shown *Node
}

// NewMirror makes a mirror whose tree is at dir/tree. dir must exist.
func NewMirror(dir string) (*Mirror, error) {
	m := &Mirror{dir: filepath.Join(dir, "tree"), files: filepath.Join(dir, "files")}
	return m, os.Mkdir(m.files, 0o700)
}

// Dir is where the tree is.
func (m *Mirror) Dir() string { return m.dir }

// Show makes n what is at Dir.
func (m *Mirror) Show(n *Node) error {
	err := m.show(m.dir, m.shown, n)
	m.shown = n
	if err != nil {
		m.shown = nil // what is there is unknown
		_ = os.RemoveAll(m.dir)
	}
	return err
}

func (m *Mirror) show(name string, is, want *Node) (err error) {
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
			try.Check(m.show(filepath.Join(name, sub), names[sub], n))
		}
		return os.Chmod(name, want.Mode.Perm())
	case 0:
		sum := want.Sum()
		kept := filepath.Join(m.files, hex.EncodeToString(sum[:]))
		if err := os.Link(kept, name); err == nil {
			return nil
		}
		try.Check(want.write(kept, map[*Node]string{}))
		return os.Link(kept, name)
	}
	return fmt.Errorf("cannot make %s: what it was is not known", name)
}
