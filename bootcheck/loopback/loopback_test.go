package loopback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestGetAndPostFromARealServer(t *testing.T) {
	type seen struct{ method, uri, proto, host, contentType, body string }
	var got seen
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.RequestURI, r.Proto, r.Host, r.Header.Get("Content-Type"), string(b)}
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, `{"version":"1.2.0"}`)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")

	status, body, err := Get(t.Context(), srv.URL+"/health?deep=1&q=a%20b")
	if status != 418 || string(body) != `{"version":"1.2.0"}` || err != nil {
		t.Errorf("Get = %d, %q, %v", status, body, err)
	}
	if want := (seen{"GET", "/health?deep=1&q=a%20b", "HTTP/1.0", host, "", ""}); got != want {
		t.Errorf("the server saw %+v, want %+v", got, want)
	}

	status, body, err = Post(t.Context(), srv.URL, "application/json", []byte(`{"stage":"success"}`))
	if status != 418 || string(body) != `{"version":"1.2.0"}` || err != nil {
		t.Errorf("Post = %d, %q, %v", status, body, err)
	}
	if want := (seen{"POST", "/", "HTTP/1.0", host, "application/json", `{"stage":"success"}`}); got != want {
		t.Errorf("the server saw %+v, want %+v", got, want)
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
		if status, _, err := Get(t.Context(), "http://LocalHost:"+port+"/"); status != 404 || err != nil {
			t.Errorf("localhost where only %s listens: %d, %v", addr, status, err)
		}
		srv.Close()
	}
}

func TestCheck(t *testing.T) {
	for _, good := range []string{
		"http://127.0.0.1:9080/health", "http://127.0.0.1", "http://127.255.1.2:1/", "http://[::1]:80/x?y",
		"http://localhost:65535", "HTTP://LOCALHOST/",
	} {
		if err := Check(good); err != nil {
			t.Errorf("Check(%q) = %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "127.0.0.1:80", "/health", "http:127.0.0.1", "http:///health", "https://127.0.0.1/", "file:///etc/passwd", "gopher://127.0.0.1/",
		"unix:///run/x", "http://169.254.169.254/", "http://10.0.0.1/", "http://0.0.0.0/", "http://[::]/",
		"http://[::ffff:127.0.0.1]/", "http://[::1%25lo]/", "http://2130706433/", "http://127.1/", "http://0x7f.0.0.1/", "http://0177.0.0.1/",
		"http://example.com/", "http://localhost.example.com/", "http://127.0.0.1.example.com/", "http://localhost./",
		"http://u:p@127.0.0.1/", "http://127.0.0.1@example.com/", "http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.1:x/",
		"http://127.0.0.1/\r\nHost: evil", "http://127.0.0.1 evil/", "http://127.0.0.1:80\n/", "http://127.0.0.1/x?q=a b", "http://127.0.0.1/?ü",
	} {
		if err := Check(bad); err == nil {
			t.Errorf("Check(%q) = nil, want a refusal", bad)
		} else if !strings.Contains(err.Error(), "cannot use") || strings.Contains(err.Error(), "\n") {
			t.Errorf("Check(%q) = %v, want one line that says what cannot be used", bad, err)
		}
	}
}

func TestARequestLineCannotBeBroken(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("a request arrived: %s %q", r.Method, r.RequestURI)
	}))
	defer srv.Close()
	if _, _, err := Post(t.Context(), srv.URL, "text/plain\r\nX-Evil: 1", nil); err == nil {
		t.Error("a content type with a line break was sent")
	}
	if _, _, err := Get(t.Context(), srv.URL+"/x\r\nX-Evil: 1"); err == nil {
		t.Error("a path with a line break was sent")
	}
}

// serve hands every connection to handle and closes it afterwards.
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
				handle(c)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

func readRequest(c net.Conn) {
	buf := make([]byte, 4096)
	var got []byte
	for !bytes.Contains(got, []byte("\r\n\r\n")) {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		got = append(got, buf[:n]...)
	}
}

