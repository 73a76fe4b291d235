package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a reset, a kernel message or another program leaves in the stream.
var garbage = []string{
	"",
	"\x00\x00\x00",
	`{"session":"x","id":1,"out":"AAAA`,
	`AAAA","done":{"code":0}}`,
	"[    1.234567] random: crng init done\r",
	`{"hello":`,
	`{"hello":{"session":"","boot_id":"empty"}}`,
	`[1,2,3]`,
	`{"id":"not a number"}`,
	`{"session":"nobody","id":1,"done":{"code":0}}`,
	strings.Repeat("x", maxLine+10),
	`{"to":"nobody","id":1,"op":"exec","argv":["false"]}`,
	"\xff\xfe{",
}

// noisy puts a line of garbage before each Write.
type noisy struct {
	net.Conn
	n int
}

func (c *noisy) Write(b []byte) (int, error) {
	if _, err := io.WriteString(c.Conn, garbage[c.n%len(garbage)]+"\n"); err != nil {
		return 0, err
	}
	c.n++
	return c.Conn.Write(b)
}

func TestGarbageIsSkipped(t *testing.T) {
	pipe := func(t *testing.T) (a, b net.Conn) { return net.Pipe() }
	for name, open := range map[string]func(*testing.T) (a, b net.Conn){"pipe": pipe, "socketpair": socketpair} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			host, dev := open(t)
			startGuest(t, &noisy{Conn: dev}, "boot-1")
			c := NewClient(&noisy{Conn: host})
			defer c.Close()
			path := filepath.Join(t.TempDir(), "f")
			for range 2 * len(garbage) {
				if id, err := c.Hello(ctx); err != nil || id != "boot-1" {
					t.Fatalf("Hello = %q, %v", id, err)
				}
				r, err := c.Exec(ctx, "/bin/sh", "-c", "echo a; echo b >&2; exit 3")
				if err != nil || r.Stdout != "a\n" || r.Stderr != "b\n" || r.Code != 3 {
					t.Fatalf("Exec = %v, %v", r, err)
				}
				data := []byte(strings.Repeat("d", pieceSize+100))
				if err := c.WriteFile(ctx, path, 0o600, data); err != nil {
					t.Fatal(err)
				}
				if got, err := c.ReadFile(ctx, path); err != nil || string(got) != string(data) {
					t.Fatalf("ReadFile = %d bytes, %v, want %d", len(got), err, len(data))
				}
			}
		})
	}
}

// relay is a serial port: it outlives the agents that are plugged into it, and
// shows what the host sent.
type relay struct {
	host net.Conn // the client's end
	far  net.Conn // the machine's end
	from *bufio.Reader
}

func newRelay(t *testing.T) *relay {
	host, far := socketpair(t)
	return &relay{host, far, bufio.NewReader(far)}
}

// next is the host's next request of that kind.
func (r *relay) next(t *testing.T, op string) request {
	t.Helper()
	for {
		line, err := r.from.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var q request
		if json.Unmarshal([]byte(line), &q) == nil && q.Op == op {
			return q
		}
	}
}

func (r *relay) say(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(r.far, text); err != nil {
		t.Fatal(err)
	}
}

func (r *relay) answerPing(t *testing.T, session, boot string) {
	t.Helper()
	q := r.next(t, "ping")
	line, _ := encode(reply{Hello: &hello{Session: session, BootID: boot, Nonce: q.Nonce}})
	r.say(t, string(line))
}

func TestResetInTheMiddleOfALine(t *testing.T) {
	ctx, r := testContext(t), newRelay(t)
	c := NewClient(r.host)
	defer c.Close()
	over := make(chan error, 1)
	go func() { _, err := c.Exec(ctx, "reboot"); over <- err }()
	r.answerPing(t, "s1", "boot-1")
	if q := r.next(t, "exec"); q.To != "s1" {
		t.Errorf("the request is for session %q, want s1", q.To)
	}
	// The machine is reset while it answers, and says hello.
	r.say(t, `{"session":"s1","id":1,"out":"aGFsZiBhIGxpbmU`)
	r.say(t, "\n"+`{"hello":{"session":"s2","boot_id":"boot-2"}}`+"\n")
	if err := <-over; !errors.Is(err, ErrGone) {
		t.Errorf("Exec across a reset = %v, want ErrGone", err)
	}
	id := make(chan string, 1)
	go func() { s, _ := c.WaitBoot(ctx, "boot-1"); id <- s }()
	r.answerPing(t, "s2", "boot-2")
	if got := <-id; got != "boot-2" {
		t.Errorf("WaitBoot = %q, want boot-2", got)
	}
}

