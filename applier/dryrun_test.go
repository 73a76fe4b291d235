package applier

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// A server that takes its time lets progress be told, and a dry run tells none.
func TestDryRunOfSlowServer(t *testing.T) {
	d := newDevice(t)
	data, err := os.ReadFile(d.bundle("1.1.0", nil))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		time.Sleep(300 * time.Millisecond) // progress is told every 200
		w.Write(data[:100])
		w.(http.Flusher).Flush()
		time.Sleep(300 * time.Millisecond)
		w.Write(data[100:])
	}))
	defer server.Close()
	a := &applier{cfg: d.cfg, out: io.Discard, log: io.Discard}
	if err := a.dryRun(t.Context(), server.URL+"/1.1.0.ota", installOptions{}, false); bootcheck.Exit(err) != bootcheck.ExitDone {
		t.Errorf("install --dry-run = %v, want nil", err)
	}
}
