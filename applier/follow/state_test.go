package follow

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// What cannot be read for a moment is not forgotten: which channel was seen, and what the
// server was not told. It is not parallel: no file can be opened meanwhile.
func TestStateThatCannotBeRead(t *testing.T) {
	store, err := bootcheck.Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	before, err := load(store, "https://h")
	if err == nil {
		before.Memory = []byte(`{"serial":7}`)
		err = before.save()
	}
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	s, err := load(store, "https://h")
	_, newErr := New(Options{Store: store, Run: store.Dir()})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if s != nil || !errors.Is(err, unix.EMFILE) {
		t.Errorf("load = %+v, %v, want no state, and too many open files", s, err)
	}
	if newErr == nil || strings.Contains(newErr.Error(), "another process") || bootcheck.Exit(newErr) != bootcheck.ExitFailed {
		t.Errorf("New = %v, want that the lock cannot be opened", newErr)
	}
}

// Retry-After as a date is measured by the clock of the server: that of the device may be
// years behind.
func TestRetryAfterByTheServersClock(t *testing.T) {
	h := http.Header{"Date": {"Wed, 21 Oct 2015 07:28:00 GMT"}, "Retry-After": {"Wed, 21 Oct 2015 07:38:00 GMT"}}
	if e := NewStatusError(&http.Response{StatusCode: 503, Header: h}); e.After != 10*time.Minute {
		t.Errorf("After = %v, want 10m", e.After)
	}
}
