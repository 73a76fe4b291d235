package main

import (
	"bytes"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// server serves what was published, from memory, as a machine elsewhere would: it
// takes nothing from the disk that is measured.
type server struct {
	mu       sync.Mutex
	files    map[string][]byte // by the path of their address
	dir      string            // a directory in memory, below /dir/
	sent     atomic.Int64      // bytes of bodies
	requests atomic.Int64
}

func (s *server) publish(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = data
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests.Add(1)
	counted := &counter{w, &s.sent}
	if name, ok := strings.CutPrefix(r.URL.Path, "/dir/"); ok {
		http.ServeFile(counted, r, filepath.Join(s.dir, filepath.FromSlash(name)))
		return
	}
	s.mu.Lock()
	data, ok := s.files[r.URL.Path]
	s.mu.Unlock()
	if !ok {
		http.NotFound(counted, r)
		return
	}
	w.Header().Set("ETag", `"x"`)
	http.ServeContent(counted, r, "", time.Unix(1e9, 0), bytes.NewReader(data))
}

// counter counts the bytes of a body.
type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}
