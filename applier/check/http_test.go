package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck/config"
)

func TestAddress(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		status        int
		body          string
		why           string // what it ends with; "" good
		note          string
	}{
		{"no version to compare", "1.2.0", 200, "fine", "", ""},
		{"an empty answer of 200", "1.2.0", 200, "", "", ""},
		{"JSON without a version", "1.2.0", 200, `{"status":"ok"}`, "", ""},
		{"JSON that is no object", "1.2.0", 200, `[1,2]`, "", ""},
		{"a version that is no string", "1.2.0", 200, `{"version":1}`, "", ""},
		{"half of JSON", "1.2.0", 200, `{"version":"1.1.0"`, "", ""},
		{"the version", "1.2.0", 200, `{"version":"1.2.0","x":[]}`, "", "version 1.2.0"},
		{"the version with a v", "1.2.0", 200, `{"version":"v1.2.0"}`, "", "version v1.2.0"},
		{"the directory's name is expected", "v1.2.0", 200, `{"version":"1.2.0"}`, "", "version 1.2.0"},
		{"nothing is expected", "", 200, `{"version":"1.1.0"}`, "", "version 1.1.0"},
		{"an empty version", "1.2.0", 200, `{"version":""}`, "", ""},
		{"the old process still answers", "1.2.0", 200, `{"version":"1.1.0"}`, `answers with version "1.1.0", want "1.2.0"`, ""},
		{"a version with a line break", "1.2.0", 200, `{"version":"1\n2"}`, `answers with version "1\n2", want "1.2.0"`, ""},
		{"500", "1.2.0", 500, "database is gone", "answers with status 500, want 200", ""},
		{"204", "1.2.0", 204, "", "answers with status 204, want 200", ""},
		{"a redirect", "1.2.0", 302, "", "answers with status 302, want 200", ""},
		{"too much", "1.2.0", 200, strings.Repeat("x", 1<<20), "the body is larger than 64 KiB", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			defer srv.Close()
			r := checked(t, config.Check{HTTP: srv.URL + "/health", Timeout: 10 * time.Second}, tt.version)
			switch {
			case r.OK != (tt.why == "") || !strings.HasSuffix(r.Why, tt.why) || tt.why == "" && r.Why != tt.note:
				t.Errorf("OK %v, %q, want %q", r.OK, r.Why, tt.why+tt.note)
			case r.OK && r.Output != "":
				t.Errorf("output %q of a good check", r.Output)
			case !r.OK && r.Output != tt.body[:min(len(tt.body), 4<<10)]:
				t.Errorf("output %.40q (%d bytes), want the first 4 KiB of the body", r.Output, len(r.Output))
			case !r.Required || r.Final || strings.Contains(r.Why, "\n"):
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestAnAddressThatNeverAnswers(t *testing.T) {
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer srv.Close()
	defer close(done)
	c := config.Check{HTTP: srv.URL, Timeout: 50 * time.Millisecond}
	if r := checked(t, c, ""); r.OK || r.Why != "no answer within 50ms" {
		t.Errorf("got %+v", r)
	}
	srv.Listener.Close()
	if r := checked(t, c, ""); r.OK || !strings.HasPrefix(r.Why, "nothing listens on 127.0.0.1:") {
		t.Errorf("got %+v", r)
	}
	for url, want := range map[string]bool{srv.URL: true, "http://127.0.0.1:port/": false} {
		if a := address(t.Context(), url, ""); a.Refused != want {
			t.Errorf("%s: refused %v, want %v: %+v", url, a.Refused, want, a)
		}
	}
}

func TestRequests(t *testing.T) {
	type seen struct{ method, uri, host, contentType, body string }
	var got seen
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.RequestURI, r.Host, r.Header.Get("Content-Type"), string(b)}
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, `{"version":"1.2.0"}`)
	}))
	defer srv.Close()
	t.Setenv("http_proxy", "http://127.0.0.1:1/") // a proxy's loopback is another machine
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, row := range []struct {
		method, path, body string
		want               seen
	}{
		{"GET", "/health?deep=1&q=a%20b", "", seen{"GET", "/health?deep=1&q=a%20b", host, "", ""}},
		{"POST", "", `{"stage":"success"}`, seen{"POST", "/", host, "application/json", `{"stage":"success"}`}},
	} {
		status, body, err := do(t.Context(), row.method, srv.URL+row.path, []byte(row.body))
		if status != 418 || string(body) != `{"version":"1.2.0"}` || err != nil || got != row.want {
			t.Errorf("%s: %d, %q, %v; the server saw %+v, want %+v", row.method, status, body, err, got, row.want)
		}
	}
	got = seen{}
	if _, _, err := do(t.Context(), "GET", srv.URL+"/x\r\nX-Evil: 1", nil); err == nil || got != (seen{}) {
		t.Errorf("a path with a line break: %v, the server saw %+v", err, got)
	}
	if a := report(t.Context(), srv.URL, []byte("{}")); a.Error != "it answered 418" {
		t.Errorf("a report that is refused: %+v", a)
	}
}

