package scriptstest

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// TestHelp asks each script for its usage, without anything that its work needs.
func TestHelp(t *testing.T) {
	defer try.Fatal(t)
	for _, script := range try.Get(filepath.Glob("../../scripts/*.sh")) {
		switch filepath.Base(script) {
		case "lint.sh", "verify_units.sh": // the Makefile and the tests call these
			continue
		}
		cmd := exec.Command(script, "--help")
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), "usage: ") {
			t.Errorf("%s --help: %v, and prints %q, want its usage", script, err, out)
		}
	}
}
