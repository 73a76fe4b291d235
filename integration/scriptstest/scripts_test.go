// Package scriptstest runs the scripts of scripts/ for real: those of a device with
// dash, and with nothing but busybox, as a device may have no more.
package scriptstest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/guardian"
	"github.com/tope-ota/ota/integration/cmdtest"
	"github.com/tope-ota/ota/integration/try"
)

func TestMain(m *testing.M) {
	ctx := context.Background()
	testscript.Main(m, map[string]func(){
		"ota-apply":    func() { os.Exit(int(applier.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))) },
		"ota-guardian": func() { os.Exit(int(guardian.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))) },
		"ota-bundle":   func() { os.Exit(int(bundlecmd.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))) },
	})
}

// Commands of the scripts, besides those of cmdtest:
//
//	script CODE NAME ARGS...   run scripts/NAME, which must end with CODE
//	remember NAME DIR          remember every file, link, mode and time of DIR
//	same NAME DIR              all of that must be as it was
func commands(shell []string, path string) map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"script": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < 2 {
				ts.Fatalf("usage: script CODE NAME ARGS...")
			}
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			repo, err := filepath.Abs("../..")
			ts.Check(err)
			programs, _, _ := strings.Cut(ts.Getenv("PATH"), ":")
			argv := append(append([]string{}, shell...), filepath.Join(repo, "scripts", args[1]))
			if path != "" {
				argv = append([]string{"env", "PATH=" + programs + ":" + path}, argv...)
			}
			argv = append(argv, args[2:]...)
			got := 0
			if err := ts.Exec(argv[0], argv[1:]...); err != nil {
				got = -1
				if e, ok := err.(interface{ ExitCode() int }); ok {
					got = e.ExitCode()
				}
			}
			if got != want {
				ts.Fatalf("%s ended with exit code %d, want %d", strings.Join(args[1:], " "), got, want)
			}
		},
		"remember": func(ts *testscript.TestScript, neg bool, args []string) {
			ts.Check(os.WriteFile(ts.MkAbs(args[0]+".tree"), []byte(tree(ts, ts.MkAbs(args[1]))), 0o644))
		},
		"same": func(ts *testscript.TestScript, neg bool, args []string) {
			if got, want := tree(ts, ts.MkAbs(args[1])), ts.ReadFile(args[0]+".tree"); got != want {
				ts.Fatalf("%s changed.\nbefore:\n%s\nafter:\n%s", args[1], want, got)
			}
		},
	}
}

// tree describes everything below dir but for the files that are only locked.
func tree(ts *testscript.TestScript, dir string) string {
	var b strings.Builder
	ts.Check(filepath.WalkDir(dir, func(name string, d fs.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		info, err := d.Info()
		if err != nil || strings.HasSuffix(name, "lock") {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		fmt.Fprintf(&b, "%s %v", rel, info.Mode())
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target := try.Get(os.Readlink(name))
			fmt.Fprintf(&b, " -> %s %d", target, info.ModTime().UnixNano())
		case d.Type().IsRegular():
			data := try.Get(os.ReadFile(name))
			fmt.Fprintf(&b, " %x %d", sha256.Sum256(data), info.ModTime().UnixNano())
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// TestDevice runs the scripts of a device.
func TestDevice(t *testing.T) {
	t.Run("dash", func(t *testing.T) { cmdtest.Run(t, "testdata/device", commands([]string{need(t, "dash")}, "")) })
	t.Run("busybox", func(t *testing.T) {
		busybox := need(t, "busybox")
		applets := t.TempDir()
		if out, err := exec.Command(busybox, "--install", "-s", applets).CombinedOutput(); err != nil {
			t.Fatalf("busybox --install: %v\n%s", err, out)
		}
		cmdtest.Run(t, "testdata/device", commands([]string{busybox, "sh"}, applets))
	})
}

// TestRelease runs the scripts where releases are made.
func TestRelease(t *testing.T) {
	cmdtest.Run(t, "testdata/release", commands([]string{need(t, "bash")}, ""))
}

// need is the path of a program that scripts/packages.sh installs.
func need(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("NOT TESTED: %v; scripts/packages.sh installs it", err)
	}
	return path
}
