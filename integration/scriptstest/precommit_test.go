package scriptstest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// TestPrecommit holds which tier a change asks for: the largest of what it touches.
func TestPrecommit(t *testing.T) {
	defer try.Fatal(t)
	script := try.Get(os.ReadFile("../../scripts/precommit.sh"))
	for _, row := range []struct{ tier, changed string }{
		{"test", "LICENSE"},
		{"test", "guardian/decide_test.go"},
		{"check", "README.md"},
		{"check", "applier/progress.go LICENSE"},
		{"check", "scripts/package.sh"},
		{"deep", "bootcheck/store.go"},
		{"deep", "LICENSE guardian/decide.go README.md"},
		{"deep", "applier/bundle/take.go"},
		{"deep", "integration/crash/flows/flows.go"},
	} {
		t.Run(row.changed, func(t *testing.T) {
			defer try.Fatal(t)
			dir := t.TempDir()
			git := func(args ...string) {
				cmd := exec.Command("git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.org"}, args...)...)
				cmd.Dir = dir
				try.Run(cmd)
			}
			write := func(name, text string) {
				name = filepath.Join(dir, name)
				try.Check(os.MkdirAll(filepath.Dir(name), 0o755))
				try.Check(os.WriteFile(name, []byte(text), 0o755))
			}
			write("scripts/precommit.sh", string(script))
			git("init", "-q", "-b", "main")
			git("add", ".")
			git("commit", "-qm", "base")
			git("checkout", "-qb", "change")
			for i, name := range strings.Fields(row.changed) {
				write(name, "changed\n")
				if i == 0 { // the others are not committed yet
					git("add", ".")
					git("commit", "-qm", "change")
				}
			}
			cmd := exec.Command(filepath.Join(dir, "scripts/precommit.sh"), "--which", "main")
			out, err := cmd.CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != row.tier {
				t.Errorf("it asks for %q (%v), want %s", got, err, row.tier)
			}
		})
	}
	cmd := exec.Command("../../scripts/precommit.sh", "--which", "no-such-commit")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "error: no commit no-such-commit") {
		t.Errorf("a base that is not there: %v\n%s", err, out)
	}
}
