package follow_test

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/fleet/fake"
)

// A store gives bundles at addresses that are good for a time only, as presigned ones are; the
// server signs a new one for each poll.
type store struct {
	*device
	action *fake.Action
	size   int64

	mu       sync.Mutex
	signed   int            // addresses
	answered map[string]int // bundles' requests, by address
	sent     int64          // bytes
	barren   bool           // the next addresses are not good
}

// Bounds of an address: it gives a part twice, then nothing.
const (
	uses     = 2
	mostSent = 320 << 10 // bytes of an answer, then the connection breaks
)

// newStore assigns version 1.3.0, of which the device has nothing.
func newStore(t *testing.T) *store {
	s := &store{device: newDevice(t), answered: map[string]int{}}
	tree, dir := t.TempDir(), t.TempDir()
	data := make([]byte, dataSize)
	_, _ = rand.Read(data)
	s.check(os.WriteFile(filepath.Join(tree, "data"), data, 0o644))
	bundle := filepath.Join(dir, "1.3.0.ota")
	out, err := program("ota-bundle", "create", "--dir", tree, "--version", "1.3.0", "--model", "x1", "--key", filepath.Join(releases, "k.key"), "--release", "0", "-o", bundle).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(bundle)
	s.check(err)
	s.size = info.Size()
	s.server.Do(func() { s.server.Dir = dir })
	s.action = s.server.Assign(fake.Action{ID: "7", Version: "1.3.0"})
	s.server.Before(s.serve)
	return s
}

func (s *store) serve(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/deploymentBase/"):
		s.signed++
		url := fmt.Sprintf("%s/files/1.3.0.ota?sig=%d", s.server.URL, s.signed)
		s.server.Do(func() { s.action.URL = url })
		return false
	case !strings.Contains(r.URL.Path, "/files/"):
		return false
	}
	sig := r.URL.Query().Get("sig")
	if s.answered[sig]++; s.answered[sig] > uses || s.barren && sig != "1" {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	time.Sleep(300 * time.Millisecond) // the progress is told at most every 200 ms
	w.Header().Set("ETag", `"x"`)
	http.ServeFile(&cut{w, &s.sent, mostSent}, r, filepath.Join(s.server.Dir, "1.3.0.ota"))
	return true
}

// cut ends an answer after some bytes.
type cut struct {
	http.ResponseWriter
	sent *int64
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	*c.sent += int64(n)
	if c.left -= n; c.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// An address that expires between two ranges is replaced by what the server gives when it is
// asked again, as often as that brings something, and the download continues.
func TestAddressExpires(t *testing.T) {
	for _, once := range []bool{true, false} {
		t.Run(fmt.Sprintf("once=%v", once), func(t *testing.T) {
			s := newStore(t)
			if once {
				s.once(0)
			} else {
				s.server.Do(func() { s.action.Closed = "later" })
				s.once(0) // so that the service polls at once
				s.server.Do(func() { s.action.Closed = "" })
				cmd := s.command("ota-apply", "follow")
				s.check(cmd.Start())
				defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
				s.eventually(func() bool { return strings.Contains(s.state(), `"stage":"switching"`) })
			}
			s.eventually(func() bool {
				v, _ := os.Readlink(s.path("versions/.active/current"))
				return strings.HasSuffix(v, "v1.3.0")
			})
			s.unclosed(s.action)
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.signed < 4 || s.signed > 12 {
				t.Errorf("%d addresses were asked for", s.signed)
			}
			if s.sent < s.size || s.sent > s.size+s.size/2 {
				t.Errorf("%d bytes were sent of a bundle of %d", s.sent, s.size)
			}
		})
	}
}

// A server whose fresh addresses are not good, either, is not asked for them in a loop.
func TestAddressesThatNeverAreGood(t *testing.T) {
	s := newStore(t)
	s.mu.Lock()
	s.barren = true
	s.mu.Unlock()
	s.once(6)
	s.current("1.0.0")
	s.unclosed(s.action)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signed > 4 {
		t.Errorf("%d addresses were asked for", s.signed)
	}
}
