package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const patience = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// socketpair is the kind of channel a virtual machine's host has.
func socketpair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// startGuest serves conn until the test ends or stop is called, which returns
// when everything of the session is over.
func startGuest(t *testing.T, conn io.ReadWriteCloser, bootID string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		Serve(ctx, conn, bootID)
		close(over)
	}()
	stop = func() {
		cancel()
		<-over
	}
	t.Cleanup(stop)
	return stop
}

// startPair is a client and an agent with nothing but a socketpair between them.
func startPair(t *testing.T) *Client {
	host, dev := socketpair(t)
	startGuest(t, dev, "boot-1")
	c := NewClient(host)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestExec(t *testing.T) {
	ctx, c := testContext(t), startPair(t)
	for _, row := range []struct {
		name     string
		argv     []string
		out, err string
		code     int
	}{
		{"both streams and the code come back", []string{"/bin/sh", "-c", "echo out; echo err >&2; exit 7"}, "out\n", "err\n", 7},
		{"success is 0", []string{"true"}, "", "", 0},
		{"death by a signal is 128+n", []string{"/bin/sh", "-c", "kill -9 $$"}, "", "", 137},
		{"bytes that are no UTF-8 survive", []string{"printf", `\377\001`}, "\xff\x01", "", 0},
		{"the environment is clean", []string{"/bin/sh", "-c", "echo $HOME $OTA_AGENT_TEST; pwd"}, "/root\n/\n", "", 0},
		{"an argument with a newline stays one", []string{"printf", "%s|", "a\nb", ""}, "a\nb||", "", 0},
		{"no standard input is waited for", []string{"cat"}, "", "", 0},
		{"a child that keeps the pipe does not keep the call", []string{"/bin/sh", "-c", "sleep 1000 & echo $!"}, "*", "", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("OTA_AGENT_TEST", "seen")
			r, err := c.Exec(ctx, row.argv...)
			if err != nil {
				t.Fatal(err)
			}
			if row.out == "*" {
				var pid int
				fmt.Sscan(r.Stdout, &pid)
				if pid < 2 || syscall.Kill(pid, syscall.SIGKILL) != nil {
					t.Fatalf("no child %q was left running", r.Stdout)
				}
				row.out = r.Stdout
			}
			if r.Stdout != row.out || r.Stderr != row.err || r.Code != row.code {
				t.Errorf("Exec(%q) = %v, want exit %d, %q, %q", row.argv, r, row.code, row.out, row.err)
			}
		})
	}
}

func TestExecOfWhatIsNotThere(t *testing.T) {
	ctx, c := testContext(t), startPair(t)
	_, err := c.Exec(ctx, "/no/such/program")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Exec of a missing program: %v, want fs.ErrNotExist", err)
	}
	if _, err := c.Exec(ctx); err == nil {
		t.Error("Exec of nothing succeeded")
	}
}

func TestBigOutput(t *testing.T) {
	ctx, c := testContext(t), startPair(t)
	const size = 8 << 20
	r, err := c.Exec(ctx, "/bin/sh", "-c", fmt.Sprintf("head -c %d /dev/zero; head -c %d /dev/zero >&2", size, size))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Stdout) != size || len(r.Stderr) != size {
		t.Errorf("got %d and %d bytes, want %d of each", len(r.Stdout), len(r.Stderr), size)
	}
}

// A second command ends while the first still runs, and a hundred at once each
// get their own answer.
func TestManyAtOnce(t *testing.T) {
	ctx, c := testContext(t), startPair(t)
	gate := filepath.Join(t.TempDir(), "gate")
	slow := make(chan error, 1)
	go func() {
		r, err := c.Exec(ctx, "/bin/sh", "-c", "until [ -e "+gate+" ]; do sleep 0.01; done; echo slow")
		if err == nil && r.Stdout != "slow\n" {
			err = fmt.Errorf("got %v", r)
		}
		slow <- err
	}()
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			r, err := c.Exec(ctx, "echo", fmt.Sprint(i))
			if err != nil || r.Stdout != fmt.Sprintln(i) {
				t.Errorf("Exec(echo %d) = %v, %v", i, r, err)
			}
		})
	}
	all.Wait()
	select {
	case err := <-slow:
		t.Fatalf("the command ended before its gate opened: %v", err)
	default:
	}
	if err := c.WriteFile(ctx, gate, 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; err != nil {
		t.Error(err)
	}
}

