package debian

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// commit01 is the last one of 0.1.
const commit01 = "27ea76e"

// Sources01 is a new directory with the sources of 0.1, from the history of this checkout. A
// shallow clone does not have it: there the test is skipped.
func Sources01(t *testing.T) string {
	t.Helper()
	repo, err := RepoDir()
	if err != nil {
		t.Fatal(err)
	}
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
	out, err := git("archive", "-o", archive, commit01)
	if err == nil {
		out, err = exec.Command("tar", "-C", dir, "-xf", archive).CombinedOutput()
	}
	if err != nil {
		t.Fatalf("the sources of 0.1: %v\n%s", err, out)
	}
	return dir
}
