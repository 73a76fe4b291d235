package fetch

import (
	"net/http"
	"testing"
	"time"
)

// TestLimitRate holds that a limited download is intact, takes its time, and is
// not taken for one from a slow server, though it is slower than the minimum.
func TestLimitRate(t *testing.T) {
	file := content(fileSize, 1)
	s, opt := newTLSServer(t, tlsServer{}, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	opt.LimitRate = 100_000
	opt.patience.minRate, opt.patience.window = 100<<20, time.Second
	begin := time.Now()
	f, st, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: fileSize}, opt)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
	// No upper bound: this machine may be busy. The window is much shorter than
	// the download, and longer than such a machine lets a server wait.
	if took := time.Since(begin); took < 2*time.Second || st.Requests != 2 {
		t.Errorf("%d bytes took %v and %d requests, want at least 2s and 2: the head, the rest", fileSize, took, st.Requests)
	}
}
