package fetch

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// A slowBehaviour is a way of a server to take our time. One of handle and conn
// is set.
type slowBehaviour struct {
	name   string
	handle handler
	conn   func(net.Conn) // of a server that should speak TLS
	text   string
}

func slowBehaviours() []slowBehaviour {
	file := content(fileSize, 1)
	return []slowBehaviour{
		{name: "a stall before the headers, always", handle: func(w http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() },
			text: "less than 20480 bytes a second for 100ms"},
		{name: "a byte now and then", handle: func(w http.ResponseWriter, r *http.Request, _ int) {
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
		}, text: "cannot download"},
		{name: "headers byte by byte", handle: func(w http.ResponseWriter, r *http.Request, _ int) {
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
		}, text: "less than 20480 bytes a second for 100ms"},
		{name: "a stall after half of the file, always", handle: func(w http.ResponseWriter, r *http.Request, _ int) {
			serveHanging(w, r, file)
		}, text: "for 100ms"},
		{name: "a TLS handshake that is not answered", conn: func(conn net.Conn) { io.Copy(io.Discard, conn) },
			text: "less than 20480 bytes a second for 100ms"},
		{name: "a TLS handshake byte by byte", conn: func(conn net.Conn) {
			// The beginning of a record of 16 kB.
			for _, err := io.WriteString(conn, "\x16\x03\x03\x40\x00\x02"); err == nil; _, err = conn.Write([]byte{0}) {
				time.Sleep(20 * time.Millisecond) // this is the slowness under test
			}
		}, text: "less than 20480 bytes a second for 100ms"},
	}
}

// TestSlow holds that slowness ends a download, though each try moves bytes.
func TestSlow(t *testing.T) {
	for _, row := range slowBehaviours() {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var address string
			if row.conn != nil {
				address = "https://" + newListener(t, row.conn)
			} else {
				address = newServer(t, row.handle).URL
			}
			opt := quick(spoolDir(t))
			opt.patience.window = 100 * time.Millisecond
			opt.patience.tries = 3
			_, st, err := Fetch(t.Context(), Source{URL: address + "/x", Size: fileSize}, opt)
			if err == nil {
				t.Fatal("Fetch succeeded")
			}
			checkError(t, err, row.text, lost, failed)
			if st.Requests > 2*opt.patience.tries {
				t.Errorf("%d requests were sent, want at most %d", st.Requests, 2*opt.patience.tries)
			}
			if a := bootcheck.Advice(err); a == "" {
				t.Errorf("%q says nothing of what to do next", err)
			}
		})
	}
	t.Run("the deadline for everything", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, func(w http.ResponseWriter, r *http.Request, _ int) { <-r.Context().Done() })
		opt := quick(spoolDir(t))
		opt.patience.window, opt.Deadline = time.Hour, 100*time.Millisecond
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
