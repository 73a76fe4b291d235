package fetch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// maxRestarts is how often a file that turned out to be the wrong one is
	// fetched again. Once repairs a bad partial file, twice a file that was
	// replaced while we fetched it; after that the server has no better one.
	maxRestarts = 2

	// maxRewinds is how often in a row a server that gives no ranges is asked for one
	// again: another node behind its address may give them.
	maxRewinds = 2

	// coldFailures is for a server that was never reached: about 5 s.
	coldFailures = 3

	// A try counts as progress if it brought this much, or 1 % of the file.
	// Less would let a server that breaks after each byte keep us for hours.
	progressBytes = 64 << 10
)

// classify finds the fault in err, counts it, and decides what it means after
// those before.
func (d *Download) classify(err error) *fault {
	var f *fault
	switch cause := context.Cause(d.ctx); {
	case d.ctx.Err() != nil && errors.As(cause, &f): // the deadline
	case d.ctx.Err() != nil:
		return faultf(final, "interrupted after %d%s bytes: %w", d.have, ofTotal(d.size), cause)
	case errors.As(err, &f):
	default:
		return d.spool.local(d.spool.part, err) // grab's other errors are those of the file
	}
	step := int64(progressBytes)
	if d.size > 0 {
		step = min(step, max(1, d.size/100))
	}
	if f.kind == transient && !f.slow && d.have >= d.best+step {
		d.best, d.failures, d.rewinds = d.have, 0, 0
	} else {
		d.failures++
	}
	kind := f.kind
	if kind == rewind && d.have > 0 && d.rewinds < maxRewinds {
		d.rewinds++
		kind = transient
	}
	if kind != final && d.failures >= d.mostFailures(f) || kind == mismatch && d.mismatches >= maxRestarts {
		kind = final
	}
	if kind == mismatch {
		d.mismatches++
	}
	g := *f // f may be shared: the deadline's is
	g.kind, g.drop = kind, f.drop || f.kind == mismatch
	return &g
}

// mostFailures is how many tries in a row may fail. Where nothing was ever heard of
// the server and nothing is here to lose, few are enough: the address is wrong, or
// the network is down, and the caller is told within seconds and can ask again.
func (d *Download) mostFailures(f *fault) int {
	switch {
	case d.have > 0 || d.stats.Fetched > 0:
	case d.opt.Whole:
		return min(d.tries, 2) // there is another way
	case unreached(f):
		return min(d.tries, coldFailures)
	}
	return d.tries
}

func ofTotal(size int64) string {
	if size < 0 {
		return ""
	}
	return fmt.Sprintf(" of %d", size)
}

// pause is how long to wait after f: doubling, a little random so that a
// thousand devices do not come back together, and as long as the server asked.
func (d *Download) pause(f *fault) time.Duration {
	if f.kind == rewind || f.expired && d.failures == 0 || d.size > 0 && d.have == d.size && f.kind == transient && d.doubt == nil && d.known {
		return 0 // the server is well: only the request changes, or nothing is left to ask for
	}
	p := d.backoff
	for i := 1; i < max(d.failures, d.mismatches) && p < d.maxPause; i++ {
		p *= 2
	}
	p += time.Duration(rand.Int64N(int64(p)/2 + 1))
	return min(max(p, f.after), d.maxPause)
}
