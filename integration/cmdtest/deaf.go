package cmdtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// deafLimit is what a program with such an output may take. It only ends a test
// that has failed.
const deafLimit = 60 * time.Second

// deaf: see the package.
func deaf(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: deaf HOW CODES PROGRAM ARGS...")
	}
	ctx, cancel := context.WithTimeout(context.Background(), deafLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, lookPath(ts, args[2]), args[3:]...)
	bySh := func(redirect string) {
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `exec "$@" ` + redirect, "sh"}, cmd.Args...)
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{unchecked + "=1"}
	for _, name := range []string{"OTA_CONFIG", "STORE", "PATH", "WORK", "TMPDIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var out *os.File
	switch args[0] {
	case "gone": // it never gets a reader
		r, w, err := os.Pipe()
		ts.Check(err)
		ts.Check(r.Close())
		out = w
	case "full":
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		ts.Check(err)
		out = f
	case "stuck", "stuck-nonblocking": // the other end is open, and nothing reads it
		var fds [2]int
		ts.Check(unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
		for {
			if _, err := unix.Write(fds[1], make([]byte, 4096)); err == unix.EAGAIN {
				break
			} else if err != nil {
				ts.Fatalf("cannot fill a pipe: %v", err)
			}
		}
		if args[0] == "stuck" {
			ts.Check(unix.SetNonblock(fds[1], false))
		}
		defer unix.Close(fds[0])
		// Not by os.NewFile, which would change how the pipe blocks.
		bySh(">&3 2>&3 3>&-")
		out = os.NewFile(uintptr(fds[1]), "stuck")
		cmd.ExtraFiles = []*os.File{out}
	case "closed":
		bySh(">&- 2>&-")
	default:
		ts.Fatalf("deaf: %q is not gone, closed, full, stuck or stuck-nonblocking", args[0])
	}
	if cmd.ExtraFiles == nil && out != nil {
		cmd.Stdout, cmd.Stderr = out, out
	}
	err := cmd.Run()
	if out != nil {
		_ = out.Close()
	}
	if ctx.Err() != nil {
		ts.Fatalf("%s, whose output is %s, did not end within %s", strings.Join(args[2:], " "), args[0], deafLimit)
	}
	got := "0"
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = strconv.Itoa(e.ExitCode())
		if s, ok := e.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			got = s.Signal().String()
		}
	} else {
		ts.Check(err)
	}
	if got != args[1] {
		ts.Fatalf("%s, whose output is %s, ended with %s, want %s", strings.Join(args[2:], " "), args[0], got, args[1])
	}
}

// lookPath is exec.LookPath in the PATH of the script.
func lookPath(ts *testscript.TestScript, name string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	ts.Fatalf("%s is not in the script's PATH", name)
	return ""
}
