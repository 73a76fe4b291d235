package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// On a kernel whose syncfs is silent about what could not be written, each file and
// directory is synced, and the first that fails ends it.
func TestSyncOnAnOldKernel(t *testing.T) {
	tells, sync := syncfsTells, syncFile
	defer func() { syncfsTells, syncFile = tells, sync }()
	syncfsTells = func() bool { return false }
	f, h, m := openBundle(t, mustCreate(t, contents(treeOf(t, map[string]string{
		"bin/app": "the app", "bin/link": "-> app", "lib/big": strings.Repeat("0123456789abcdef", 300_000), "lib/empty": "", "top": "x",
	}))))
	root := t.TempDir()
	var synced []string
	syncFile = func(f *os.File) error {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			t.Error(err)
		}
		rel, _ := filepath.Rel(root, name)
		synced = append(synced, rel)
		return f.Sync()
	}
	if err := Unpack(t.Context(), f, h, m, openRoot(t, root), Options{}); err != nil {
		t.Fatal(err)
	}
	want := []string{".", bootcheck.ManifestDir, bootcheck.ManifestPath, bootcheck.SignaturePath}
	for _, e := range m.Entries {
		if e.Type != bootcheck.TypeLink {
			want = append(want, e.Path)
		}
	}
	slices.Sort(want)
	if slices.Sort(synced); !slices.Equal(synced, want) {
		t.Errorf("synced:\n%s\nwant:\n%s", strings.Join(synced, "\n"), strings.Join(want, "\n"))
	}

	calls := 0
	syncFile = func(*os.File) error {
		calls++
		return unix.EIO
	}
	if err := Unpack(t.Context(), f, h, m, openRoot(t, t.TempDir()), Options{}); !errors.Is(err, unix.EIO) || calls != 1 {
		t.Errorf("Unpack = %v after %d calls, want EIO after the first", err, calls)
	}
}
