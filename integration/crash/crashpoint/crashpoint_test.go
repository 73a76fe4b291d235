package crashpoint_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	. "github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/machine"
)

var missing = sync.OnceValue(Missing)

func require(t *testing.T) {
	t.Helper()
	machine.Require(t, "supervisor", missing())
}

// follow runs a program to its end.
func follow(t *testing.T, cmd *exec.Cmd, plan Plan) *Run {
	t.Helper()
	require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	run, err := Start(ctx, cmd, plan)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// The kernel gives a thread's number to another process when the thread has ended.
func TestReusedNumber(t *testing.T) {
	dir := t.TempDir()
	run := follow(t, command(dir, "reuse"), nil)
	if !run.State.Success() {
		t.Fatal("the program failed")
	}
	var made []string
	for _, c := range run.Calls {
		if c.Name == "mkdir" {
			made = append(made, filepath.Base(c.File.Path))
		}
	}
	if diff := cmp.Diff([]string{"b"}, made); diff != "" {
		t.Errorf("the directories that were seen (-want +got):\n%s", diff)
	}
}

func TestEachCall(t *testing.T) {
	dir := t.TempDir()
	run := follow(t, command(dir, "each"), nil)
	if !run.State.Success() {
		t.Fatal("the program failed")
	}
	var got []string
	for _, c := range run.Calls {
		got = append(got, sentence(dir, &c))
	}
	want := []string{
		"mkdir d made mode=drwxr-xr-x",
		"open d/f made mode=-rw-------",
		"open d/g made mode=-rw-r--r--",
		"open  made mode=-rw-------",
		`write d/f 0+6 "hello "`,
		`write d/f 6+5 "world"`,
		`write d/g 0+6 "onetwo"`,
		`copy d/g 6+3 "hel" from d/f`,
		`copy d/g 9+4 "lo w" from d/f`, // the caller's offset was moved,
		"clone d/g 0+11 from d/f",
		"truncate d/g 5+0",
		"truncate d/f 9+0",
		"fallocate d/f 0+4096 flags=0x1",
		"link  to d/named from ",
		`symlink d/l made "f"`,
		"link d/f to d/h from d/f",
		"rename d/h to d/g",
		"rename d/named to d/l flags=0x2",
		"chmod d/f mode=-rw-r-----",
		"chmod d/f mode=-rw----r--",
		"fsync d/f",
		"fsync d",
		"syncfs d/f",
		"unlink d/g",
		"mkdir d/e made mode=drwx------",
		"unlink d/e flags=0x200",
		`write d/f 6+1 "!"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for i, c := range run.Calls {
		if c.Point != i+1 || c.PID != run.State.Pid() || c.TID == 0 || c.Program != filepath.Base(os.Args[0]) {
			t.Errorf("call %d is point %d of thread %d of process %d, %q; want it of process %d, %q", i, c.Point, c.TID, c.PID, c.Program, run.State.Pid(), filepath.Base(os.Args[0]))
		}
		if c.Errno != 0 && c.Name != "clone" {
			t.Errorf("%s failed: %v", sentence(dir, &c), c.Errno)
		}
	}
	for _, name := range Names {
		found := false
		for _, c := range run.Calls {
			found = found || c.Name == name
		}
		if !found {
			t.Errorf("no call %s was made: the test misses it", name)
		}
	}
}

// sentence says what a call is, with paths in dir.
func sentence(dir string, c *Call) string {
	rel := func(p Place) string {
		if p.Path == "" {
			return ""
		}
		name, err := filepath.Rel(dir, p.Path)
		if err != nil {
			return p.Path
		}
		return name
	}
	s := c.Name + " " + rel(c.File)
	if c.File.Made {
		s += " made"
	}
	switch c.Name {
	case "open", "mkdir", "chmod":
		s += " mode=" + (c.Mode | c.File.Type&fs.ModeDir).String()
	case "write", "copy", "clone", "truncate", "fallocate":
		s += fmt.Sprintf(" %d+%d", c.Offset, c.Length)
	case "link", "rename":
		s += " to " + rel(c.To)
	case "symlink":
		s += fmt.Sprintf(" %q", c.Target)
	}
	if c.Data != nil && c.Errno == 0 {
		s += fmt.Sprintf(" %q", c.Data)
	}
	switch c.Name {
	case "copy", "clone", "link":
		s += " from " + rel(c.Source)
	case "fallocate", "rename", "unlink":
		if c.Flags != 0 {
			s += fmt.Sprintf(" flags=%#x", c.Flags)
		}
	}
	return s
}

// What is there after a kill before call n is what was there when a whole run came to it.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	var there [][]string // before each call
	all := follow(t, command(dir, "each"), func(*Call) Action {
		there = append(there, tree(t, dir))
		return Action{}
	})
	for n := range all.Calls {
		dir := t.TempDir()
		run := follow(t, command(dir, "each"), Kill(n+1))
		if !run.Killed || len(run.Calls) != n || run.Next.Name != all.Calls[n].Name || run.State.Success() {
			t.Fatalf("Kill(%d): killed=%v before %s after %d calls, %v; want it before %s", n+1, run.Killed, run.Next.Name, len(run.Calls), run.State, all.Calls[n].Name)
		}
		if diff := cmp.Diff(there[n], tree(t, dir)); diff != "" {
			t.Errorf("killed before call %d (-want +got):\n%s", n+1, diff)
		}
	}
	run := follow(t, command(t.TempDir(), "each"), Kill(len(all.Calls)+1))
	if run.Killed || !run.State.Success() {
		t.Errorf("Kill behind the last call: killed=%v, %v; want a normal end", run.Killed, run.State)
	}
}

func TestFail(t *testing.T) {
	for _, test := range []struct {
		name string
		plan Plan
		want string
	}{
		{"once", Fail(2, unix.EDQUOT), "1: <nil>\n2: mkdir 2: disk quota exceeded\n3: <nil>\n"},
		{"from then on", FailFrom(2, unix.EROFS), "1: <nil>\n2: mkdir 2: read-only file system\n3: mkdir 3: read-only file system\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := command(dir, "tell")
			var out bytes.Buffer
			cmd.Stdout = &out
			run := follow(t, cmd, test.plan)
			if out.String() != test.want {
				t.Errorf("the program saw\n%swant\n%s", &out, test.want)
			}
			for i, c := range run.Calls {
				_, err := os.Stat(filepath.Join(dir, fmt.Sprint(i+1)))
				if made := err == nil; made == c.Injected || c.Injected != (c.Errno != 0) {
					t.Errorf("call %d: injected=%v, %v, and its directory is there: %v", i+1, c.Injected, c.Errno, made)
				}
			}
		})
	}
}

func TestUnknownCalls(t *testing.T) {
	require(t)
	for what, want := range map[string]string{
		"io_uring": "io_uring_setup", "mknod": "mknod", "shared mapping": "mmap", "new call": "number 472",
		"socket": "bind", "flags": "ioctl 0x40086602", "root": "a root of its own",
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "shared"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Start(t.Context(), command(dir, "strange "+what), nil)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the run ended with %v, want an error about %s", err, want)
			}
			if _, err := os.Stat(filepath.Join(dir, "went-on")); err == nil {
				t.Error("the program continued")
			}
		})
	}
}

// Children are followed, and killed with their parent, even those that it has lost.
func TestChildren(t *testing.T) {
	dir := t.TempDir()
	script := `echo a >a; (sleep 1000 & echo $! >pid; sh -c 'echo b >b'); echo c >c`
	shell := func() *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", script)
		cmd.Dir = dir
		return cmd
	}
	var last string
	run := follow(t, shell(), func(c *Call) Action {
		last = filepath.Base(c.File.Path)
		return Action{Kill: last == "c"}
	})
	if !run.Killed || last != "c" {
		t.Fatalf("killed=%v at %s, want it at c", run.Killed, last)
	}
	pids := make(map[int]bool)
	for _, c := range run.Calls {
		pids[c.PID] = true
	}
	if len(pids) != 2 {
		t.Errorf("calls of %d processes were seen, want 2", len(pids))
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	// The kernel has let go of it, and may still tidy up; its parent may not have waited for it.
	for range 600 {
		status, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/status")
		if err != nil || !strings.HasPrefix(string(status), "Name:\tsleep") || strings.Contains(string(status), "State:\tZ") {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("a child that had lost its parent still runs")
}
