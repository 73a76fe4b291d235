package applier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// noise is content that does not shrink, other for each seed.
func noise(seed string, n int) string {
	var b bytes.Buffer
	sum := sha256.Sum256([]byte(seed))
	for b.Len() < n {
		sum = sha256.Sum256(sum[:])
		b.Write(sum[:])
	}
	return b.String()[:n]
}

// wide makes a bundle of files of 200 kB, each with a frame of its own. same of
// them are those of every other wide bundle.
func (d *device) wide(version string, files, same int) string {
	d.t.Helper()
	return d.bundle(version, func(c *bundle.Contents) {
		c.Release = 6
		for i := range files {
			seed := fmt.Sprint("same ", i)
			if i >= same {
				seed = fmt.Sprint(version, " ", i)
			}
			d.write(fmt.Sprintf("tree-%s/data/%03d", version, i), noise(seed, 200_000))
		}
	})
}

// A shelf serves one bundle as a good server does, unless before wants otherwise.
type shelf struct {
	url    string
	mu     sync.Mutex
	data   []byte
	sent   atomic.Int64
	before func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool // true: it has answered
	asked  int
}

func newShelf(t *testing.T, name string) *shelf {
	t.Helper()
	s := &shelf{}
	s.put(t, name)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".otp") {
			http.NotFound(w, r)
			return
		}
		s.mu.Lock()
		data := s.data
		s.asked++
		n := s.asked
		s.mu.Unlock()
		if s.before != nil && s.before(w, r, n, data) {
			return
		}
		s.serve(w, r, data)
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.url = server.URL + "/x.ota"
	return s
}

func (s *shelf) serve(w http.ResponseWriter, r *http.Request, data []byte) {
	sum := sha256.Sum256(data)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
	http.ServeContent(&sentCounter{w, &s.sent}, r, "", time.Time{}, bytes.NewReader(data))
}

func (s *shelf) put(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = data
}

type sentCounter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *sentCounter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// TestOverlap holds that what has arrived is unpacked while the rest has not: the
// server sends its last part only when it sees files of the first in the store.
func TestOverlap(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newShelf(t, d.wide("2.0.0", 30, 0))
	seen := make(chan bool, 1)
	s.before = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
		if n < 2 {
			return false // the head
		}
		hold := len(data) - 500_000
		s.serve(&holder{ResponseWriter: w, left: hold - offsetOf(r), held: func() {
			for range 1000 {
				if names, _ := filepath.Glob(d.path("versions/.staging/v2.0.0/data/01*")); len(names) == 10 {
					seen <- true
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			seen <- false
		}}, r, data)
		return true
	}
	d.must(d.install(s.url, installOptions{}))
	select {
	case yes := <-seen:
		if !yes {
			t.Error("nothing was unpacked before the download was complete")
		}
	default:
		t.Error("the server was never asked for the last part")
	}
	if d.runs() != "2.0.0" {
		t.Errorf("%s runs, want 2.0.0", d.runs())
	}
	store, err := bootcheck.Open(d.cfg.Root)
	d.must(err)
	snapshot, err := store.Snapshot("2.0.0")
	d.must(err)
	d.must(store.Verify(t.Context(), &snapshot.Ref, bootcheck.Full))
}

// A holder calls held, once, before it sends more than left bytes of a body.
type holder struct {
	http.ResponseWriter
	left int
	held func()
}

func (h *holder) Write(p []byte) (int, error) {
	if h.held != nil && len(p) > h.left {
		n, err := h.ResponseWriter.Write(p[:h.left])
		http.NewResponseController(h.ResponseWriter).Flush()
		h.held()
		h.held = nil
		if err != nil {
			return n, err
		}
		m, err := h.ResponseWriter.Write(p[n:])
		return n + m, err
	}
	h.left -= len(p)
	return h.ResponseWriter.Write(p)
}

func offsetOf(r *http.Request) (n int) {
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &n)
	return n
}

// TestStartsOver holds that a bundle that is replaced on the server while it is
// unpacked is given up for the one that came in its place.
func TestStartsOver(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	first, second := d.wide("2.0.0", 30, 0), d.wide("2.1.0", 30, 0)
	s := newShelf(t, first)
	s.before = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
		if n != 2 {
			return false
		}
		s.serve(&holder{ResponseWriter: w, left: 1 << 20, held: func() {
			s.put(t, second)
			panic(http.ErrAbortHandler)
		}}, r, data)
		return true
	}
	d.must(d.install(s.url, installOptions{}))
	if d.runs() != "2.1.0" {
		t.Errorf("%s runs, want 2.1.0", d.runs())
	}
	if _, err := os.Stat(d.path("versions/v2.0.0")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the first bundle is in the store: %v", err)
	}
}

