package fetch

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// bigSize is a file with room for holes.
const bigSize = 4<<20 + 7

// mustHaveParts holds that f is as long as file and has its parts.
func mustHaveParts(t *testing.T, f *os.File, file []byte, parts []Part) {
	t.Helper()
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != int64(len(file)) {
		t.Fatalf("the file has %d bytes (%v), want %d", fi.Size(), err, len(file))
	}
	for _, p := range parts {
		got := make([]byte, p.End-p.First)
		if _, err := f.ReadAt(got, p.First); err != nil || !bytes.Equal(got, file[p.First:p.End]) {
			t.Errorf("bytes %d to %d are not those of the file (%v)", p.First, p.End, err)
		}
	}
}

// TestParts holds that what is not wanted is not fetched where the server gives
// ranges, that all is where it does not, and that what is wanted is there.
func TestParts(t *testing.T) {
	file := content(bigSize, 1)
	good := func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }
	twoParts := []Part{{2 << 20, 2<<20 + 5000}, {3 << 20, 3<<20 + 70_000}}
	for _, row := range []struct {
		name    string
		handle  handler
		parts   []Part
		sha     bool
		noSize  bool
		fetched int64 // at most
		asks    int   // 0: any number
	}{
		{"all", good, nil, false, false, bigSize, 2},
		{"nothing more", good, []Part{}, false, false, headFirst, 1},
		{"two parts", good, twoParts, false, false, headFirst + 75_000, 3},
		{"two parts, the length not known before", good, twoParts, false, true, headFirst + 75_000, 3},
		{"the end", good, []Part{{bigSize - 10, bigSize}}, false, false, headFirst + 10, 2},
		{"parts near each other", good, []Part{{1 << 20, 1<<20 + 10}, {1<<20 + 60_000, 1<<20 + 60_010}}, false, false, headFirst + 60_010, 2},
		{"a part near the head", good, []Part{{headFirst + 1000, headFirst + 2000}}, false, false, headFirst + 2000, 2},
		{"a part in the head", good, []Part{{1000, 2000}}, false, false, headFirst, 1},
		{"the whole file's hash is known", good, twoParts, true, false, bigSize, 0},
		{"no ranges", func(w http.ResponseWriter, r *http.Request, n int) {
			r.Header.Del("Range")
			serve(w, r, file)
		}, twoParts, false, false, 2 * bigSize, 0},
		{"no validator", func(w http.ResponseWriter, r *http.Request, n int) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		}, twoParts, false, false, bigSize + headFirst, 0},
		{"ranges for the head only", func(w http.ResponseWriter, r *http.Request, n int) {
			if offset(r) > 0 {
				r.Header.Del("Range")
			}
			serve(w, r, file)
		}, twoParts, false, false, 2 * bigSize, 0},
		{"busy at first", func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				w.WriteHeader(503)
				return
			}
			serve(w, r, file)
		}, twoParts, false, false, headFirst + 75_000, 0},
		{"cut off, then busy, at first", func(w http.ResponseWriter, r *http.Request, n int) {
			switch n {
			case 1:
				serveCut(w, r, file, 10)
			case 2:
				w.WriteHeader(503)
			default:
				serve(w, r, file)
			}
		}, twoParts, false, false, headFirst + 75_000, 0},
		{"each connection breaks", func(w http.ResponseWriter, r *http.Request, n int) {
			serveCut(w, r, file, 40_000)
		}, twoParts, false, false, headFirst + 75_000, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, row.handle)
			opt := quick(spoolDir(t))
			var lastDone, lastTotal int64
			opt.Progress = func(done, total int64) { lastDone, lastTotal = done, total }
			src := Source{URL: s.URL + "/x.ota", Size: bigSize}
			if row.noSize {
				src.Size = 0
			}
			if row.sha {
				src.SHA256 = sum(file)
			}
			f, st, err := caller{head: 1000, parts: row.parts}.fetch(t.Context(), src, opt)
			if err != nil {
				t.Fatal(err)
			}
			want := row.parts
			if want == nil || row.sha {
				want = []Part{{0, bigSize}}
			}
			mustHaveParts(t, f, file, append([]Part{{0, 1000}}, want...))
			if st.Fetched > row.fetched || st.Size != bigSize {
				t.Errorf("%d bytes of %d were fetched, want at most %d of %d", st.Fetched, st.Size, row.fetched, bigSize)
			}
			if n := len(s.asked()); row.asks > 0 && n != row.asks {
				t.Errorf("%d requests, want %d", n, row.asks)
			}
			if lastDone != lastTotal || lastDone > bigSize {
				t.Errorf("Progress ended at %d of %d", lastDone, lastTotal)
			}
		})
	}
}

