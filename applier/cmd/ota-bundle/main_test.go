package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/tope-ota/ota/integration/cmdtest"
)

func TestMain(m *testing.M) {
	cmdtest.Main(m, map[string]func(){"ota-bundle": main})
}

func TestScripts(t *testing.T) {
	// other_tools.txtar skips without them, which must not happen unseen in CI.
	for _, name := range []string{"minisign", "zstd", "tar"} {
		if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") == "true" {
			t.Errorf("%s is missing: apt-get install %s", name, name)
		}
	}
	cmdtest.Run(t, "testdata/script")
}
