package applier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// TestUnequalServers holds that a device gets its bundle over a link that breaks each
// 700 kB from servers that do not agree on what they have, for hardly more than its
// bytes, and that a frame that is wrong is fetched again.
func TestUnequalServers(t *testing.T) {
	for _, row := range []struct {
		name   string
		header func(h http.Header, n int)
		sha    bool
		bad    int // the request whose answer has a wrong byte, far behind the head
	}{
		{name: "two ETags", header: func(h http.Header, n int) { h.Set("ETag", fmt.Sprintf(`"node %d"`, n%2)) }},
		{name: "two ETags, SHA-256 known", header: func(h http.Header, n int) { h.Set("ETag", fmt.Sprintf(`"node %d"`, n%2)) }, sha: true},
		{name: "no validator", header: func(http.Header, int) {}},
		{name: "a weak ETag", header: func(h http.Header, n int) { h.Set("ETag", `W/"x"`) }},
		{name: "a wrong byte", header: func(http.Header, int) {}, bad: 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			data := read(t, d.wide("2.0.0", 10, 0))
			s := newShelf(t, d.path("2.0.0.ota"))
			s.before = func(w http.ResponseWriter, r *http.Request, n int, _ []byte) bool {
				row.header(w.Header(), n)
				data := data
				if n == row.bad {
					data = bytes.Clone(data)
					data[offsetOf(r)+100_000] ^= 1
				}
				w = &holder{ResponseWriter: w, left: 700_000, held: func() { panic(http.ErrAbortHandler) }}
				http.ServeContent(&sentCounter{w, &s.sent}, r, "", time.Time{}, bytes.NewReader(data))
				return true
			}
			o := installOptions{}
			if row.sha {
				sum := sha256.Sum256(data)
				o.sha256 = hex.EncodeToString(sum[:])
			}
			d.must(d.install(s.url, o))
			if d.runs() != "2.0.0" {
				t.Errorf("%s runs, want 2.0.0", d.runs())
			}
			store, err := bootcheck.Open(d.cfg.Root)
			d.must(err)
			snapshot, err := store.Snapshot("2.0.0")
			d.must(err)
			d.must(store.Verify(t.Context(), &snapshot.Ref, bootcheck.Full))
			if got, most := s.sent.Load(), int64(len(data))*13/10; got > most {
				t.Errorf("%d bytes were sent, want at most %d", got, most)
			}
		})
	}
}

// TestAnotherBundleInItsPlace holds that only what is new is fetched, too, when the
// server has another bundle than the one that an earlier call has begun.
func TestAnotherBundleInItsPlace(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.must(d.install(d.wide("2.0.0", 100, 95), installOptions{}))
	d.confirm()
	second := d.wide("2.2.0", 100, 95)
	s := newShelf(t, d.wide("2.1.0", 100, 95))
	ctx, cancel := context.WithCancel(t.Context())
	s.before = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
		if n != 2 {
			return false
		}
		s.serve(&holder{ResponseWriter: w, left: 400_000, held: func() {
			cancel()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}}, r, data)
		return true
	}
	d.refusedNow(d.installCtx(ctx, s.url, installOptions{}), "2.0.0")
	s.put(t, second)
	before := s.sent.Load()
	d.must(d.install(s.url, installOptions{}))
	if d.runs() != "2.2.0" {
		t.Errorf("%s runs, want 2.2.0", d.runs())
	}
	if got, most := s.sent.Load()-before, int64(5*200_000+256<<10+200_000); got > most {
		t.Errorf("%d bytes of %d were sent, want at most %d", got, len(s.data), most)
	}
}