// TestServerThatBegins holds that a server which nothing listens on yet, and which then is busy
// once, is not taken for one that gives no ranges.
func TestServerThatBegins(t *testing.T) {
	file := content(bigSize, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			w.WriteHeader(503)
			return
		}
		serve(w, r, file)
	})
	opt, down := quick(spoolDir(t)), true
	opt.Transport = func(over http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if down {
				down = false
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
			}
			return over.RoundTrip(r)
		})
	}
	f, st, err := caller{head: 1000, parts: []Part{{2 << 20, 2<<20 + 5000}}}.fetch(t.Context(), Source{URL: s.URL + "/x.ota", Size: bigSize}, opt)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if st.Fetched > headFirst+5000 {
		t.Errorf("%d bytes of %d were fetched, want at most %d", st.Fetched, st.Size, headFirst+5000)
	}
}

// TestPartsResume holds that a later call continues with a file that has holes, and
// fetches what this time is wanted of them.
func TestPartsResume(t *testing.T) {
	file := content(bigSize, 1)
	first, second, third := Part{1 << 20, 1<<20 + 100_000}, Part{2 << 20, 2<<20 + 100_000}, Part{3 << 20, 3<<20 + 200_000}
	for _, row := range []struct {
		name    string
		now     []Part // wanted by the second call; nil: all
		meddle  func(m map[string]any)
		fetched int64 // by the second call, at most
	}{
		{name: "the same", now: []Part{first, second, third}, fetched: 150_000},
		{name: "a hole is wanted", now: []Part{first, {1<<20 + 500_000, 1<<20 + 600_000}, second, third}, fetched: 500_000},
		{name: "all is wanted", fetched: bigSize - headFirst + headSize},
		{name: "less is wanted", now: []Part{first}, fetched: headSize},
		{name: "the power went", now: []Part{first, second, third}, fetched: bigSize, meddle: func(m map[string]any) {
			m["boot"], m["synced"] = "another", 1<<20+50_000
		}},
		{name: "the holes cannot be", now: []Part{first, second, third}, fetched: headFirst + 400_000, meddle: func(m map[string]any) {
			m["holes"] = []map[string]int{{"first": 5, "end": 4}}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var hung atomic.Bool
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
				if offset(r) == 3<<20 && !hung.Swap(true) {
					serve(&hanger{ResponseWriter: w, r: r, left: 100_000}, r, file)
					return
				}
				serve(w, r, file)
			})
			dir := spoolDir(t)
			src := Source{URL: s.URL + "/x.ota", Size: bigSize}
			ctx, cancel := context.WithCancel(t.Context())
			opt := quick(dir)
			c := caller{parts: []Part{first, second, third}, reads: func(f *File, _ *Download) {
				if _, err := f.ReadAt(make([]byte, 1), 3<<20+50_000); err != nil {
					t.Error(err)
				}
				cancel()
			}}
			if _, _, err := c.fetch(ctx, src, opt); err == nil {
				t.Fatal("the first call was not interrupted")
			}
			if row.meddle != nil {
				edit(t, noteOf(partOf(t, dir, src.URL)), row.meddle)
			}
			opt = quick(dir)
			f, st, err := caller{parts: row.now}.fetch(t.Context(), src, opt)
			if err != nil {
				t.Fatal(err)
			}
			want := row.now
			if want == nil {
				want = []Part{{0, bigSize}}
			}
			mustHaveParts(t, f, file, want)
			if st.Fetched > row.fetched {
				t.Errorf("%d bytes were fetched, want at most %d", st.Fetched, row.fetched)
			}
		})
	}
}