func TestAnswers(t *testing.T) {
	big := strings.Repeat("x", MaxBody)
	for _, tt := range []struct {
		name, raw string
		status    int
		body      string
		fails     string // part of the error; "" none
	}{
		{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", ""},
		{"bytes after the length are not part of the body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore", 200, "ok", ""},
		{"no length", "HTTP/1.0 200 OK\r\n\r\nok", 200, "ok", ""},
		{"no reason", "HTTP/1.0 200\r\n\r\nok", 200, "ok", ""},
		{"line feeds only", "HTTP/1.0 200 OK\nContent-Length: 2\n\nok", 200, "ok", ""},
		{"an empty body", "HTTP/1.0 200 OK\r\n\r\n", 200, "", ""},
		{"the same length twice", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok", 200, "ok", ""},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n", 200, "abcde", ""},
		{"interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok", 200, "ok", ""},
		{"204 has no body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, "", ""},
		{"a redirect is not followed", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", 302, "", ""},
		{"a body of exactly 64 KiB", "HTTP/1.0 200 OK\r\n\r\n" + big, 200, big, ""},

		{"nothing", "", 0, "", "without an answer"},
		{"not HTTP", "SSH-2.0-OpenSSH_9.2\r\n", 0, "", "not HTTP"},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", 0, "", "not HTTP"},
		{"a status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", 0, "", "not HTTP"},
		{"a signed status", "HTTP/1.1 +20 OK\r\n\r\n", 0, "", "not HTTP"},
		{"a status of 000", "HTTP/1.1 000 OK\r\n\r\n", 0, "", "not HTTP"},
		{"a status of 600", "HTTP/1.1 600 OK\r\n\r\n", 0, "", "not HTTP"},
		{"the end in the status line", "HTTP/1.1 20", 0, "", "middle of a line"},
		{"the end in the headers", "HTTP/1.1 200 OK\r\nA: b\r\n", 0, "", "ends in its headers"},
		{"a line that is no header", "HTTP/1.1 200 OK\r\nhello\r\n\r\nok", 0, "", "no header"},
		{"a folded header", "HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\nok", 0, "", "no header"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", 0, "", "length"},
		{"a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 0, "", "length"},
		{"a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", 0, "", "length"},
		{"a length beyond int64", "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\nok", 0, "", "length"},
		{"a length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", 0, "", "chunked and gives a length"},
		{"gzip in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 0, "", "transfer encoding"},
		{"a body cut short", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", 200, "ok", "got 2 bytes, want 5"},
		{"64 KiB and a byte", "HTTP/1.0 200 OK\r\n\r\n" + big + "y", 200, big, "larger than 64 KiB"},
		{"a length of 64 KiB and a byte", "HTTP/1.0 200 OK\r\nContent-Length: 65537\r\n\r\n" + big + "y", 200, big, "larger than 64 KiB"},
		{"chunks of more than 64 KiB", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10001\r\n", 200, "", "larger than 64 KiB"},
		{"a chunk of 2^64", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", 200, "", "larger than 64 KiB"},
		{"a chunk without a size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 200, "", "without a size"},
		{"chunks cut short", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 200, "ab", "cut short"},
		{"chunks without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", 200, "ab", "cut short"},
		{"a chunk longer than its size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 200, "ab", "longer than its size"},
		{"a head without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 4000), 0, "", "16 KiB"},
		{"a header of 20 KiB", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 20<<10) + "\r\n\r\n", 0, "", "16 KiB"},
		{"interim answers without end", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 1000), 0, "", "16 KiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			url := serve(t, func(c net.Conn) {
				readRequest(c)
				io.WriteString(c, tt.raw)
			})
			status, body, err := Get(t.Context(), url)
			if status != tt.status || string(body) != tt.body {
				t.Errorf("got %d, %.80q (%d bytes), want %d, %.80q", status, body, len(body), tt.status, tt.body)
			}
			switch {
			case tt.fails == "" && err != nil:
				t.Errorf("error %v, want none", err)
			case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)):
				t.Errorf("error %v, want one about %q", err, tt.fails)
			case err != nil && strings.ContainsAny(err.Error(), "\r\n"):
				t.Errorf("the error is not one line: %q", err)
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
				readRequest(c)
				io.WriteString(c, head)
				for chunk := make([]byte, 32<<10); ; {
					if _, err := c.Write(chunk); err != nil {
						return
					}
				}
			})
			status, body, err := Get(t.Context(), url)
			if status != 200 || len(body) != MaxBody || !errors.Is(err, ErrTooLarge) {
				t.Errorf("got %d, %d bytes, %v, want 200, %d bytes, %v", status, len(body), err, MaxBody, ErrTooLarge)
			}
			<-closed // the connection is gone, not read to its end
		})
	}
}

// TestContextBoundsEverything lets the server stall at each point of the
// exchange.
func TestContextBoundsEverything(t *testing.T) {
	hang := func(c net.Conn) { io.Copy(io.Discard, c) } // until the client goes
	for name, handle := range map[string]func(net.Conn){
		"before the answer": hang,
		"in the head":       func(c net.Conn) { readRequest(c); io.WriteString(c, "HTTP/1.1 200 OK\r\nA:"); hang(c) },
		"in the body": func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
			hang(c)
		},
		"a byte a time": func(c net.Conn) {
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for {
				if _, err := c.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, handle)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			_, _, err := Get(ctx, url)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("deadline: error %v, want %v", err, context.DeadlineExceeded)
			}

			ctx, cancel = context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			_, _, err = Get(ctx, url)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancel: error %v, want %v", err, context.Canceled)
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	status, _, err := Get(t.Context(), url)
	if status != 0 || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %d, %v, want %v", status, err, syscall.ECONNREFUSED)
	}
}

// TestAnEarlyAnswerCounts: a server that refuses without reading the body and
// closes is heard.
func TestAnEarlyAnswerCounts(t *testing.T) {
	url := serve(t, func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
	})
	status, _, err := Post(t.Context(), url, "text/plain", make([]byte, 4<<20))
	if status != 413 || err != nil {
		t.Errorf("got %d, %v, want 413", status, err)
	}
}

func FuzzReadResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 100 C\n\nHTTP/1.0 404 N\nA: b\n\nx"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		status, body, err := readResponse(bytes.NewReader(raw))
		if len(body) > MaxBody {
			t.Errorf("%d bytes of body", len(body))
		}
		if status == 0 && err == nil || status != 0 && (status < 200 || status > 599) {
			t.Errorf("status %d, error %v", status, err)
		}
	})
}
