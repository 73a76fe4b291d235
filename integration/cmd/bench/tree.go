package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/integration/try"
)

// A shape is a tree to measure with.
type shape struct {
	files int
	bytes int64
}

var (
	small = shape{300, 40e6}
	large = shape{6000, 600e6}
)

// A material is a stream of real bytes, programs and sources: those of the Go
// installation, which is on every machine that builds this. It never ends, and
// does not repeat at the same place.
type material struct {
	names []string
	next  int
	f     *os.File
}

func newMaterial() (_ *material, err error) {
	defer try.End(&err)
	out := try.Get(exec.Command("go", "env", "GOROOT").Output())
	m := &material{}
	root := strings.TrimSpace(string(out))
	for _, dir := range []string{"bin", "pkg/tool", "src"} {
		try.Check(filepath.WalkDir(filepath.Join(root, dir), func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				m.names = append(m.names, name)
			}
			return err
		}))
	}
	if len(m.names) == 0 {
		return nil, fmt.Errorf("no files in %s", root)
	}
	// Programs and sources mixed, the same way each time.
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(m.names), func(i, j int) { m.names[i], m.names[j] = m.names[j], m.names[i] })
	return m, nil
}

func (m *material) Read(p []byte) (int, error) {
	for {
		if m.f == nil {
			f, err := os.Open(m.names[m.next%len(m.names)])
			if err != nil {
				return 0, err
			}
			m.f = f
			m.next++
		}
		n, err := m.f.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		m.f.Close()
		m.f = nil
	}
}

// make writes a tree of the shape to dir. Few files are large and many small, as
// in a tree of programs.
func (s shape) make(dir string, m *material) (err error) {
	defer try.End(&err)
	r := rand.New(rand.NewPCG(3, 4))
	weights := make([]float64, s.files)
	var sum float64
	for i := range weights {
		weights[i] = r.ExpFloat64() * r.ExpFloat64() * r.ExpFloat64()
		sum += weights[i]
	}
	for i, w := range weights {
		name := filepath.Join(dir, fmt.Sprintf("d%02d/e%d/file-%04d", i%40, i%7, i))
		try.Check(os.MkdirAll(filepath.Dir(name), 0o755))
		f := try.Get(os.Create(name))
		_, err = io.CopyN(f, m, max(1, int64(w/sum*float64(s.bytes))))
		try.Check(errors.Join(err, f.Close()))
	}
	return nil
}

// change changes one file in twenty, in its middle.
func change(dir string) error {
	n := 0
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if n++; n%20 != 0 {
			return nil
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			_, err = f.WriteAt([]byte("changed"), info.Size()/2)
		}
		return errors.Join(err, f.Close())
	})
}