// The boot that is going down may still answer; WaitBoot is not taken in.
func TestWaitBootOutlivesTheOldBoot(t *testing.T) {
	ctx, r := testContext(t), newRelay(t)
	c := NewClient(r.host)
	defer c.Close()
	id := make(chan string, 1)
	go func() { s, _ := c.WaitBoot(ctx, "boot-1"); id <- s }()
	r.answerPing(t, "s1", "boot-1")
	r.next(t, "ping") // lost with the reset
	r.next(t, "ping")
	r.answerPing(t, "s2", "boot-2")
	if got := <-id; got != "boot-2" {
		t.Errorf("WaitBoot = %q, want boot-2", got)
	}
}

// A hello that was already on its way when Hello was called may be of a boot
// that has ended since.
func TestHelloIsNotAnOldOne(t *testing.T) {
	ctx, r := testContext(t), newRelay(t)
	c := NewClient(r.host)
	defer c.Close()
	r.say(t, `{"hello":{"session":"s0","boot_id":"old"}}`+"\n")
	r.say(t, `{"hello":{"session":"s0","boot_id":"old","nonce":"someone else's"}}`+"\n")
	id := make(chan string, 1)
	go func() { s, _ := c.Hello(ctx); id <- s }()
	r.answerPing(t, "s1", "new")
	if got := <-id; got != "new" {
		t.Errorf("Hello = %q, want new", got)
	}
}

// A request that the boot before did not read any more is not carried out by
// the boot after it; the host learns that its agent is gone.
func TestRequestOfTheBootBefore(t *testing.T) {
	host, dev := socketpair(t)
	startGuest(t, dev, "boot-2")
	path := filepath.Join(t.TempDir(), "touched")
	for _, q := range []request{
		{To: "s1", ID: 1, Op: "exec", Argv: []string{"touch", path}},
		{To: "", ID: 2, Op: "exec", Argv: []string{"touch", path}},
		{To: "s1", ID: 3, Op: "write", Path: path, Last: true},
		{Op: "ping", Nonce: "n"},
	} {
		line, err := encode(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := host.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	hellos := 0
	err := readLines(host, func(r reply) {
		if r.Done != nil {
			t.Errorf("request %d was carried out", r.ID)
		}
		if r.Hello != nil {
			hellos++
			if r.Hello.Nonce == "n" {
				host.Close()
			}
		}
	})
	if !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if hellos != 1+3+1 {
		t.Errorf("%d hellos, want one at the start, one for each stale request, one for the ping", hellos)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale request touched its file: %v", err)
	}
}

// An agent that systemd started again in the same boot is another session too.
func TestAgentRestart(t *testing.T) {
	ctx := testContext(t)
	host, dev := socketpair(t)
	f, err := dev.(*net.UnixConn).File() // the port stays open between the two agents
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop := startGuest(t, dev, "boot-1")
	c := NewClient(host)
	defer c.Close()
	if _, err := c.Hello(ctx); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	started := filepath.Join(t.TempDir(), "started")
	go func() { _, err := c.Exec(ctx, "/bin/sh", "-c", "touch "+started+"; exec sleep 1000"); over <- err }()
	for ctx.Err() == nil {
		if _, err := os.Lstat(started); err == nil {
			break
		}
	}
	stop()
	again, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	startGuest(t, again, "boot-1")
	if err := <-over; !errors.Is(err, ErrGone) {
		t.Errorf("Exec across the agent's restart = %v, want ErrGone", err)
	}
	if r, err := c.Exec(ctx, "echo", "again"); err != nil || r.Stdout != "again\n" {
		t.Errorf("Exec after the agent's restart = %v, %v", r, err)
	}
}

func TestServeEndsWithContext(t *testing.T) {
	host, dev := socketpair(t)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- Serve(ctx, dev, "boot-1") }()
	if _, err := bufio.NewReader(host).ReadString('}'); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-over; err == nil {
		t.Error("Serve = nil, want why it ended")
	}
}
