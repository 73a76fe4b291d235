package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

// shape is a tree to measure with: one big library, which is rebuilt, and a mix of
// what applications consist of.
type shape struct {
	files   int
	library int64
	mix     []share
}

// share is a part of the files and their bytes.
type share struct {
	kind  kind
	files int // of 1,000
	bytes int64
}

var (
	small = shape{300, 16.9e6, []share{{elf, 40, 13.5e6}, {python, 250, 1.2e6}, {script, 40, 1.4e6}, {image, 80, 7.5e6}, {text, 590, 1.5e6}}}
	large = shape{6000, 53.2e6, []share{{elf, 15, 440e6}, {python, 250, 20e6}, {script, 25, 8e6}, {image, 60, 72e6}, {text, 650, 37e6}}}
	// big is one file, whose size no memory of a device must depend on.
	big = shape{1, 500e6, nil}
)

func (s shape) bytes() int64 {
	sum := s.library
	for _, p := range s.mix {
		sum += p.bytes
	}
	return sum
}

// changes says how many files of 1,000 are not the same in the next version.
const (
	patched  = 50
	replaced = 5
	removed  = 10
	moved    = 10
	added    = 20
)

// counts are the files with each fate.
type counts struct{ kept, patched, replaced, removed, moved, added int }

// generator writes two versions of a tree.
type generator struct {
	old, new string
	material *material
	r        *rand.Rand
	counts   counts
}

// make writes a tree of the shape to old and its next version to new. The same seed
// makes the same trees on the same machine. What did not change is one file with
// two links.
func (s shape) make(old, new string, m *material, seed uint64) counts {
	g := &generator{old: old, new: new, material: m, r: rand.New(rand.NewPCG(seed, 2))}
	library := m.take(elf, s.library)
	g.write(g.old, "lib/libapp.so.1", library, 0)
	g.write(g.new, "lib/libapp.so.1", rebuild(library, m, g.r), 1)
	g.counts.patched++
	for _, p := range s.mix {
		n := max(1, s.files*p.files/1000)
		sizes := g.sizes(n, p.bytes)
		fates := g.r.Perm(n) // each kind has its share of the changes
		for i, size := range sizes {
			g.file(p.kind, i, size, fates[i]*1000/n)
		}
		for i := range (n*added + 500) / 1000 {
			data := m.take(p.kind, sizes[g.r.IntN(n)])
			g.write(g.new, fmt.Sprintf("%s/added/%03d%s", p.kind, i, extension(p.kind)), data, 1)
			g.counts.added++
		}
	}
	return g.counts
}

// sizes are the sizes of n files of sum bytes: few are large and many small.
func (g *generator) sizes(n int, sum int64) []int64 {
	weights := make([]float64, n)
	var all float64
	for i := range weights {
		weights[i] = 0.1 + g.r.ExpFloat64()*g.r.ExpFloat64()
		all += weights[i]
	}
	sizes := make([]int64, n)
	for i, w := range weights {
		sizes[i] = max(60, int64(w/all*float64(sum)))
	}
	return sizes
}

// file writes a file and what becomes of it. Its fate, 0 to 999, says what that is.
func (g *generator) file(k kind, i int, size int64, fate int) {
	name := fmt.Sprintf("%s/d%02d/%s/%04d%s", k, i%40, [...]string{"core", "util", "api"}[i%3], i, extension(k))
	data := g.material.take(k, size)
	g.write(g.old, name, data, 0)
	switch c := &g.counts; {
	case fate < patched && k == elf:
		c.patched++
		g.write(g.new, name, rebuild(data, g.material, g.r), 1)
	case fate < patched && k != image: // no program edits an image in its middle
		c.patched++
		g.write(g.new, name, edit(data, k, g.material, g.r), 1)
	case fate >= 700 && fate < 700+replaced && k != elf:
		c.replaced++
		g.write(g.new, name, g.material.take(k, size), 1)
	case fate >= 900 && fate < 900+removed:
		c.removed++
	case fate >= 800 && fate < 800+moved:
		c.moved++
		g.link(name, strings.Replace(name, "/d", "/moved", 1))
	default:
		c.kept++
		g.link(name, name)
	}
}

func (g *generator) link(from, to string) {
	name := filepath.Join(g.new, to)
	try.Check(os.MkdirAll(filepath.Dir(name), 0o755))
	try.Check(os.Link(filepath.Join(g.old, from), name))
}

// write writes a file of the tree dir, whose time is day: rsync goes by it.
func (g *generator) write(dir, name string, data []byte, day int) {
	name = filepath.Join(dir, name)
	mode := os.FileMode(0o644)
	if strings.Contains(name, "/"+string(elf)+"/") {
		mode = 0o755
	}
	try.Check(os.MkdirAll(filepath.Dir(name), 0o755))
	at := time.Unix(1.7e9, 0).AddDate(0, 0, day)
	try.Check(os.WriteFile(name, data, mode))
	try.Check(os.Chtimes(name, at, at))
}

func extension(k kind) string {
	return map[kind]string{python: ".py", script: ".js", text: ".txt", image: ".png"}[k]
}

// editOne writes the tree from to the tree to, with one line added to one small file.
func editOne(from, to string) {
	output("cp", "-al", from, to)
	names := try.Get(filepath.Glob(to + "/text/*/*/*"))
	if len(names) == 0 {
		try.Failf("no text in %s", from)
	}
	name := names[len(names)/2]
	data := try.Get(os.ReadFile(name))
	try.Check(os.Remove(name)) // it is a link to the file of the other tree
	try.Check(os.WriteFile(name, append(data, "timeout = 30\n"...), 0o644))
}
