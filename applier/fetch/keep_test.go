package fetch

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// TestGivesUpAndKeeps holds that what has arrived stays when a download is given
// up whose server has no ranges: a later call may meet a better one.
func TestGivesUpAndKeeps(t *testing.T) {
	file := content(fileSize, 1)
	half := fileSize / 2
	good := false
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if !good {
			r.Header.Del("Range")
			serveCut(w, r, file, half)
			return
		}
		serve(w, r, file)
	})
	opt := quick(spoolDir(t))
	src := Source{URL: s.URL + "/x.ota"}
	for opt.patience.tries = 2; opt.patience.tries < 6; opt.patience.tries++ {
		_, _, err := Fetch(t.Context(), src, opt)
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "", lost, failed)
		if fi, err := os.Stat(partOf(t, opt.Dir, src.URL)); err != nil || fi.Size() != int64(half) {
			t.Errorf("given up after %d failures it left %v (%v), want %d bytes", opt.patience.tries, fi, err, half)
		}
	}
	good = true
	f, st, err := Fetch(t.Context(), src, opt)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
	if st.Fetched != int64(fileSize-half+headSize) {
		t.Errorf("%d bytes were fetched, want the other half and the head, to compare", st.Fetched)
	}
}

// TestRefusedAndKept holds that what has arrived stays when the server refuses the
// rest, with any answer.
func TestRefusedAndKept(t *testing.T) {
	file := content(fileSize, 1)
	for _, code := range []int{401, 402, 403, 404, 407, 410, 451, 503, 505} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
			if n > 1 {
				w.WriteHeader(code)
				return
			}
			serveCut(w, r, file, fileSize/2)
		})
		opt := quick(spoolDir(t))
		_, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x"}, opt)
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		report := failed
		if code == 401 || code == 403 {
			report = bootcheck.CodeAddressExpired
		}
		checkError(t, err, fmt.Sprint("server answered ", code), lost, report)
		if fi, err := os.Stat(partOf(t, opt.Dir, s.URL+"/x")); err != nil || fi.Size() != fileSize/2 {
			t.Errorf("%d: it left %v (%v), want %d bytes", code, fi, err, fileSize/2)
		}
	}
}