func TestLocalhostNeedsNoResolver(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("cannot listen on %s: %v", addr, err)
			continue
		}
		srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.NotFoundHandler()}}
		srv.Start()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		if status, _, err := do(t.Context(), "GET", "http://LocalHost:"+port+"/", nil); status != 404 || err != nil {
			t.Errorf("localhost where only %s listens: %d, %v", addr, status, err)
		}
		srv.Close()
	}
}

// serve hands every connection to handle, after the request, and closes it.
func serve(t *testing.T, handle func(net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Read(make([]byte, 4096))
				handle(c)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

func TestAnswers(t *testing.T) {
	big := strings.Repeat("x", maxBody)
	for _, tt := range []struct {
		name, raw string
		status    int
		body      string
		fails     string // part of the error; "" none
	}{
		{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", ""},
		{"HTTP/1.0, without a length", "HTTP/1.0 200 OK\r\n\r\nok", 200, "ok", ""},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, "abcde", ""},
		{"a redirect is not followed", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 302, "", ""},
		{"a body of exactly 64 KiB", "HTTP/1.0 200 OK\r\n\r\n" + big, 200, big, ""},

		{"nothing", "", 0, "", "EOF"},
		{"not HTTP", "SSH-2.0-OpenSSH_9.2\r\n", 0, "", "malformed"},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", 0, "", "malformed"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 0, "", "Content-Length"},
		{"a body cut short", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", 200, "ok", "unexpected EOF"},
		{"64 KiB and a byte", "HTTP/1.0 200 OK\r\n\r\n" + big + "y", 200, big, "larger than 64 KiB"},
		{"a header of 20 KiB", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 20<<10) + "\r\n\r\n", 0, "", "headers exceeded"},
		{"interim answers without end", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000), 0, "", "headers exceeded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := serve(t, func(c net.Conn) { io.WriteString(c, tt.raw) })
			status, body, err := do(t.Context(), "GET", url, nil)
			if status != tt.status || string(body) != tt.body {
				t.Errorf("got %d, %.80q (%d bytes), want %d, %.80q", status, body, len(body), tt.status, tt.body)
			}
			if (err == nil) != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("error %v, want one about %q", err, tt.fails)
			}
		})
	}
}

func TestABodyWithoutEndIsLeft(t *testing.T) {
	for name, head := range map[string]string{
		"no length": "HTTP/1.0 200 OK\r\n\r\n",
		"1 GB":      "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{})
			url := serve(t, func(c net.Conn) {
				defer close(closed)
				io.WriteString(c, head)
				for chunk := make([]byte, 32<<10); ; {
					if _, err := c.Write(chunk); err != nil {
						return
					}
				}
			})
			status, body, err := do(t.Context(), "GET", url, nil)
			if status != 200 || len(body) != maxBody || !errors.Is(err, errTooLarge) {
				t.Errorf("got %d, %d bytes, %v, want 200, %d bytes, %v", status, len(body), err, maxBody, errTooLarge)
			}
			<-closed // the connection is gone, not read to its end
		})
	}
}

// TestContextBoundsEverything lets the server stall at each point of the exchange.
func TestContextBoundsEverything(t *testing.T) {
	for name, answer := range map[string]string{
		"before the answer": "",
		"in the head":       "HTTP/1.1 200 OK\r\nA:",
		"in the body":       "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, func(c net.Conn) {
				io.WriteString(c, answer)
				io.Copy(io.Discard, c) // until the client goes
			})
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, _, err := do(ctx, "GET", url, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
			}
		})
	}
}
