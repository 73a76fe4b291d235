package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// The figures of README are for trees of these proportions, and of two benches the same
// seed must make the same trees.
func TestTree(t *testing.T) {
	defer try.Fatal(t)
	s := shape{600, 200e3, []share{{elf, 40, 400e3}, {python, 250, 300e3}, {script, 40, 100e3}, {image, 80, 300e3}, {text, 590, 300e3}}}
	write := func(seed uint64) (string, string, counts) {
		dir := t.TempDir()
		c := s.make(dir+"/old", dir+"/new", newMaterial(seed, goroot()), seed)
		return try.Get(digest(dir + "/old")), try.Get(digest(dir + "/new")), c
	}
	old, new, c := write(1)
	if old2, new2, c2 := write(1); old2 != old || new2 != new || c2 != c {
		t.Errorf("the same seed made different trees: %+v and %+v", c, c2)
	}
	if other, _, _ := write(2); other == old {
		t.Error("another seed made the same tree")
	}
	// Of 600 files and the library 5 % are patched, but no image.
	if want := (counts{kept: 556, patched: 31, replaced: 3, removed: 6, moved: 5, added: 11}); c != want {
		t.Errorf("the next version is %+v, want %+v", c, want)
	}
}

// A rebuild shifts addresses: a call still reaches its function.
func TestRebuild(t *testing.T) {
	defer try.Fatal(t)
	m := newMaterial(1, goroot())
	const function = 1<<20 - 16
	program := make([]byte, 1<<20)
	program[0] = 0xe8
	binary.LittleEndian.PutUint32(program[1:], function-5)
	copy(program[function:], "the function")
	next := rebuild(program, m, rand.New(rand.NewPCG(1, 2)))
	target := 5 + int(int32(binary.LittleEndian.Uint32(next[1:])))
	if want := bytes.Index(next, []byte("the function")); target != want || want == function {
		t.Errorf("the call reaches %d, the function is at %d and was at %d", target, want, function)
	}
}

// digest is the hash of all names and files below dir.
func digest(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		fmt.Fprintf(h, "%s %x\n", name[len(dir):], sha256.Sum256(data))
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}
