package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/integration/try"
)

// kind is what the content of a file is.
type kind string

const (
	elf    kind = "elf"
	python kind = "python"
	script kind = "javascript"
	text   kind = "text"
	image  kind = "image" // already compressed: random bytes
)

// material is real content of each kind: what the machine has below /usr, and the
// Go installation, which is on every machine that builds this.
type material struct {
	streams map[kind]*stream
	random  *rand.ChaCha8
}

// stream reads files one after another, and the first again after the last.
type stream struct {
	names []string
	next  int
	f     *os.File
}

// goroot is where the Go installation is.
func goroot() string { return output("go", "env", "GOROOT") }

// newMaterial finds the content below the roots, in an order that seed decides.
func newMaterial(seed uint64, roots ...string) *material {
	found := map[kind][]string{}
	for _, root := range roots {
		try.Check(filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // another root has more
			}
			if k := kindOf(name, d); k != "" {
				found[k] = append(found[k], name)
			}
			return nil
		}))
	}
	m := &material{streams: map[kind]*stream{}, random: rand.NewChaCha8([32]byte{byte(seed)})}
	for _, k := range []kind{elf, text, python, script} {
		names := found[k]
		if len(names) == 0 {
			names = found[text] // a machine without Python has sources in Go
		}
		if len(names) == 0 {
			try.Failf("no %s in %s", k, strings.Join(roots, " "))
		}
		names = append([]string(nil), names...)
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		m.streams[k] = &stream{names: names}
	}
	return m
}

// kindOf is the kind of a file, "" if it is of no use.
func kindOf(name string, d fs.DirEntry) kind {
	switch filepath.Ext(name) {
	case ".py":
		return python
	case ".js", ".mjs":
		return script
	case ".go", ".md", ".txt", ".html", ".css", ".json", ".yaml", ".conf":
		return text
	}
	if info, err := d.Info(); err != nil || info.Size() < 16<<10 || info.Mode()&0o111 == 0 && !strings.Contains(name, ".so") {
		return ""
	}
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err == nil && string(magic) == "\x7fELF" {
		return elf
	}
	return ""
}

// take returns the next n bytes of kind k.
func (m *material) take(k kind, n int64) []byte {
	data := make([]byte, n)
	var r io.Reader = m.random
	if s := m.streams[k]; s != nil {
		r = s
	}
	try.Get(io.ReadFull(r, data))
	return data
}

// lines returns n whole lines of kind k, not empty ones.
func (m *material) lines(k kind, n int) []byte {
	var all []byte
	for n > 0 {
		for line := range bytes.Lines(m.take(k, 2000)) {
			if n > 0 && len(bytes.TrimSpace(line)) > 3 && bytes.HasSuffix(line, []byte("\n")) {
				all = append(all, line...)
				n--
			}
		}
	}
	return all
}

func (s *stream) Read(p []byte) (int, error) {
	for {
		if s.f == nil {
			f, err := os.Open(s.names[s.next%len(s.names)])
			if err != nil {
				return 0, err
			}
			s.f = f
			s.next++
		}
		n, err := s.f.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		s.f.Close()
		s.f = nil
	}
}
