package applier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/applier/screen"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/docs/schema"
)

// asProgram is in the environment of a test binary that is to be ota-apply.
const asProgram = "OTA_APPLIER_TEST_ARGS"

func TestAsProgram(t *testing.T) {
	args, ok := os.LookupEnv(asProgram)
	if !ok {
		t.Skip("started by other tests, as ota-apply")
	}
	os.Exit(int(Main(context.Background(), strings.Fields(args), os.Stdout, os.Stderr)))
}

// program is ota-apply with args, given files as systemd gives them: numbered from
// 3 on, counted, and meant for this process ID.
func program(ctx context.Context, args string, files ...*os.File) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run='^TestAsProgram$'`, os.Args[0])
	cmd.Env = append(os.Environ(), asProgram+"="+args, fmt.Sprintf("LISTEN_FDS=%d", len(files)))
	cmd.ExtraFiles = files
	var log bytes.Buffer
	cmd.Stderr = &log
	return cmd, &log
}

// listener is a socket of the loopback interface, and its file to pass on.
func listener(t testing.TB, network, address string) (net.Listener, *os.File) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); f.Close() })
	return l, f
}

// server serves the state in its file, which is not there yet, until the test ends.
func server(t testing.TB) (address string, s *progressServer) {
	t.Helper()
	return serverWith(t, connLimit)
}

// serverWith is server, with that limit of a connection.
func serverWith(t testing.TB, limit time.Duration) (address string, s *progressServer) {
	t.Helper()
	l, _ := listener(t, "tcp", "127.0.0.1:0")
	s = &progressServer{screen: screen.Device{Root: t.TempDir(), Run: t.TempDir()}, idle: time.Hour, limit: limit, log: t.Output()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { s.serve(ctx, []net.Listener{l}); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return l.Addr().String(), s
}

// patience is for an answer on the slowest machine.
const patience = 30 * time.Second

// ask sends request as it is and returns all that comes back.
func ask(address, request string) (string, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

const get = "GET /api/v1.0/progress HTTP/1.1\r\nHost: localhost:12315\r\n\r\n"

// TestServeAnswers holds what is answered to whom.
func TestServeAnswers(t *testing.T) {
	const (
		own  = "whatever" // net/http's own words
		ok   = "200 OK"
		idle = `{"stage":"idle","progress":0,"message":"","error":"","schema":1}` + "\n"
	)
	address, _ := server(t)
	for _, row := range []struct{ name, request, status, body string }{
		{"what is served", get, ok, idle},
		{"the same in HTTP/1.0", "GET /api/v1.0/progress HTTP/1.0\r\n\r\n", ok, idle},
		{"line feeds only", "GET /api/v1.0/progress HTTP/1.0\n\n", ok, idle},
		{"without a port", "GET /api/v1.0/progress HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", ok, idle},
		{"of IPv6", "GET /api/v1.0/progress HTTP/1.1\r\nHost: [::1]:12315\r\n\r\n", ok, idle},
		{"another host, whose name leads here", "GET /api/v1.0/progress HTTP/1.1\r\nHost: evil.example:12315\r\n\r\n", "421 Misdirected Request", "Misdirected Request\n"},
		{"another host in the request line", "GET http://evil.example/api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\n\r\n", "421 Misdirected Request", "Misdirected Request\n"},
		{"a query that keeps a cache away", "GET /api/v1.0/progress?_=17 HTTP/1.0\r\n\r\n", ok, idle},
		{"as a proxy is asked", "GET http://localhost:12315/api/v1.0/progress HTTP/1.1\r\nHost: localhost:12315\r\n\r\n", ok, idle},
		{"the head", "HEAD /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\n\r\n", ok, ""},
		{"what comes after the first request", get + get, ok, idle},

		{"another path", "GET /favicon.ico HTTP/1.1\r\nHost: localhost\r\n\r\n", "404 Not Found", "Not Found\n"},
		{"a path below the page", "GET // HTTP/1.1\r\nHost: localhost\r\n\r\n", "404 Not Found", "Not Found\n"},
		{"the page for another host", "GET / HTTP/1.1\r\nHost: evil.example:12315\r\n\r\n", "421 Misdirected Request", "Misdirected Request\n"},
		{"the state of the page for another host", "GET /api/v1.0/screen HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421 Misdirected Request", "Misdirected Request\n"},
		{"POST to the page", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"POST to the state of the page", "POST /api/v1.0/screen HTTP/1.1\r\nHost: localhost\r\n\r\n", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"the page with a body", "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", "413 Request Entity Too Large", "Request Entity Too Large\n"},
		{"a path behind it", "GET /api/v1.0/progress/x HTTP/1.1\r\nHost: localhost\r\n\r\n", "404 Not Found", "Not Found\n"},
		{"a path that leads to it", "GET /api/v1.0/x/../progress HTTP/1.1\r\nHost: localhost\r\n\r\n", "404 Not Found", "Not Found\n"},
		{"the path of device-api", "POST /api/v1.0/ota/report HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", "404 Not Found", "Not Found\n"},
		{"the head of another path", "HEAD /etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", "404 Not Found", ""},
		{"the whole server", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", "404 Not Found", "Not Found\n"},
		{"a tunnel", "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", "421 Misdirected Request", "Misdirected Request\n"},

		{"POST", "POST /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"PUT", "PUT /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\n\r\n", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"DELETE", "DELETE /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\n\r\n", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"OPTIONS", "OPTIONS /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\n\r\n", "405 Method Not Allowed", "Method Not Allowed\n"},
		{"an unknown method", "get /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\n\r\n", "405 Method Not Allowed", "Method Not Allowed\n"},

		{"a body", "GET /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}", "413 Request Entity Too Large", "Request Entity Too Large\n"},
		{"a body that is only announced", "GET /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n", "413 Request Entity Too Large", "Request Entity Too Large\n"},
		{"a body in chunks", "GET /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", "413 Request Entity Too Large", "Request Entity Too Large\n"},

		{"no host", "GET /api/v1.0/progress HTTP/1.1\r\n\r\n", "400 Bad Request", own},
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\r\n\r\n", "400 Bad Request", own},
		{"HTTP/0.9", "GET /api/v1.0/progress\r\n\r\n", "400 Bad Request", own},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "404 Not Found", "Not Found\n"},
		{"two lengths", "GET /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400 Bad Request", own},
		{"a header without a name", "GET /api/v1.0/progress HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n", "400 Bad Request", own},
		{"a header as long as may be", "GET /api/v1.0/progress HTTP/1.0\r\nX: " + strings.Repeat("x", requestMax-100) + "\r\n\r\n", ok, idle},
		{"a header that is too long", "GET /api/v1.0/progress HTTP/1.0\r\nX: " + strings.Repeat("x", 2*requestMax) + "\r\n\r\n", "431 Request Header Fields Too Large", own},
		{"a path that is too long", "GET /" + strings.Repeat("x", 2*requestMax) + " HTTP/1.0\r\n\r\n", "431 Request Header Fields Too Large", own},
		{"too many headers", "GET /api/v1.0/progress HTTP/1.0\r\n" + strings.Repeat("X: y\r\n", requestMax/3) + "\r\n", "431 Request Header Fields Too Large", own},
		{"nothing", "", "", ""},
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, row.request)
		conn.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		conn.Close()
		if err != nil {
			t.Errorf("%s: the answer was lost: %v", row.name, err)
		}
		head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
		proto, rest, _ := strings.Cut(head, " ")
		if status, _, _ := strings.Cut(rest, "\r\n"); !strings.HasPrefix(status, row.status) || row.body != own && (status != row.status || body != row.body) {
			t.Errorf("%s is answered\n%q, want %q and %q", row.name, answer, row.status, row.body)
		}
		if row.body == own || row.status == "" {
			continue
		}
		want := []string{"Cache-Control: no-store\r\n", "X-Content-Type-Options: nosniff\r\n"}
		if proto == "HTTP/1.1" {
			want = append(want, "Connection: close\r\n")
		}
		switch row.status {
		case ok:
			want = append(want, "Content-Type: application/json\r\n", fmt.Sprintf("Content-Length: %d\r\n", len(idle)))
		case "405 Method Not Allowed":
			want = append(want, "Allow: GET, HEAD\r\n")
		}
		for _, header := range want {
			if !strings.Contains(head+"\r\n", header) {
				t.Errorf("%s is answered\n%q, want %q in it", row.name, answer, header)
			}
		}
	}
}

// TestServeScreen holds that the page and what it shows are served, with what every answer has.
func TestServeScreen(t *testing.T) {
	address, _ := server(t)
	for _, row := range []struct{ request, kind, body string }{
		{"GET / HTTP/1.1\r\nHost: localhost\r\nAccept-Language: zh\r\n\r\n", "text/html; charset=utf-8", `<html lang="zh-Hans">`},
		{"GET /?lang=en HTTP/1.1\r\nHost: [::1]:12315\r\nAccept-Language: zh\r\n\r\n", "text/html; charset=utf-8", `<html lang="en">`},
		{"GET /api/v1.0/screen HTTP/1.1\r\nHost: localhost\r\n\r\n", "application/json", `"phase":""`},
		{"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", "text/html; charset=utf-8", ""},
	} {
		answer, err := ask(address, row.request)
		head, body, _ := strings.Cut(answer, "\r\n\r\n")
		if err != nil || !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") || !strings.Contains(body, row.body) || row.body == "" && body != "" {
			t.Errorf("%q is answered\n%q, %v", row.request, answer, err)
		}
		for _, header := range []string{"Content-Type: " + row.kind, "Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Connection: close"} {
			if !strings.Contains(head+"\r\n", "\r\n"+header+"\r\n") {
				t.Errorf("%q is answered\n%q, want %q in it", row.request, head, header)
			}
		}
	}
}

// state is the body of an answer.
func state(t testing.TB, answer string) bootcheck.Operation {
	t.Helper()
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	var keys map[string]any
	var s bootcheck.Operation
	if !strings.Contains(head, " 200 OK\r\n") || json.Unmarshal([]byte(body), &keys) != nil || schema.Check("progress", []byte(body)) != nil || json.Unmarshal([]byte(body), &s) != nil {
		t.Fatalf("the answer is %q, want 200 and an object with four keys", answer)
	}
	return s
}

// TestServeState holds that the answer is what the install says at this moment, and
// idle when the install is gone without a word.
func TestServeState(t *testing.T) {
	address, s := server(t)
	file := s.progressFile()
	now := func() bootcheck.Operation {
		answer, err := ask(address, get)
		if err != nil {
			t.Fatal(err)
		}
		return state(t, answer)
	}
	become := func(want bootcheck.Operation) {
		t.Helper()
		// The reporter writes the file a moment later.
		got := now()
		for end := time.Now().Add(patience); got != want && time.Now().Before(end); got = now() {
			time.Sleep(time.Millisecond)
		}
		if got != want {
			t.Errorf("served: %+v, want %+v", got, want)
		}
	}
	become(bootcheck.Operation{Stage: "idle"})
	r := report.New("", file)
	for _, stage := range []string{"downloading", "verifying", "toInstall", "installing", "rebooting"} {
		r.Stage(stage, 0, "doing <"+stage+">")
		become(bootcheck.Operation{Stage: stage, Message: "doing <" + stage + ">"})
		r.Progress(55, 100)
		become(bootcheck.Operation{Stage: stage, Progress: 55, Message: "doing <" + stage + ">"})
	}
	r.Close(t.Context()) // as a process that is killed
	become(bootcheck.Operation{Stage: "idle", Message: "the last install was interrupted while rebooting"})

	r = report.New("", file)
	r.Fail(bootcheck.Errorf(bootcheck.ExitNoSpace, bootcheck.CodeDiskFull, "no room"))
	r.Close(t.Context())
	become(bootcheck.Operation{Stage: "failed", Message: "no room", Error: "DISK_FULL: no room"})
	if err := os.Remove(file); err != nil { // the reboot
		t.Fatal(err)
	}
	become(bootcheck.Operation{Stage: "idle"})
}

// TestServeSoon holds that a screen has its answer within 100 ms, also while an
// install changes the state all the time.
func TestServeSoon(t *testing.T) {
	address, s := server(t)
	file := s.progressFile()
	r := report.New("", file)
	defer r.Close(t.Context())
	r.Stage("installing", 0, "")
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				r.Stage("installing", i%100, "")
			}
		}
	}()
	var took []time.Duration
	for range 300 {
		begin := time.Now()
		answer, err := ask(address, get)
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
		state(t, answer)
	}
	slices.Sort(took)
	median, most := took[len(took)/2], took[len(took)*99/100]
	t.Logf("answers within %v (median), %v (99 of 100)", median, most)
	if median > 100*time.Millisecond {
		t.Errorf("half of the answers took more than %v, want 100 ms", median)
	}
}

// TestServeSlowClients holds that clients that do not ask, or do not finish to ask,
// are cut.
func TestServeSlowClients(t *testing.T) {
	t.Parallel()
	address, _ := server(t)
	for i, conn := range silent(t, address, 8) {
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("client %d was not cut", i)
		}
	}
}

// TestServeBehindSilentClients holds that a client that asks has its answer, however
// many are connected that say nothing and are not cut yet.
func TestServeBehindSilentClients(t *testing.T) {
	address, _ := serverWith(t, time.Hour)
	silent(t, address, 256)
	answer, err := ask(address, get)
	if err != nil {
		t.Fatal(err)
	}
	state(t, answer)
}

// silent are n clients that do not ask, or do not finish to ask.
func silent(t *testing.T, address string, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	for i := range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		io.WriteString(conn, []string{"", "GET /api/v1.0/pro"}[i%2])
		conns = append(conns, conn)
	}
	return conns
}

// TestServeByteByByte holds the same of one that sends its request slower than the server
// has patience.
func TestServeByteByByte(t *testing.T) {
	t.Parallel()
	address, _ := server(t)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		io.Copy(io.Discard, conn)
	}()
	for {
		select {
		case <-cut:
			if took := time.Since(begin); took < connLimit/2 {
				t.Errorf("cut after %v", took)
			}
			return
		case <-time.After(50 * time.Millisecond):
			if time.Since(begin) > patience {
				t.Fatal("a client that sends a byte now and then was not cut")
			}
			conn.Write([]byte{'G'})
		}
	}
}

// TestServeSockets holds which sockets are served.
func TestServeSockets(t *testing.T) {
	file := func(network, address string) *os.File {
		_, f := listener(t, network, address)
		return f
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	packets, err := udp.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	for _, row := range []struct {
		name  string
		files []*os.File
		want  string // of stderr; empty: it serves
	}{
		{"none", nil, "systemd passed no socket"},
		{"the loopback interface", []*os.File{file("tcp", "127.0.0.1:0")}, ""},
		{"both families", []*os.File{file("tcp", "127.0.0.1:0"), file("tcp", "[::1]:0")}, ""},
		{"every interface", []*os.File{file("tcp4", "0.0.0.0:0")}, "cannot serve the progress on 0.0.0.0:"},
		{"every interface besides", []*os.File{file("tcp", "127.0.0.1:0"), file("tcp", "[::]:0")}, "only the loopback interface is served"},
		{"a socket in the file system", []*os.File{file("unix", filepath.Join(t.TempDir(), "s"))}, "only the loopback interface is served"},
		{"packets", []*os.File{packets}, "is not one that listens"},
	} {
		cmd, log := program(t.Context(), "serve-progress --config "+emptyConfig(t)+" --idle 1ms", row.files...)
		err := cmd.Run()
		code := cmd.ProcessState.ExitCode()
		if row.want == "" && (err != nil || log.Len() > 0) || row.want != "" && (code != 2 || !strings.Contains(log.String(), row.want)) {
			t.Errorf("%s: exit %d, %s; want %q", row.name, code, log, row.want)
		}
	}

	// Meant for another process.
	cmd, log := program(t.Context(), "serve-progress --config "+emptyConfig(t), file("tcp", "127.0.0.1:0"))
	cmd.Args[2] = strings.Replace(cmd.Args[2], "LISTEN_PID=$$", "LISTEN_PID=1", 1)
	if cmd.Run(); cmd.ProcessState.ExitCode() != 2 || !strings.Contains(log.String(), "passed no socket") {
		t.Errorf("the sockets of another process: %s", log)
	}
}

// emptyConfig is a configuration that says where progress.json is: nowhere.
func emptyConfig(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ota.toml")
	if err := os.WriteFile(name, fmt.Appendf(nil, "run = %q\n", t.TempDir()), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestServeDamagedConfig holds that a screen is served although the configuration
// is none, and that the journal says so.
func TestServeDamagedConfig(t *testing.T) {
	config := filepath.Join(t.TempDir(), "ota.toml")
	if err := os.WriteFile(config, []byte("run = ["), 0o644); err != nil {
		t.Fatal(err)
	}
	l, f := listener(t, "tcp", "127.0.0.1:0")
	cmd, log := program(t.Context(), "serve-progress --config "+config+" --idle 100ms", f)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answer, err := ask(l.Addr().String(), get)
	if err != nil {
		t.Fatal(err)
	}
	state(t, answer)
	if err := cmd.Wait(); err != nil || !strings.Contains(log.String(), "looking at /run/ota/progress.json") {
		t.Errorf("%v, %s", err, log)
	}
}

// TestServeStop holds that a client that was accepted is answered though the program has been
// told to end, and one that was not waits for the next run.
func TestServeStop(t *testing.T) {
	l, f := listener(t, "tcp", "127.0.0.1:0")
	s := &progressServer{screen: screen.Device{Root: t.TempDir(), Run: t.TempDir()}, idle: time.Hour, limit: connLimit, log: t.Output()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { s.serve(ctx, []net.Listener{l}); close(ended) }()
	accepted, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	// One that is answered says that the one before it was accepted.
	if _, err := ask(l.Addr().String(), get); err != nil {
		t.Fatal(err)
	}
	io.WriteString(accepted, get[:20])
	cancel()
	late := make(chan string)
	go func() {
		answer, err := ask(l.Addr().String(), get)
		if err != nil {
			answer = err.Error()
		}
		late <- answer
	}()
	io.WriteString(accepted, get[20:])
	accepted.SetReadDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(accepted)
	if err != nil {
		t.Fatal(err)
	}
	state(t, string(answer))
	<-ended
	// It may have been accepted just before the end; most often it was not.
	next, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	s.idle = 100 * time.Millisecond
	go s.serve(t.Context(), []net.Listener{next})
	state(t, <-late)
}

// TestServeIdle holds that no connection is lost at the moment at which the program
// ends because no client asked: clients come at that very moment, repeatedly, and
// the test does what systemd does: it holds the socket, starts the program when a
// connection waits, and again when it has ended.
func TestServeIdle(t *testing.T) {
	t.Parallel()
	const idle = 20 * time.Millisecond
	l, f := listener(t, "tcp", "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var runs, asked, lost int
	var mu sync.Mutex
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
			if n, err := unix.Poll(fds, 100); n <= 0 || err != nil {
				continue
			}
			cmd, log := program(context.Background(), fmt.Sprintf("serve-progress --config %s --idle %s", emptyConfig(t), idle), f)
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %s", err, log)
				return
			}
			mu.Lock()
			runs++
			mu.Unlock()
		}
	}()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const enough = 40
	var clients sync.WaitGroup
	for i := range 2 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		clients.Go(func() {
			for end := time.Now().Add(time.Minute); time.Now().Before(end); {
				// Most of them about when it ends.
				time.Sleep(idle*8/10 + time.Duration(random.Int64N(int64(idle/2))))
				answer, err := ask(l.Addr().String(), get)
				mu.Lock()
				asked++
				if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 200 OK") {
					lost++
					t.Errorf("request %d was lost: %q, %v", asked, answer, err)
				}
				done := runs >= enough || lost > 3
				mu.Unlock()
				if done {
					return
				}
			}
		})
	}
	clients.Wait()
	cancel()
	<-ended
	t.Logf("%d requests, %d runs of the program, %d lost", asked, runs, lost)
	// A machine that is 10 times slower comes to a tenth of them in a minute.
	if runs < enough/10 {
		t.Errorf("the program ended %d times, which is not enough to prove anything", runs)
	}
}

func BenchmarkServe(b *testing.B) {
	address, s := server(b)
	file := s.progressFile()
	r := report.New("", file)
	defer r.Close(b.Context())
	r.Stage("installing", 40, "unpacking version 1.2.0")
	for b.Loop() {
		if _, err := ask(address, get); err != nil {
			b.Fatal(err)
		}
	}
}
