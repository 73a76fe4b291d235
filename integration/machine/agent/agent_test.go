package agent

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/tope-ota/ota/integration/try"
)

// host is the host's end of a relay.
type host struct {
	*Client
	Remote
}

// relay is a serial port: it outlives the agents that are plugged into it.
func relay(t *testing.T) (h host, far *os.File) {
	t.Helper()
	defer try.Fatal(t)
	fds := try.Get(syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0))
	near, far := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
	defer near.Close()
	c := NewClient(try.Get(net.FileConn(near)))
	t.Cleanup(func() { c.Close(); far.Close() })
	return host{c, func(_ context.Context, do func(*Client) error) error { return do(c) }}, far
}

// plug starts an agent at the far end, with a line of garbage before each of its own.
// stop ends it and leaves the stream open.
func plug(t *testing.T, far *os.File, bootID string) (stop func()) {
	t.Helper()
	defer try.Fatal(t)
	conn := try.Get(net.FileConn(far))
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { Serve(ctx, &noisy{Conn: conn}, bootID) })
	stop = func() { cancel(); all.Wait() }
	t.Cleanup(stop)
	return stop
}

// What a reset, a kernel message or another program leaves in the stream.
var garbage = []string{
	"", "\x00\x00\x00", `{"session":"x","id":1,"out":"AAAA`, `AAAA","code":0}`, "[    1.234567] random: crng init done\r",
	`{"session":"","boot_id":"empty"}`, `[1,2,3]`, `{"id":"not a number"}`, strings.Repeat("x", 1<<20), "\xff\xfe{",
}

type noisy struct {
	net.Conn
	n int
}

func (c *noisy) Write(b []byte) (int, error) {
	c.n++
	if _, err := io.WriteString(c.Conn, garbage[c.n%len(garbage)]); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func TestExec(t *testing.T) {
	c, far := relay(t)
	plug(t, far, "boot-1")
	for _, row := range []struct {
		name     string
		argv     []string
		out, err string
		code     int
	}{
		{"both streams and the code come back", []string{"/bin/sh", "-c", "echo out; echo err >&2; exit 7"}, "out\n", "err\n", 7},
		{"death by a signal is 128+n", []string{"/bin/sh", "-c", "kill -9 $$"}, "", "", 137},
		{"bytes that are no UTF-8 survive", []string{"printf", `\377\001`}, "\xff\x01", "", 0},
		{"the environment is clean", []string{"/bin/sh", "-c", "echo $HOME $OTA_AGENT_TEST; pwd"}, "/root\n/\n", "", 0},
		{"no standard input is waited for", []string{"cat"}, "", "", 0},
		{"a big output", []string{"/bin/sh", "-c", "head -c 8000000 /dev/zero"}, strings.Repeat("\x00", 8e6), "", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("OTA_AGENT_TEST", "seen")
			r, err := c.Exec(t.Context(), row.argv...)
			if err != nil || r.Stdout != row.out || r.Stderr != row.err || r.Code != row.code {
				t.Errorf("Exec(%q) = %.200v, %v, want exit %d, %.20q, %q", row.argv, r, err, row.code, row.out, row.err)
			}
		})
	}
	if _, err := c.Exec(t.Context(), "/no/such/program"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Exec of a missing program: %v, want fs.ErrNotExist", err)
	}
}

func TestFiles(t *testing.T) {
	defer try.Fatal(t)
	c, far := relay(t)
	plug(t, far, "boot-1")
	path := filepath.Join(t.TempDir(), "a", "b", "file")
	for mode, data := range map[uint32][]byte{0o640: []byte("one"), 0o755: bytes.Repeat([]byte("0123456789"), 1<<19), 0o711: nil} {
		try.Check(c.WriteFile(t.Context(), path, mode, data))
		got, err := c.ReadFile(t.Context(), path)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v, want %d", len(got), err, len(data))
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != fs.FileMode(mode) {
			t.Errorf("the file is %v, %v, want mode %o", st.Mode(), err, mode)
		}
	}
	if _, err := c.ReadFile(t.Context(), path+".missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of a missing file: %v, want fs.ErrNotExist", err)
	}
	if err := c.WriteFile(t.Context(), path+"/below-a-file", 0o600, nil); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("WriteFile below a file: %v, want ENOTDIR", err)
	}
}

// A call that is cancelled returns at once, its program is killed, and others continue.
func TestCancelKills(t *testing.T) {
	c, far := relay(t)
	plug(t, far, "boot-1")
	path := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { _, err := c.Exec(ctx, "/bin/sh", "-c", "echo $$ > "+path+"; sleep 1000"); over <- err }()
	running := func() bool {
		r, err := c.Exec(t.Context(), "/bin/sh", "-c", "kill -0 $(cat "+path+")")
		return err == nil && r.Code == 0
	}
	for !running() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Errorf("Exec = %v, want context.Canceled", err)
	}
	for running() {
		time.Sleep(time.Millisecond)
	}
}

// An agent that comes after another one ends the calls of that, and carries out none.
func TestNextSession(t *testing.T) {
	c, far := relay(t)
	stop := plug(t, far, "boot-1")
	if id, err := c.Hello(t.Context()); err != nil || id != "boot-1" {
		t.Fatalf("Hello = %q, %v", id, err)
	}
	over := make(chan error, 2)
	go func() { _, err := c.Exec(t.Context(), "sleep", "1000"); over <- err }()
	time.Sleep(10 * time.Millisecond)
	stop()
	path := filepath.Join(t.TempDir(), "touched")
	go func() { _, err := c.Exec(t.Context(), "touch", path); over <- err }() // of the session that it knows
	time.Sleep(10 * time.Millisecond)
	id := make(chan string, 1)
	go func() { s, _ := c.WaitBoot(t.Context(), "boot-1"); id <- s }()
	plug(t, far, "boot-2")
	for range 2 {
		if err := <-over; !errors.Is(err, ErrGone) {
			t.Errorf("Exec across a reset = %v, want ErrGone", err)
		}
	}
	if got := <-id; got != "boot-2" {
		t.Errorf("WaitBoot = %q, want boot-2", got)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the next boot carried out a request of the one before")
	}
	if r, err := c.Exec(t.Context(), "echo", "again"); err != nil || r.Stdout != "again\n" {
		t.Errorf("Exec in the next session = %v, %v", r, err)
	}
}