// TestFetchesWhatIsNew holds how much of an update leaves the server when most
// files are on the device, and that the result is intact; also when the download is
// interrupted repeatedly.
func TestFetchesWhatIsNew(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		cut  int // the connection breaks after so many bytes, each time; 0: never
	}{{"a good connection", 0}, {"a bad connection", 250_000}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d := newDevice(t)
			d.must(d.install(d.wide("2.0.0", 100, 95), installOptions{}))
			d.confirm()
			next := d.wide("2.1.0", 100, 95)
			s := newShelf(t, next)
			s.before = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
				if row.cut == 0 || n > 12 {
					return false
				}
				s.serve(&holder{ResponseWriter: w, left: row.cut, held: func() { panic(http.ErrAbortHandler) }}, r, data)
				return true
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			d.must(d.installCtx(ctx, s.url, installOptions{}))
			if d.runs() != "2.1.0" {
				t.Errorf("%s runs, want 2.1.0", d.runs())
			}
			store, err := bootcheck.Open(d.cfg.Root)
			d.must(err)
			snapshot, err := store.Snapshot("2.1.0")
			d.must(err)
			d.must(store.Verify(t.Context(), &snapshot.Ref, bootcheck.Full))
			// 5 files of 200 kB are new, and the head is fetched in steps of up to 256 KiB.
			if got, most := s.sent.Load(), int64(5*200_000+256<<10+100_000); row.cut == 0 && got > most {
				t.Errorf("%d bytes of %d were sent, want at most %d", got, len(s.data), most)
			}
			if names, _ := filepath.Glob(d.path("versions/.spool/*.part")); len(names) > 0 {
				t.Errorf("left: %v", names)
			}
		})
	}
}

// Nothing waits for the hashes of what is reused: it is fetched meanwhile what no other
// version has. What turns out to be damaged there is fetched when that is known.
func TestFetchesWhatIsDamaged(t *testing.T) {
	d := newDevice(t)
	d.must(d.install(d.wide("2.0.0", 20, 20), installOptions{}))
	d.confirm()
	store, err := bootcheck.Open(d.cfg.Root)
	d.must(err)
	name := store.VersionDir("2.0.0") + "/data/007"
	before, err := os.Stat(name)
	d.must(err)
	d.must(os.WriteFile(name, []byte(noise("rot", 200_000)), 0))
	d.must(os.Chtimes(name, before.ModTime(), before.ModTime()))

	shelf := newShelf(t, d.wide("2.1.0", 20, 19))
	d.must(d.install(shelf.url, installOptions{noActivate: true}))
	snapshot, err := store.Snapshot("2.1.0")
	d.must(err)
	d.must(store.Verify(t.Context(), &snapshot.Ref, bootcheck.Full))
	if sent := shelf.sent.Load(); sent > 256<<10+3*200_000 {
		t.Errorf("%d bytes were sent, want the head, the new file and the one that is damaged", sent)
	}
}

// TestInterruptedInstall holds that an install that is told to end does so soon,
// leaves the store as it was, and continues where it stopped when it is asked again.
func TestInterruptedInstall(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := newShelf(t, d.wide("2.0.0", 30, 0))
	ctx, cancel := context.WithCancel(t.Context())
	var told time.Time
	s.before = func(w http.ResponseWriter, r *http.Request, n int, data []byte) bool {
		if n != 2 {
			return false
		}
		s.serve(&holder{ResponseWriter: w, left: 3 << 20, held: func() {
			time.Sleep(300 * time.Millisecond) // it has unpacked what there is
			told = time.Now()
			cancel()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}}, r, data)
		return true
	}
	err := d.installCtx(ctx, s.url, installOptions{})
	if took := time.Since(told); took > 20*time.Second { // 2 s, on a machine that is ten times slower
		t.Errorf("it ended %v after it was told to", took)
	}
	d.refusedButSpooled(err, bootcheck.ExitDownloadFailed, "interrupted after")
	before := s.sent.Load()
	d.must(d.install(s.url, installOptions{}))
	if got := s.sent.Load() - before; got > int64(len(s.data))-2<<20 {
		t.Errorf("%d bytes of %d were sent again, want those that were missing", got, len(s.data))
	}
	if d.runs() != "2.0.0" {
		t.Errorf("%s runs, want 2.0.0", d.runs())
	}
}

// refusedButSpooled is refused, but for the download that is kept.
func (d *device) refusedButSpooled(err error, exit bootcheck.ExitCode, want string) {
	d.t.Helper()
	if err == nil || bootcheck.Exit(err) != exit || !strings.Contains(err.Error(), want) {
		d.t.Errorf("%v (exit %d), want exit %d and %q in it", err, bootcheck.Exit(err), exit, want)
	}
	if d.runs() != "1.0.0" {
		d.t.Errorf("version %s runs, want 1.0.0", d.runs())
	}
	for _, dir := range []string{".staging", ".trash"} {
		if entries, err := os.ReadDir(filepath.Join(d.cfg.Root, dir)); err != nil || len(entries) > 0 {
			d.t.Errorf("left in %s: %v, %v", dir, entries, err)
		}
	}
}