// TestPartsAndKills holds that nothing but the file's own bytes is ever taken for
// what was wanted, however often and wherever a download with other wishes each
// time is interrupted.
func TestPartsAndKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	file := content(bigSize, 3)
	wish := func() []Part {
		var parts []Part
		for at := random.Int64N(1 << 20); at < bigSize; at += 1 + random.Int64N(1<<20) {
			end := min(bigSize, at+1+random.Int64N(300_000))
			parts = append(parts, Part{at, end})
			at = end
		}
		return parts
	}
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	dir := spoolDir(t)
	src := Source{URL: s.URL + "/x.ota", Size: bigSize}
	interrupted := 0
	for range 60 {
		parts := wish()
		stop := random.Int64N(2 * bigSize)
		ctx, cancel := context.WithCancel(t.Context())
		opt := quick(dir)
		c := caller{head: 1000, parts: parts, refuse: func(f *File) error {
			holds(t, f, file, Part{0, f.Have})
			return nil
		}, reads: func(f *File, _ *Download) {
			for _, p := range parts {
				for at := p.First; at < p.End; at += 10_000 {
					if at >= stop {
						cancel()
						return
					}
					holds(t, f, file, Part{at, min(p.End, at+10_000)})
				}
			}
		}}
		f, _, err := c.fetch(ctx, src, opt)
		cancel()
		if err != nil {
			interrupted++
			// What SIGKILL and a power cut leave, too: the last sidecar, and more of the file.
			if part := partOf(t, dir, src.URL); random.IntN(2) == 0 && exists(part) {
				edit(t, noteOf(part), func(m map[string]any) { m["boot"] = "another" })
			}
			continue
		}
		mustHaveParts(t, f, file, parts)
	}
	t.Logf("%d of 60 were interrupted", interrupted)
	if interrupted == 0 || interrupted == 60 {
		t.Error("the test interrupts none or all")
	}
}

// holds checks that f has the bytes p of file.
func holds(t *testing.T, f io.ReaderAt, file []byte, p Part) {
	t.Helper()
	got := make([]byte, p.End-p.First)
	if n, err := f.ReadAt(got, p.First); n != len(got) || !bytes.Equal(got, file[p.First:p.End]) {
		t.Errorf("bytes %d to %d are promised and are not those of the file (%v)", p.First, p.End, err)
	}
}

// A hanger sends left bytes of a body, then nothing more until the client is gone.
type hanger struct {
	http.ResponseWriter
	r    *http.Request
	left int
}

func (h *hanger) Write(p []byte) (int, error) {
	n, err := h.ResponseWriter.Write(p[:min(len(p), h.left)])
	if h.left -= n; h.left == 0 {
		hang(h.ResponseWriter, h.r)
	}
	return n, err
}

// TestMerge holds that what is little apart is asked for together, and that a file in many
// parts is not asked for in more than maxParts.
func TestMerge(t *testing.T) {
	spread := func(n int, step int64) (parts []Part) {
		for i := range int64(n) {
			parts = append(parts, Part{i * step, i*step + 1000})
		}
		return parts
	}
	for _, row := range []struct {
		name  string
		parts []Part
		want  int
	}{
		{"none", nil, 0},
		{"an empty one", []Part{{5, 5}}, 0},
		{"one in another", []Part{{0, 10_000}, {10, 20}}, 1},
		{"as near as the shortest hole", []Part{{0, 10}, {9 + minGap, 10 + minGap}, {10 + 2*minGap, 11 + 2*minGap}}, 2},
		{"as many as may be", spread(maxParts, 100_000), maxParts},
		{"one more", spread(maxParts+1, 100_000), 1},
		{"many, with a wide hole", append(spread(150, 100_000), Part{1 << 30, 1<<30 + 5}), 151},
		{"too many, with a wide hole", append(spread(250, 100_000), Part{1 << 30, 1<<30 + 5}), 2},
	} {
		got := merge(row.parts)
		if len(got) != row.want || Requests(row.parts) != row.want {
			t.Errorf("%s: %d ranges, want %d", row.name, len(got), row.want)
		}
		for _, p := range row.parts {
			if p.First < p.End && !slices.ContainsFunc(got, func(g Part) bool { return g.First <= p.First && p.End <= g.End }) {
				t.Errorf("%s: %v is not asked for", row.name, p)
			}
		}
	}
}
