package agent

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBundles(t *testing.T) {
	dir := t.TempDir()
	data := bytes.Repeat([]byte("bundle\n"), 1000)
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "x.ota"), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(data)
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(Bundles(dir))
	defer server.Close()
	get := func(path string, header ...string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequest("GET", server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}

	resp, body := get("/x.ota")
	if resp.StatusCode != 200 || !bytes.Equal(body, data) || resp.ContentLength != int64(len(data)) {
		t.Errorf("GET = %s, %d of %d bytes", resp.Status, len(body), resp.ContentLength)
	}
	etag := resp.Header.Get("ETag")
	if resp, body := get("/x.ota", "Range", "bytes=10-", "If-Range", etag); resp.StatusCode != 206 || !bytes.Equal(body, data[10:]) {
		t.Errorf("GET of a range of the same file = %s, %d bytes", resp.Status, len(body))
	}
	write(data[:len(data)-1])
	if resp, _ := get("/x.ota", "Range", "bytes=10-", "If-Range", etag); resp.StatusCode != 200 || resp.Header.Get("ETag") == etag {
		t.Errorf("GET of a range of a file that changed = %s, ETag %s", resp.Status, resp.Header.Get("ETag"))
	}
	for _, path := range []string{"/", "/folder", "/missing", "/../bundles_test.go", "/x.ota/"} {
		want := 404
		if path == "/x.ota/" {
			want = 200 // cleaned
		}
		if resp, _ := get(path); resp.StatusCode != want {
			t.Errorf("GET %s = %s, want %d", path, resp.Status, want)
		}
	}

	start := time.Now()
	if _, body := get("/x.ota?rate=70000"); !bytes.Equal(body, data[:len(data)-1]) {
		t.Errorf("GET at a rate = %d bytes", len(body))
	}
	if d := time.Since(start); d < 99*time.Millisecond {
		t.Errorf("6999 bytes at 70000 a second took %s, want 100 ms or more", d)
	}
}
