package scriptstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// An unpacked archive that lies in a checkout of something else, as in the tree that builds
// an image, has no version; it does not have that of the other one.
func TestVersionInAnotherCheckout(t *testing.T) {
	defer try.Fatal(t)
	other := t.TempDir()
	script := filepath.Join(other, "build/ota/scripts/version.sh")
	try.Check(os.MkdirAll(filepath.Dir(script), 0o755))
	try.Check(os.WriteFile(script, try.Get(os.ReadFile("../../scripts/version.sh")), 0o755))
	for _, args := range [][]string{{"init", "-q"}, {"commit", "-qm", "other", "--allow-empty"}, {"tag", "v9.9.9"}} {
		try.Run(exec.Command("git", append([]string{"-C", other, "-c", "user.name=x", "-c", "user.email=x@example.org"}, args...)...))
	}
	if got := strings.TrimSpace(string(try.Get(exec.Command(script).Output()))); got != "0~unknown" {
		t.Errorf("the version is %s, want 0~unknown", got)
	}
	if out, err := exec.Command(script, "--time").Output(); err == nil {
		t.Errorf("the time of the commit is %s, want none", out)
	}
}