// TestManyFailedInstalls holds that installs that fail, in each way in turn, leave
// the disk as it was, however many there are.
func TestManyFailedInstalls(t *testing.T) {
	d := newDevice(t)
	good, err := os.ReadFile(d.bundle("2.0.0", func(c *bundle.Contents) {
		c.Release = 6
		d.write("tree-2.0.0/data", noise("x", 50_000))
	}))
	d.must(err)
	spoiled := bytes.Clone(good)
	spoiled[len(spoiled)-200] ^= 1
	cut := good[:len(good)-100]
	s := newShelf(t, d.path("2.0.0.ota"))
	var now []byte
	s.before = func(w http.ResponseWriter, r *http.Request, n int, _ []byte) bool {
		if now == nil {
			http.Error(w, "no", http.StatusForbidden)
		} else {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(now))
		}
		return true
	}
	disk := func() (bytes, files int64) {
		d.must(filepath.WalkDir(d.cfg.Root, func(name string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
			files++
			return nil
		}))
		return bytes, files
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	ways := []func() error{
		func() error { now = spoiled; return d.install(s.url, installOptions{}) },
		func() error { now = cut; return d.install(s.url, installOptions{}) },
		func() error { now = nil; return d.install(s.url, installOptions{}) },
		func() error {
			return d.install(d.path("2.0.0.ota"), installOptions{sha256: strings.Repeat("ab", 32)})
		},
		func() error { now = []byte(strings.Repeat("<html>", 1000)); return d.install(s.url, installOptions{}) },
		func() error { now = good; return d.installCtx(canceled, s.url, installOptions{}) },
		func() error { return d.install(d.write("spoiled.ota", string(spoiled)), installOptions{}) },
		func() error { return d.install(d.write("cut.ota", string(cut)), installOptions{}) },
		func() error { return d.install(d.path("missing.ota"), installOptions{}) },
		func() error {
			d.cfg.Reserve = 1 << 50
			defer func() { d.cfg.Reserve = 0 }()
			return d.install(d.path("2.0.0.ota"), installOptions{})
		},
	}
	for i, fail := range ways { // once, for the directories that are made only then
		began := time.Now()
		err := fail()
		if err == nil {
			t.Fatalf("way %d did not fail", i)
		}
		t.Logf("%5d ms  %v", time.Since(began).Milliseconds(), err)
	}
	bytes, files := disk()
	const times = 1000
	for i := range times {
		if err := ways[i%len(ways)](); err == nil {
			t.Fatalf("install %d did not fail", i)
		}
	}
	if nowBytes, nowFiles := disk(); nowBytes != bytes || nowFiles != files {
		t.Errorf("after %d failed installs %d files take %d bytes, want %d files and %d bytes", times, nowFiles, nowBytes, files, bytes)
	}
	d.must(d.install(d.path("2.0.0.ota"), installOptions{}))
	if d.runs() != "2.0.0" {
		t.Errorf("%s runs, want 2.0.0", d.runs())
	}
}

// TestResumesWithOtherWishes holds that an install that continues with a download of
// an earlier one also gets what it did not want then: a version that would have
// given a file has lost it in between.
func TestResumesWithOtherWishes(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.must(d.install(d.wide("2.0.0", 100, 95), installOptions{}))
	d.confirm()
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
	if s.asked != 2 {
		t.Fatalf("%d requests, want the second to be that of what is new", s.asked)
	}
	for _, name := range []string{"data/003", "data/040", "data/041", "data/093"} {
		d.must(os.WriteFile(d.path("versions/v2.0.0/"+name), []byte("changed"), 0))
	}
	d.must(d.install(s.url, installOptions{}))
	store, err := bootcheck.Open(d.cfg.Root)
	d.must(err)
	snapshot, err := store.Snapshot("2.1.0")
	d.must(err)
	d.must(store.Verify(t.Context(), &snapshot.Ref, bootcheck.Full))
	if d.runs() != "2.1.0" {
		t.Errorf("%s runs, want 2.1.0", d.runs())
	}
}

// refusedNow checks that an install was interrupted and that version runs still.
func (d *device) refusedNow(err error, version string) {
	d.t.Helper()
	if err == nil || !strings.Contains(err.Error(), "interrupted after") {
		d.t.Fatalf("%v, want it interrupted", err)
	}
	if d.runs() != version {
		d.t.Errorf("%s runs, want %s", d.runs(), version)
	}
}
