// Package filesystems repeats what depends on the file system on real ones that
// the machine's own directory for temporary files may not be: xfs and btrfs clone
// files, ext4 does not. And what a full one refuses is another thing on each.
package filesystems

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

func needsRoot(t *testing.T) {
	t.Helper()
	machine.Require(t, "file system", debian.MissingRights("mounts"))
}

func TestReuse(t *testing.T) {
	needsRoot(t)
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			defer try.Fatal(t)
			dir := mountOf(t, 600, "mkfs."+fs) // xfs wants 300 MiB
			for _, row := range []struct{ pkg, run, passes string }{
				{"./applier/bundle", "^TestTake", "--- PASS: TestTakeFromSeveral "},
				{"./applier/cmd/ota-apply", "^TestScripts$/^(reuse|retention)$", "--- PASS: TestScripts/reuse "},
			} {
				cmd := exec.Command("go", "test", "-v", "-count=1", row.pkg, "-run", row.run)
				cmd.Dir = filepath.Join("..", "..")
				cmd.Env = append(os.Environ(), "TMPDIR="+dir)
				if out := try.Run(cmd); !strings.Contains(out, row.passes) { // go test of nothing passes
					t.Errorf("%s has no test %s:\n%s", row.pkg, row.passes, out)
				}
			}
		})
	}
}

// mountOf makes a file system of mib MiB in a file with mkfs, and mounts it.
func mountOf(t *testing.T, mib int64, mkfs ...string) string {
	t.Helper()
	defer try.Fatal(t)
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	try.Check(os.WriteFile(image, nil, 0o644))
	try.Check(os.Truncate(image, mib<<20))
	for _, argv := range [][]string{append(mkfs, "-q", image), {"mount", "-o", "loop", image, dir}} {
		try.Run(exec.Command(argv[0], argv[1:]...))
	}
	t.Cleanup(func() {
		defer try.Fatal(t)
		try.Run(exec.Command("umount", dir))
	})
	return dir
}
