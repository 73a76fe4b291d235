// Package scriptstest runs the scripts of scripts/ for real: those of a device with
// dash, and with nothing but busybox, as a device may have no more.
package scriptstest

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/integration/cmdtest"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

func TestMain(m *testing.M) { cmdtest.Main(m, nil) }

// script is a command of the scripts, besides those of cmdtest:
//
//	script CODE NAME ARGS...   run scripts/NAME, which must end with CODE
func script(shell []string, path string) map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"script": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < 2 {
				ts.Fatalf("usage: script CODE NAME ARGS...")
			}
			repo, err := filepath.Abs("../..")
			ts.Check(err)
			argv := []string{args[0]}
			if path != "" {
				programs, _, _ := strings.Cut(ts.Getenv("PATH"), ":")
				argv = append(argv, "env", "PATH="+programs+":"+path)
			}
			argv = append(append(argv, shell...), filepath.Join(repo, "scripts", args[1]))
			cmdtest.Exit(ts, append(argv, args[2:]...))
		},
	}
}

// TestDevice runs the scripts of a device.
func TestDevice(t *testing.T) {
	t.Run("dash", func(t *testing.T) { cmdtest.Run(t, "testdata/device", script([]string{need(t, "dash")}, "")) })
	t.Run("busybox", func(t *testing.T) {
		defer try.Fatal(t)
		busybox := need(t, "busybox")
		applets := t.TempDir()
		try.Run(exec.Command(busybox, "--install", "-s", applets))
		cmdtest.Run(t, "testdata/device", script([]string{busybox, "sh"}, applets))
	})
}

// TestRelease runs the scripts where releases are made.
func TestRelease(t *testing.T) {
	cmdtest.Run(t, "testdata/release", script([]string{need(t, "bash")}, ""))
}

// need is the path of a program that scripts/packages.sh installs.
func need(t *testing.T, name string) string {
	t.Helper()
	machine.Require(t, "script", debian.MissingTools(name))
	path, _ := debian.LookTool(name)
	return path
}
