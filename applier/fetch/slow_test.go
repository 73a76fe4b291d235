package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// TestSlow holds that slowness ends a download, though each try moves bytes.
func TestSlow(t *testing.T) {
	file := content(fileSize, 1)
	for _, row := range []struct {
		name   string
		handle handler
		text   string
	}{
		{"a stall before the headers, always", func(w http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() },
			"the server sent 0 bytes in 100ms"},
		{"a byte now and then", func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set("Content-Length", strconv.Itoa(len(file)))
			for i := range file {
				if _, err := w.Write(file[i : i+1]); err != nil {
					return
				}
				http.NewResponseController(w).Flush()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-r.Context().Done():
					return
				}
			}
		}, "less than 20480 a second"},
		{"headers byte by byte", func(w http.ResponseWriter, r *http.Request, _ int) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			for range 1000 {
				if _, err := io.WriteString(conn, "H"); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond) // this is the slowness under test
			}
		}, "the server sent 0 bytes in 100ms"},
		{"a stall after half of the file, always", func(w http.ResponseWriter, r *http.Request, _ int) {
			serveHanging(w, r, file)
		}, "in 100ms"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, row.handle)
			opt := quick(spoolDir(t))
			opt.Window = 100 * time.Millisecond
			opt.Failures = 3
			_, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: fileSize}, opt)
			if err == nil {
				t.Fatal("Fetch succeeded")
			}
			checkError(t, err, row.text, lost, failed)
			if n := len(s.asked()); n > 2*opt.Failures {
				t.Errorf("%d requests were sent, want at most %d", n, 2*opt.Failures)
			}
		})
	}
	t.Run("the deadline for everything", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, func(w http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() })
		opt := quick(spoolDir(t))
		opt.Window, opt.Deadline = time.Hour, 100*time.Millisecond
		_, _, err := Fetch(context.Background(), Source{URL: s.URL + "/x"}, opt)
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "it is not complete after 100ms", lost, failed)
	})
}

// serveHanging answers with half of what was asked for, then with nothing.
func serveHanging(w http.ResponseWriter, r *http.Request, b []byte) {
	w.Header().Set("ETag", `"`+sum(b)[:16]+`"`)
	w.Header().Set("Last-Modified", old.Format(http.TimeFormat))
	o := offset(r)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)-o))
	if o > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", o, len(b)-1, len(b)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(b[o : o+(len(b)-o)/2])
	hang(w, r)
}
