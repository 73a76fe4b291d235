package bundlecmd

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tope-ota/ota/bootcheck/cli"
)

// The line of progress is gone at the end, also before an error.
func TestProgressLine(t *testing.T) {
	for _, row := range []struct {
		name string
		done int64
		err  error
		want string
	}{
		{"to the end", 2, nil, "\rpacking  50 %\r\x1b[K"},
		{"an error on the way", 1, errors.New("the disk is full"), "\rpacking  50 %\r\x1b[Kota-bundle: the disk is full\n"},
	} {
		screen, err := os.Create(filepath.Join(t.TempDir(), "screen"))
		if err != nil {
			t.Fatal(err)
		}
		c := &command{screen: screen, stderr: cli.Log(screen)}
		progress := c.progress("packing")
		for done := range row.done + 1 {
			if done > 0 {
				progress(done, 2)
			}
		}
		c.end(row.err)
		if got, err := os.ReadFile(screen.Name()); err != nil || string(got) != row.want {
			t.Errorf("%s: the screen got %q, %v, want %q", row.name, got, err, row.want)
		}
		screen.Close()
	}
}
