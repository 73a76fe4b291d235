// Package compattest holds the promise of docs/COMPATIBILITY.md: what 0.1 wrote, the
// programs of this checkout open, boot, confirm, roll back and update; and what they write,
// the programs of 0.1 run.
package compattest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/integration/cmdtest"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

func TestMain(m *testing.M) { cmdtest.Main(m, nil) }

// golden puts a store of 0.1 in place of the script's, with the key and the bundle of it.
//
//	golden NAME      confirmed, trial, fallback, hold or adopted: see testdata/make.sh
func golden(dir string) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 {
			ts.Fatalf("usage: golden NAME")
		}
		store := ts.Getenv("STORE")
		ts.Check(exec.Command("chmod", "-R", "u+w", store).Run()) // factory is read-only
		for _, name := range []string{store, ts.MkAbs("run"), ts.MkAbs("sick")} {
			ts.Check(os.RemoveAll(name))
		}
		ts.Check(os.MkdirAll(store, 0o755))
		ts.Check(ts.Exec("tar", "-C", store, "-xpzf", filepath.Join(dir, args[0]+".tar.gz")))
		for from, to := range map[string]string{"k.pub": "etc/keys/k.pub", "1.3.0.ota": "1.3.0.ota"} {
			data, err := os.ReadFile(filepath.Join(dir, from))
			ts.Check(err)
			ts.Check(os.WriteFile(ts.MkAbs(to), data, 0o644))
		}
	}
}

func TestStoresOf01(t *testing.T) {
	defer try.Fatal(t)
	dir := try.Get(filepath.Abs("testdata/golden-0.1"))
	cmdtest.Run(t, "testdata/script", map[string]func(*testscript.TestScript, bool, []string){"golden": golden(dir)})
}

// TestDowngrade builds the programs of 0.1 from the history and runs them on stores that
// this checkout's left: the package can go back to them.
func TestDowngrade(t *testing.T) {
	defer try.Fatal(t)
	old, bin := debian.Sources01(t), t.TempDir()
	build := exec.Command("make", "-s", "build-amd64", "BIN="+bin)
	build.Dir = old
	try.Run(build)
	cmdtest.Run(t, "testdata/downgrade", map[string]func(*testscript.TestScript, bool, []string){
		// with01 CODE PROGRAM ARGS...: a program of 0.1 that must end with CODE
		"with01": func(ts *testscript.TestScript, _ bool, args []string) {
			args[1] = filepath.Join(bin, "amd64", args[1])
			cmdtest.Exit(ts, args)
		},
	})
}
