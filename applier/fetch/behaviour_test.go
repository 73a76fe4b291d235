package fetch

import (
	"net/http"
	"os"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// TestBehaviours holds that with every behaviour of a server the result is the right
// file or a clear error, and never more on the disk than was announced.
func TestBehaviours(t *testing.T) {
	file, other := content(fileSize, 1), content(fileSize, 2)
	for _, b := range behaviours() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			b.run(t, file, other)
		})
	}
}

// TestCount says how many behaviours of servers, proxies and clocks the tables
// of this package hold.
func TestCount(t *testing.T) {
	n := map[string]int{
		"answers": len(behaviours()), "redirects": len(redirectBehaviours(nil)), "TLS": len(tlsBehaviours(t)),
		"slowness": len(slowBehaviours()), "proxies": len(proxyBehaviours()),
	}
	total := 0
	for _, count := range n {
		total += count
	}
	t.Logf("%d behaviours: %v", total, n)
	if total < 35 {
		t.Errorf("%d behaviours, want 35 or more", total)
	}
}

func (b behaviour) run(t *testing.T, file, other []byte) {
	s := newServer(t, b.handle(file, other))
	src := Source{URL: s.URL + "/os/x.ota?secret=1", Size: fileSize}
	if b.noSize {
		src.Size = 0
	}
	if b.sha {
		src.SHA256 = sum(file)
	}
	opt := quick(spoolDir(t))
	opt.patience.maxSize = 1_000_000
	if b.stalls {
		opt.patience.window = shortWindow
	}
	announced := opt.patience.maxSize
	if src.Size > 0 {
		announced = src.Size
	}
	f, st, err := Fetch(t.Context(), src, opt, file, other)
	if b.gets == "" {
		if err != nil {
			t.Fatalf("Fetch: %v", err)
		}
		mustHave(t, f, file)
		if st.Size != fileSize {
			t.Errorf("Stats.Size = %d, want %d", st.Size, fileSize)
		}
	} else {
		if err == nil {
			f.Close()
			t.Fatalf("Fetch succeeded, want an error with %q", b.gets)
		}
		checkError(t, err, b.gets, b.exit, b.code)
		if b.exit == lost && bootcheck.Advice(err) == "" {
			t.Errorf("%q says nothing of what to do next", err)
		}
		if fi, err := os.Stat(partOf(t, opt.Dir, src.URL)); err == nil && (fi.Size() > announced || fi.Size() == 0) {
			t.Errorf("%d bytes are left, %d were announced", fi.Size(), announced)
		}
	}
	if b.maxFetched == 0 {
		b.maxFetched = 2*fileSize + headFirst
	}
	if st.Fetched > b.maxFetched {
		t.Errorf("%d bytes were fetched, want at most %d", st.Fetched, b.maxFetched)
	}
	if n := len(s.asked()); b.requests > 0 && n != b.requests {
		t.Errorf("%d requests were sent, want %d", n, b.requests)
	}
	for _, r := range s.asked() {
		if r.Method != http.MethodGet || r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("%s with Accept-Encoding %q was sent", r.Method, r.Header.Get("Accept-Encoding"))
		}
	}
}
