package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/guardian"
	"github.com/tope-ota/ota/integration/cmdtest"
)

// The scripts let the guardian judge what they installed, so the test (and only
// the test) runs it too.
func TestMain(m *testing.M) {
	if os.Getenv("OTA_TEST_LOCK") != "" {
		lockAll()
	}
	testscript.Main(m, map[string]func(){
		"ota-apply": main,
		"ota-guardian": func() {
			os.Exit(int(guardian.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)))
		},
		"ota-bundle": func() {
			os.Exit(int(bundlecmd.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
		},
	})
}

// The scripts here have three more commands:
//
//	metrics             ask for figures in metrics/ota.prom, and keep downloads in the folder spool
//	nobody-locks DIR... uid 65534 locks everything below the folders that it can open, until the script ends
//	undeletable FILE    of the store cannot be deleted, wherever it is moved, until "! undeletable" or the script's end
func TestScripts(t *testing.T) {
	cmdtest.Run(t, "testdata/script", map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"metrics": metrics, "nobody-locks": nobodyLocks, "undeletable": undeletable,
	})
}

func metrics(ts *testscript.TestScript, neg bool, args []string) {
	name := ts.Getenv("OTA_CONFIG")
	is, err := os.ReadFile(name)
	ts.Check(err)
	for _, dir := range []string{"spool", "metrics"} {
		ts.Check(os.Mkdir(ts.MkAbs(dir), 0o755))
	}
	text := fmt.Sprintf("spool = %q\n%s[metrics]\nfile = %q\n", ts.MkAbs("spool"), is, ts.MkAbs("metrics/ota.prom"))
	ts.Check(os.WriteFile(name, []byte(text), 0o644))
}

func undeletable(ts *testscript.TestScript, neg bool, args []string) {
	store := ts.MkAbs("versions")
	undo := func() { _ = exec.Command("sh", "-c", `chattr -R -i "$0" 2>/dev/null; chmod -R u+w "$0"`, store).Run() }
	if neg {
		undo()
		return
	}
	name := ts.MkAbs(args[0])
	if os.Geteuid() == 0 {
		ts.Check(ts.Exec("chattr", "+i", name))
	} else {
		ts.Check(os.Chmod(filepath.Dir(name), 0o555))
	}
	ts.Defer(undo)
}

func nobodyLocks(ts *testscript.TestScript, neg bool, args []string) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			ts.Fatalf("needs root, to be another user")
		}
		ts.Logf("not root: nobody else locks anything")
		return
	}
	ts.Check(os.Chmod(ts.MkAbs("."), 0o755))
	exe, err := os.Executable()
	ts.Check(err)
	cmd := exec.Command(exe)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "OTA_TEST_LOCK="+strings.Join(args, ":"))
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	ts.Logf("uid 65534 has %s", strings.TrimSpace(line))
	if strings.HasPrefix(line, "0 ") {
		ts.Fatalf("it can open nothing, which shows nothing")
	}
}

// lockAll is the process of nobodyLocks. Names are relative, so that the folders above
// need not be open to all.
func lockAll() {
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
		panic(err)
	}
	n := 0
	for dir := range strings.SplitSeq(os.Getenv("OTA_TEST_LOCK"), ":") {
		_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
			if err == nil && syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
				n++
			}
			return nil
		})
	}
	fmt.Println(n, "locks")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the script ends
	os.Exit(0)
}
