package debian

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// commit01 is the last one of 0.1.
const commit01 = "27ea76e"

// Sources01 is a new directory with the sources of 0.1, from the history of this checkout. A
// shallow clone does not have it: there the test is skipped.
func Sources01(t *testing.T) string {
	t.Helper()
	defer try.Fatal(t)
	repo := try.Get(RepoDir())
	git := func(args ...string) ([]byte, error) {
		return exec.Command("git", append([]string{"-c", "safe.directory=*", "-C", repo}, args...)...).CombinedOutput()
	}
	if _, err := git("cat-file", "-e", commit01); err != nil {
		if shallow, _ := git("rev-parse", "--is-shallow-repository"); string(shallow) == "true\n" {
			t.Skip("this clone does not have the history: git fetch --unshallow")
		}
		t.Fatalf("commit %s, the last one of 0.1, is not in the history", commit01)
	}
	dir := t.TempDir()
	archive := filepath.Join(t.TempDir(), "0.1.tar")
	try.Get(git("archive", "-o", archive, commit01))
	try.Run(exec.Command("tar", "-C", dir, "-xf", archive))
	return dir
}
