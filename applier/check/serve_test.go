package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// pair is the connection to a Serve, which must end soon after it.
func pair(t *testing.T) net.Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "health")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	ended := make(chan struct{})
	go func() {
		Serve(context.Background(), conns[1])
		conns[1].Close()
		close(ended)
	}()
	t.Cleanup(func() {
		conns[0].Close()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("Serve does not end with its connection")
		}
	})
	return conns[0]
}

// checked runs c, which is required, by a connection to a Serve.
func checked(t *testing.T, c config.Check, version string) health.Result {
	t.Helper()
	c.Name, c.Required = "probe", true
	cfg := config.Default("/nonexistent/ota.toml")
	cfg.Checks = []config.Check{c}
	env := health.Env{Version: version, Ask: func(ctx context.Context, r health.Request) (health.Answer, error) {
		return health.AskOver(ctx, pair(t), r)
	}}
	r := health.Run(t.Context(), health.All(cfg, env))[0]
	if r.Unanswered != nil {
		t.Fatal(r.Unanswered)
	}
	return r
}

// An answer fits into its line, also if a version says more.
func TestAnswerIsBounded(t *testing.T) {
	url := serve(t, func(c net.Conn) {
		fmt.Fprintf(c, "HTTP/1.0 200 OK\r\n\r\n{\"version\":%q}", strings.Repeat("<", 60<<10))
	})
	r := checked(t, config.Check{HTTP: url, Timeout: time.Minute}, "1.2.0")
	if r.OK || len(r.Why) > 310 || len(r.Output) > health.MaxOutput {
		t.Errorf("%d bytes of why, %d of output: %+v", len(r.Why), len(r.Output), r)
	}
}

// A check that no client waits for is ended: a script of the version before must not
// run on under the next one.
func TestServeEndsWithItsConnection(t *testing.T) {
	dir := t.TempDir()
	alive, path := filepath.Join(dir, "alive"), filepath.Join(dir, "long")
	text := fmt.Sprintf("#!/bin/sh\n(while :; do touch %s; sleep 0.05; done)\n", alive)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	waitFor := func(what string, yes func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !yes(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited for: %s", what)
			}
		}
	}
	exists := func() bool { _, err := os.Stat(alive); return err == nil }
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	conn := pair(t)
	go func() {
		_, err := health.AskOver(ctx, conn, health.Request{Script: path, Timeout: time.Hour})
		asked <- err
	}()
	waitFor("the script to run", exists)
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("AskOver = %v, want its context's error", err)
	}
	waitFor("the script to be gone", func() bool {
		os.Remove(alive)
		time.Sleep(300 * time.Millisecond)
		return !exists()
	})
}

func TestServeRefuses(t *testing.T) {
	for name, request := range map[string]string{
		"nothing at all":    "",
		"what is no JSON":   "GET / HTTP/1.1\r\n\r\n",
		"a line too long":   `{"http":"` + strings.Repeat("x", health.MaxLine) + `"}` + "\n",
		"half a line":       `{"script":"/bin/true"`,
		"a time that is no": `{"script":"/bin/true","timeout":"1s"}` + "\n",
	} {
		conn := pair(t)
		go func() {
			io.WriteString(conn, request)
			conn.(*net.UnixConn).CloseWrite()
		}()
		if answer, _ := io.ReadAll(conn); len(answer) > 0 {
			t.Errorf("%s: answered %q", name, answer)
		}
	}
	for name, r := range map[string]health.Request{
		"nothing to do":           {Timeout: time.Minute},
		"a script without a path": {Script: "true", Timeout: time.Minute},
		"no time":                 {Script: "/bin/true"},
		"another machine":         {HTTP: "http://192.0.2.1/", Timeout: time.Minute},
		"a report elsewhere":      {Report: "http://192.0.2.1/", Timeout: time.Minute},
	} {
		if a, err := health.AskOver(t.Context(), pair(t), r); err != nil || a.Error == "" {
			t.Errorf("%s: %+v, %v; want an answer that is not good", name, a, err)
		}
	}
}
