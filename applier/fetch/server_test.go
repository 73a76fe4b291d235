package fetch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// fileSize is odd, so that no buffer or block ends where the file does.
const fileSize = 300_007

// old is the age of the files of the test servers.
var old = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// content makes n bytes, others for each seed.
func content(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// A server is a real HTTP server that keeps what it was asked.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	reqs []*http.Request
}

// newServer serves each request by handle, which is told its number, from 1.
func newServer(t *testing.T, handle func(w http.ResponseWriter, r *http.Request, n int)) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(s.counting(handle))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *server) counting(handle func(w http.ResponseWriter, r *http.Request, n int)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.reqs = append(s.reqs, r)
		n := len(s.reqs)
		s.mu.Unlock()
		handle(w, r, n)
	})
}

func (s *server) asked() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.reqs...)
}

// serve answers as a good server does: validators, ranges, If-Range.
func serve(w http.ResponseWriter, r *http.Request, b []byte) {
	w.Header().Set("ETag", `"`+sum(b)[:16]+`"`)
	http.ServeContent(w, r, "", old, bytes.NewReader(b))
}

// serveCut answers like serve, but breaks the connection after n bytes of the
// body.
func serveCut(w http.ResponseWriter, r *http.Request, b []byte, n int) {
	serve(&cutter{ResponseWriter: w, left: n}, r, b)
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) < c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	c.ResponseWriter.Write(p[:c.left])
	cut(c.ResponseWriter)
	return 0, nil
}

// cut sends what was written, then breaks the connection.
func cut(w http.ResponseWriter) {
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// hang sends what was written, then nothing more until the client is gone.
func hang(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// offset is the first byte that r asks for.
func offset(r *http.Request) int {
	v, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	n, _ := strconv.Atoi(v)
	return n
}

// partial answers 206 with bytes [from,to) of b, for any request.
func partial(w http.ResponseWriter, b []byte, from, to int) {
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(b)))
	w.Header().Set("Content-Length", strconv.Itoa(to-from))
	w.WriteHeader(http.StatusPartialContent)
	w.Write(b[from:to])
}

// raw answers with these very bytes and closes the connection.
func raw(w http.ResponseWriter, answer string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	io.WriteString(conn, answer)
	conn.Close()
}

// quick are options whose pauses are short. The window is not: only a server
// that is slow on purpose may end a try, not a machine that is busy.
func quick(dir string) Options {
	return Options{
		Dir: dir, Deadline: time.Minute,
		patience: &patience{
			maxSize: 8 << 30, minRate: 20 << 10, window: 20 * time.Second,
			tries: 5, backoff: 2 * time.Millisecond, maxPause: 10 * time.Millisecond,
		},
	}
}

// shortWindow is for servers that stall. A machine with much else to do stalls, too,
// but not for as long.
const shortWindow = time.Second

// spoolDir is where a test downloads to: not there yet, as on a new device.
func spoolDir(t *testing.T) string { return filepath.Join(t.TempDir(), "spool") }

// partOf is the name of the partial file of url in dir.
func partOf(t *testing.T, dir, url string) string {
	t.Helper()
	o, err := Source{URL: url}.parse()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, o.name+partSuffix)
}

// mustHave checks that f is open at its start and holds want, and closes it.
func mustHave(t *testing.T, f *os.File, want []byte) {
	t.Helper()
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the file holds %d bytes with SHA-256 %.12s…, want %d with %.12s…", len(got), sum(got), len(want), sum(want))
	}
	if _, err := f.Write([]byte{0}); err == nil {
		t.Error("the file is open for writing")
	}
}

// checkError checks that err is one line with text, shows no secret, and has
// the exit code and the report's code.
func checkError(t *testing.T, err error, text string, exit bootcheck.ExitCode, code string) {
	t.Helper()
	if !strings.Contains(err.Error(), text) || strings.ContainsAny(err.Error(), "\n\r") {
		t.Errorf("error %q, want one line with %q", err, text)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("error %q shows the query", err)
	}
	if got := bootcheck.Exit(err); got != exit {
		t.Errorf("%q: exit code %d, want %d", err, got, exit)
	}
	if got := bootcheck.ReportCode(err); got != code {
		t.Errorf("%q: code %s, want %s", err, got, code)
	}
}