func TestFiles(t *testing.T) {
	ctx, c := testContext(t), startPair(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "file")
	big := bytes.Repeat([]byte("0123456789abcde\n"), 300<<10) // 4.7 MiB: many pieces
	for _, row := range []struct {
		name string
		mode uint32
		data []byte
	}{
		{"new, with folders", 0o640, []byte("one")},
		{"replaced, with another mode", 0o755, big},
		{"empty", 0o4711, nil},
		{"one piece exactly", 0o600, big[:pieceSize]},
		{"one piece and a byte", 0o600, big[:pieceSize+1]},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := c.WriteFile(ctx, path, row.mode, row.data); err != nil {
				t.Fatal(err)
			}
			got, err := c.ReadFile(ctx, path)
			if err != nil || !bytes.Equal(got, row.data) {
				t.Errorf("read %d bytes, %v, want %d", len(got), err, len(row.data))
			}
			var st syscall.Stat_t
			if err := syscall.Stat(path, &st); err != nil || st.Mode&0o7777 != row.mode {
				t.Errorf("mode %o, %v, want %o", st.Mode&0o7777, err, row.mode)
			}
		})
	}

	if err := os.Symlink("elsewhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteFile(ctx, filepath.Join(dir, "link"), 0o600, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("WriteFile followed the link: %v", err)
	}

	if _, err := c.ReadFile(ctx, filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of a missing file: %v, want fs.ErrNotExist", err)
	}
	if err := c.WriteFile(ctx, filepath.Join(path, "below-a-file"), 0o600, big); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("WriteFile below a file: %v, want ENOTDIR", err)
	}
	if err := c.WriteFile(ctx, "relative", 0o600, nil); err == nil {
		t.Error("WriteFile of a relative path succeeded")
	}
	names, _ := filepath.Glob(filepath.Join(dir, "a", "b", ".*"))
	if len(names) != 0 {
		t.Errorf("left behind: %q", names)
	}
}

// A cancelled call returns at once and leaves nothing running, and the client
// is as good as before.
func TestCancelKills(t *testing.T) {
	ctx, c := testContext(t), startPair(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	short, cancel := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() {
		_, err := c.Exec(short, "/bin/sh", "-c", "sleep 1000 & echo $! > "+pidFile+"; echo >> "+pidFile+"; wait")
		over <- err
	}()
	var pid int
	for pid == 0 {
		b, _ := os.ReadFile(pidFile)
		if strings.Count(string(b), "\n") == 2 {
			fmt.Sscan(string(b), &pid)
		}
	}
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Errorf("Exec = %v, want context.Canceled", err)
	}
	// The shell's child is killed too. Its zombie belongs to whoever adopts it.
	for alive(pid) {
		if ctx.Err() != nil {
			t.Fatalf("process %d of the cancelled command still runs", pid)
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := c.Exec(ctx, "true"); err != nil {
		t.Error(err)
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestSilentMachineEndsWithContext(t *testing.T) {
	host, _ := socketpair(t) // nobody serves the other end, nor reads from it
	c := NewClient(host)
	defer c.Close()
	big := make([]byte, 16<<20)
	for what, f := range map[string]func(context.Context) error{
		"Hello":     func(ctx context.Context) error { _, err := c.Hello(ctx); return err },
		"WaitBoot":  func(ctx context.Context) error { _, err := c.WaitBoot(ctx, "x"); return err },
		"Exec":      func(ctx context.Context) error { _, err := c.Exec(ctx, "true"); return err },
		"WriteFile": func(ctx context.Context) error { return c.WriteFile(ctx, "/x", 0o600, big) },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		start := time.Now()
		if err := f(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s = %v, want context.DeadlineExceeded", what, err)
		}
		cancel()
		if d := time.Since(start); d > patience/2 {
			t.Errorf("%s returned %s after its context ended", what, d)
		}
	}
}

func TestClosedStream(t *testing.T) {
	ctx := testContext(t)
	host, dev := socketpair(t)
	stop := startGuest(t, dev, "boot-1")
	c := NewClient(host)
	if _, err := c.Hello(ctx); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { _, err := c.Exec(ctx, "sleep", "1000"); over <- err }()
	go func() { time.Sleep(10 * time.Millisecond); stop() }()
	if err := <-over; !errors.Is(err, ErrGone) {
		t.Errorf("Exec on a stream that closes = %v, want ErrGone", err)
	}
	<-c.Closed()
	if _, err := c.Hello(ctx); !errors.Is(err, ErrGone) {
		t.Errorf("Hello on a closed stream = %v, want ErrGone", err)
	}
	if _, err := c.WaitBoot(ctx, "x"); !errors.Is(err, ErrGone) {
		t.Errorf("WaitBoot on a closed stream = %v, want ErrGone", err)
	}
}
