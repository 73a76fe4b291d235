package scriptstest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/integration/try"
)

// TestInstall runs scripts/install.sh on a directory of its own.
func TestInstall(t *testing.T) {
	defer try.Fatal(t)
	repo := try.Get(filepath.Abs("../.."))
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/install",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) (err error) {
			defer try.End(&err)
			env.Setenv("SCRIPTS", filepath.Join(repo, "scripts"))
			// Programs and pages that only stand for those of the product: what
			// is tested is where they go.
			for _, name := range []string{
				"programs/ota-guardian", "programs/ota-apply", "programs/ota-bundle",
				"completions/ota-guardian", "completions/ota-apply", "completions/ota-bundle", "completions/ota-guardian.fish", "completions/ota-apply.fish", "completions/ota-bundle.fish",
				"completions/_ota-guardian", "completions/_ota-apply", "completions/_ota-bundle",
				"completions/ota", "completions/ota.fish", "completions/_ota",
				"man/ota-guardian.8", "man/ota-apply.1", "man/ota-bundle.1", "man/ota.toml.5", "man/ota.7",
			} {
				file := filepath.Join(env.WorkDir, name)
				try.Check(os.MkdirAll(filepath.Dir(file), 0o755))
				try.Check(os.WriteFile(file, []byte("#!/bin/sh\necho "+name+"\n"), 0o755))
			}
			return nil
		},
	})
}
