package fetch

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// manyParts are n parts of a file of bigSize, each behind a hole.
func manyParts(n int) (parts []Part) {
	for i := range int64(n) {
		at := 1<<20 + i*150_000
		parts = append(parts, Part{at, at + 20_000 + i})
	}
	return parts
}

// TestAhead holds that maxAsked requests are in flight at once, and no more: the server
// answers none of the ranges before that many are there.
func TestAhead(t *testing.T) {
	file := content(bigSize, 1)
	for _, row := range []struct {
		name  string
		parts int
		limit int64 // of the rate; 0: none
		want  int32 // requests at once
	}{
		{"many ranges", 12, 0, maxAsked},
		{"as many as pay for a connection more", minAhead, 0, 2},
		{"many ranges with a limit of the rate", 12, 1 << 30, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var now, most atomic.Int32
			together := make(chan struct{})
			once := sync.OnceFunc(func() { close(together) })
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
				if offset(r) > 0 {
					if c := now.Add(1); c > most.Load() {
						if most.Store(c); c == row.want {
							once()
						}
					}
					select {
					case <-together:
					case <-r.Context().Done():
						return
					}
					now.Add(-1) // before it is answered: the client then sends the next
				}
				serve(w, r, file)
			})
			parts := manyParts(row.parts)
			opt := quick(spoolDir(t))
			opt.LimitRate = row.limit
			f, st, err := caller{parts: parts}.fetch(t.Context(), Source{URL: s.URL + "/x.ota", Size: bigSize}, opt)
			if err != nil {
				t.Fatal(err)
			}
			mustHaveParts(t, f, file, parts)
			if got := most.Load(); got != row.want {
				t.Errorf("%d requests were in flight at once, want %d", got, row.want)
			}
			if want := 1 + row.parts; st.Requests != want || len(s.asked()) != want {
				t.Errorf("%d requests were counted and %d arrived, want %d", st.Requests, len(s.asked()), want)
			}
		})
	}
}

// TestAheadOfALongRange holds that what follows a long range is asked for when no more than
// aheadBytes of it are to come, and not before.
func TestAheadOfALongRange(t *testing.T) {
	file := content(bigSize, 1)
	long := Part{1 << 20, 1<<20 + aheadBytes + 500_000}
	read, second := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(second) })
	var s *server
	s = newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
		switch at := offset(r); {
		case at == 0:
		case at > int(long.First):
			once()
		default:
			send := func(from, to int64) {
				_, _ = w.Write(file[from:to])
				_ = http.NewResponseController(w).Flush()
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", long.First, long.End-1, len(file)))
			w.WriteHeader(http.StatusPartialContent)
			send(long.First, long.End-aheadBytes-1)
			select {
			case <-read:
			case <-r.Context().Done():
				return
			}
			if n := len(s.asked()); n != 2 {
				t.Errorf("%d requests were sent, want the head's and the first range's", n)
			}
			send(long.End-aheadBytes-1, long.End-1)
			select {
			case <-second:
			case <-r.Context().Done():
				return
			}
			send(long.End-1, long.End)
			return
		}
		serve(w, r, file)
	})
	parts := []Part{long, {3 << 20, 3<<20 + 1000}, {3<<20 + 200_000, 3<<20 + 201_000}}
	c := caller{parts: parts, reads: func(f *File, _ *Download) {
		holds(t, f, file, Part{long.First, long.End - aheadBytes - 1})
		close(read)
	}}
	f, st, err := c.fetch(t.Context(), Source{URL: s.URL + "/x.ota", Size: bigSize}, quick(spoolDir(t)))
	if err != nil {
		t.Fatal(err)
	}
	mustHaveParts(t, f, file, parts)
	if st.Requests != 4 {
		t.Errorf("%d requests, want 4", st.Requests)
	}
}

// TestAheadYields holds that after each refusal half as many requests are in flight: four,
// two, then one after the other, and that no more are sent than that.
func TestAheadYields(t *testing.T) {
	file := content(bigSize, 1)
	for name, refuse := range map[string]func(w http.ResponseWriter, r *http.Request){
		"429":                       func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "0"); w.WriteHeader(429) },
		"503":                       func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"a connection that is lost": func(w http.ResponseWriter, r *http.Request) { serveCut(w, r, file, 100) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var ranges, alone atomic.Int32
			four, two := make(chan struct{}), make(chan struct{})
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, _ int) {
				if offset(r) == 0 {
					serve(w, r, file)
					return
				}
				wait := func(n, last int32, all chan struct{}) {
					if n == last {
						close(all)
					}
					select {
					case <-all:
					case <-r.Context().Done():
					}
					refuse(w, r)
				}
				switch n := ranges.Add(1); {
				case n <= 4:
					wait(n, 4, four)
				case n <= 6:
					wait(n, 6, two)
				default:
					if n := alone.Add(1); n > 1 {
						t.Errorf("%d requests are in flight after two refusals, want 1", n)
					}
					alone.Add(-1) // before it is answered: the client then sends the next
					serve(w, r, file)
				}
			})
			parts := manyParts(12)
			f, st, err := caller{parts: parts}.fetch(t.Context(), Source{URL: s.URL + "/x.ota", Size: bigSize}, quick(spoolDir(t)))
			if err != nil {
				t.Fatal(err)
			}
			mustHaveParts(t, f, file, parts)
			if want := 1 + 4 + 2 + len(parts); st.Requests != want || st.Restarts > 0 {
				t.Errorf("%d requests and %d restarts, want %d and none", st.Requests, st.Restarts, want)
			}
		})
	}
}

// TestAheadHidesRoundTrips holds that ranges over a link with a round trip of 100 ms take
// less than half of the time that they take one after the other. The clock is not real.
func TestAheadHidesRoundTrips(t *testing.T) {
	const roundTrip = 100 * time.Millisecond
	file := content(bigSize, 1)
	took := func(n int, limit int64) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			opt := quick(spoolDir(t))
			opt.LimitRate = limit
			opt.Transport = func(http.RoundTripper) http.RoundTripper {
				return roundTripper(func(req *http.Request) (*http.Response, error) {
					select {
					case <-time.After(roundTrip):
					case <-req.Context().Done():
						return nil, req.Context().Err()
					}
					w := httptest.NewRecorder()
					serve(w, req, file)
					return w.Result(), nil
				})
			}
			began := time.Now()
			f, _, err := caller{parts: manyParts(n)}.fetch(t.Context(), Source{URL: "http://server/x.ota"}, opt)
			if err != nil {
				t.Fatal(err)
			}
			mustHaveParts(t, f, file, manyParts(n))
			took = time.Since(began)
		})
		return took
	}
	ahead, inTurn := took(20, 0), took(20, 1<<40) // with a limit of the rate nothing is asked ahead
	t.Logf("20 ranges take %v, one after the other %v", ahead, inTurn)
	if inTurn != 21*roundTrip || ahead > inTurn/2 {
		t.Errorf("20 ranges take %v, one after the other %v, want at most half of %v", ahead, inTurn, 21*roundTrip)
	}
	// A connection more costs what it saves.
	if few := took(minAhead-1, 0); few != minAhead*roundTrip {
		t.Errorf("%d ranges take %v, want %v", minAhead-1, few, minAhead*roundTrip)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
