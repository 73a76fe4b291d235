package agent

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"time"
)

// The agent's file server: bundle x.ota of BundleDir is BundleAt + "/x.ota".
const (
	BundleDir = "/data/bundles"
	BundleAt  = "http://127.0.0.1:8000"
)

// Bundles serves the files of dir over HTTP as a good mirror does: with ranges,
// a length and a strong ETag, so that a download can be resumed. A request for
// /x.ota?rate=100000 is answered at that many bytes a second, to have time for
// what a test does to a download.
func Bundles(dir string) http.Handler {
	files := os.DirFS(dir)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Clean("/" + r.URL.Path)[1:]
		f, err := files.Open(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		body, ok := f.(io.ReadSeeker)
		if err != nil || !ok || !info.Mode().IsRegular() {
			http.NotFound(w, r)
			return
		}
		if rate, _ := strconv.ParseInt(r.URL.Query().Get("rate"), 10, 64); rate > 0 {
			w = &slowWriter{ResponseWriter: w, rate: rate}
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.Size(), info.ModTime().UnixNano()))
		http.ServeContent(w, r, name, info.ModTime(), body)
	})
}

// slowWriter lets rate bytes a second through, and in small pieces. It
// hides ReadFrom on purpose: sendfile knows no rate.
type slowWriter struct {
	http.ResponseWriter
	rate int64
}

func (s *slowWriter) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		n := min(len(b), max(1, int(s.rate/20)))
		time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
		m, err := s.ResponseWriter.Write(b[:n])
		written += m
		if err != nil {
			return written, err
		}
		http.NewResponseController(s.ResponseWriter).Flush()
		b = b[n:]
	}
	return written, nil
}
