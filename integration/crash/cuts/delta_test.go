package cuts

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func TestDelta(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	const blocks = 400
	random := rand.New(rand.NewPCG(1, 2))
	write := func(name string, changed []int) {
		f, err := os.Create(file(name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(blocks * deltaBlock); err != nil {
			t.Fatal(err)
		}
		for _, i := range changed {
			block := bytes.Repeat([]byte{byte(random.Uint32()) | 1}, deltaBlock)
			if _, err := f.WriteAt(block, int64(i)*deltaBlock); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("base", []int{0, 1, 2, 150, 399})
	// Nothing, what was changed, what became data, what became a hole, the last one.
	for _, changed := range [][]int{{}, {0, 1, 2, 150, 399}, {0, 200, 399}, {63, 64, 65, 398}} {
		write("disk", changed)
		if err := writeDelta(file("base"), file("disk"), file("delta")); err != nil {
			t.Fatal(err)
		}
		if err := applyDelta(file("base"), file("delta"), file("again")); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(file("disk"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file("again"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("with blocks %v changed, the disk that the delta makes is another one", changed)
		}
		if info, err := os.Stat(file("delta")); err != nil || info.Size() > int64(len(changed)+5)*(8+deltaBlock) {
			t.Errorf("the delta of %v has %d bytes (%v)", changed, info.Size(), err)
		}
	}
}
