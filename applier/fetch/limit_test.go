package fetch

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// TestLimiter holds that n bytes take n/rate seconds, but for one burst, and
// that no second of it has more than the rate and two bursts.
func TestLimiter(t *testing.T) {
	for _, row := range []struct {
		name  string
		rate  int64
		total int
		read  int           // bytes that the network gives at a time
		pause time.Duration // of the network after each
	}{
		{"1 byte a second", 1, 10, 1000, 0},
		{"7 bytes a second, read one by one", 7, 70, 1, 0},
		{"10 kB/s, large reads", 10_000, 300_000, 256 << 10, 0},
		{"500 KiB/s", 500 << 10, 5 << 20, 64 << 10, 0},
		{"1 GiB/s", 1 << 30, 4 << 30, 256 << 10, 0},
		{"the network has pauses", 10_000, 100_000, 5000, 600 * time.Millisecond},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter(row.rate)
				begin, second, inSecond := time.Now(), time.Now(), 0
				var paused time.Duration
				for left := row.total; left > 0; {
					n, err := l.wait(t.Context(), row.read)
					if err != nil || n <= 0 || n > row.read {
						t.Fatalf("wait = %d, %v", n, err)
					}
					n = min(n, left)
					l.took(n)
					left -= n
					if time.Since(second) >= time.Second {
						second, inSecond = time.Now(), 0
					}
					if inSecond += n; float64(inSecond) > float64(row.rate)+2*l.burst {
						t.Fatalf("%d bytes in a second", inSecond)
					}
					time.Sleep(row.pause)
					paused += row.pause
				}
				// The last burst need not be waited for.
				got, least := time.Since(begin).Seconds(), (float64(row.total)-2*l.burst)/float64(row.rate)
				if got < least {
					t.Errorf("%d bytes took %.3f s, want at least %.3f", row.total, got, least)
				}
				if most := float64(row.total)/float64(row.rate) + paused.Seconds() + 0.25; got > most {
					t.Errorf("%d bytes took %.3f s, want at most %.3f", row.total, got, most)
				}
			})
		})
	}
}

// TestLimiterEnds holds that a wait of hours ends with its context.
func TestLimiterEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1)
		l.took(1 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		if _, err := l.wait(ctx, 1); !errors.Is(err, context.Canceled) || time.Since(begin) != time.Second {
			t.Errorf("wait = %v after %v, want %v after 1s", err, time.Since(begin), context.Canceled)
		}
	})
}

func TestNoLimit(t *testing.T) {
	l := newLimiter(0)
	if n, err := l.wait(t.Context(), 12345); n != 12345 || err != nil {
		t.Errorf("wait = %d, %v, want 12345, nil", n, err)
	}
	l.took(1 << 40)
}

// TestLimitRate holds that a limited download is whole, takes its time, and is
// not taken for one from a slow server, though it is slower than the minimum.
func TestLimitRate(t *testing.T) {
	file := content(fileSize, 1)
	s, opt := newTLSServer(t, tlsServer{}, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	opt.LimitRate = 100_000
	opt.MinRate, opt.Window = 100<<20, time.Second
	opt.Inspect = nil
	begin := time.Now()
	f, st, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: fileSize}, opt)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
	// No upper bound: this machine may be busy. The window is much shorter than
	// the download, and longer than such a machine lets a server wait.
	if took := time.Since(begin); took < 2*time.Second || st.Requests != 1 {
		t.Errorf("%d bytes took %v and %d requests, want at least 2s and 1", fileSize, took, st.Requests)
	}
}
