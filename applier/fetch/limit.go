package fetch

import (
	"context"
	"time"
)

// A limiter keeps a download below a rate: a bucket that fills with time and
// that each byte read empties by one. What was read may exceed what is in it,
// but not by more than a burst, and then the next read waits. What is not read
// stays with the server: the connection's flow control holds it back.
//
// All methods do nothing on a nil limiter. One goroutine uses it at a time.
type limiter struct {
	rate  float64 // bytes a second
	burst float64 // bytes: what the bucket holds, and the most that a read may take
	level float64 // bytes in it; below 0: to be waited for
	at    time.Time
}

// maxBurst is the buffer that is read into: no read takes more.
const maxBurst = bufferSize

// newLimiter makes a limiter of rate bytes a second; nil, no limit, for 0 or less.
func newLimiter(rate int64) *limiter {
	if rate <= 0 {
		return nil
	}
	// An eighth of a second: so short that others on the link do not feel it, so
	// long that a read is worth its cost.
	return &limiter{rate: float64(rate), burst: float64(min(max(rate/8, 1), maxBurst)), at: time.Now()}
}

// wait waits until something may be read, at most as long as ctx goes on, and
// returns how much of n bytes.
func (l *limiter) wait(ctx context.Context, n int) (int, error) {
	if l == nil {
		return n, nil
	}
	for {
		now := time.Now()
		l.level = min(l.burst, l.level+l.rate*now.Sub(l.at).Seconds())
		l.at = now
		if l.level >= 0 {
			return min(n, int(l.burst)), nil
		}
		// Rounded up: else the last wait would be one of 0, many times.
		t := time.NewTimer(time.Duration(-l.level/l.rate*float64(time.Second)) + time.Microsecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return 0, ctx.Err()
		}
	}
}

// took says that n bytes were read.
func (l *limiter) took(n int) {
	if l != nil {
		l.level -= float64(n)
	}
}
