// Package installtest tests scripts/install.sh on a folder of its own.
package installtest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("SCRIPTS", filepath.Join(repo, "scripts"))
			// Programs that only stand for those of the product: what is tested
			// is where they go.
			bin := filepath.Join(env.WorkDir, "programs")
			if err := os.Mkdir(bin, 0o755); err != nil {
				return err
			}
			for _, name := range []string{"ota-guardian", "ota-apply", "ota-bundle"} {
				if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho "+name+"\n"), 0o755); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
