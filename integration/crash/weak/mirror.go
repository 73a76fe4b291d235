package weak

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
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
	err := show(m.dir, m.shown, n, func(name string, n *Node) error {
		sum := n.Sum()
		kept := filepath.Join(m.files, hex.EncodeToString(sum[:]))
		if err := os.Link(kept, name); err == nil {
			return nil
		}
		return errors.Join(n.writeFile(kept), os.Link(kept, name))
	})
	m.shown = n
	if err != nil {
		m.shown = nil // what is there is unknown
		_ = os.RemoveAll(m.dir)
	}
	return err
}
