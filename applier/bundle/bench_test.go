package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

func BenchmarkCreate(b *testing.B) {
	src := treeOf(b, map[string]string{"a": bigFile, "b": bigFile[1:], "c": bigFile[:1<<20]})
	out := filepath.Join(b.TempDir(), "x.ota")
	for _, level := range []Level{LevelFast, LevelBest} {
		b.Run(string(level), func(b *testing.B) {
			c := contents(src)
			c.Level, c.Overwrite = level, true
			b.SetBytes(int64(2*len(bigFile) + 1<<20))
			for b.Loop() {
				if _, err := Create(b.Context(), out, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchmarkTree(b *testing.B) (f *os.File, h *Head, m *bootcheck.Manifest) {
	files := map[string]string{"big": bigFile + bigFile + bigFile}
	for i := range 300 {
		files[fmt.Sprintf("d%d/f%d", i%10, i)] = bigFile[i*1000 : i*1000+30_000]
	}
	f, h, m = openBundle(b, mustCreate(b, contents(treeOf(b, files))))
	b.SetBytes(m.Size)
	return f, h, m
}

func BenchmarkCheck(b *testing.B) {
	f, h, m := benchmarkTree(b)
	for b.Loop() {
		if err := Check(b.Context(), f, h, m, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	f, h, m := benchmarkTree(b)
	for b.Loop() {
		dir := b.TempDir()
		if err := unpackTo(b.Context(), f, h, m, openRoot(b, dir), nil); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
