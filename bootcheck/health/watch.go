package health

import (
	"context"
	"sync"
	"time"
)

// A Watch is a trial: the required checks must become good within Deadline and
// stay good, all together, for Stable.
//
// A required check that is not good begins the time of Stable anew. At the
// deadline the version has failed if a required check is not good; if all are,
// the rest of Stable is waited for and the first that is not good ends it. So a
// verdict comes at the latest after Deadline + Stable and the longest Timeout.
// Without any required check a version is good after Stable: it has run for that
// long without taking the device with it.
//
// All times are of the monotonic clock.
type Watch struct {
	Checks   []Check
	Stable   time.Duration
	Deadline time.Duration // counted from Run

	// Baseline is which checks were good under the old version, by name. A
	// required check that is false here cannot condemn the new one; one that is
	// not here can.
	Baseline map[string]bool

	// OnChange is called when a check is known for the first time, becomes good,
	// or becomes bad; never at the same time twice. nil: nobody wants to know.
	OnChange func(Result)
}

// A Verdict is how a Watch ended.
type Verdict struct {
	Good    bool
	Failing Result        // what condemned the version; zero when Good
	Results []Result      // the last of each check, in order
	Took    time.Duration // until the verdict
}

// Run watches until there is a verdict. It ends early, without waiting for the
// deadline, when a required check says that waiting will not help. No check runs
// any more when it returns. The error says that there is no verdict: it is that of
// ctx, or ErrUnanswered of a check that could condemn.
func (w Watch) Run(ctx context.Context) (Verdict, error) {
	start := time.Now()
	running, stop := context.WithCancel(ctx)
	reports := make(chan report)
	var wg sync.WaitGroup
	// In this order: nobody is left who would send to reports.
	defer wg.Wait()
	defer stop()

	j := judge{watch: w, start: start, seen: make([]sight, len(w.Checks))}
	for i, c := range w.Checks {
		j.seen[i].last = Result{Check: c.Name, Required: w.condemns(c), Why: "no answer yet"}
		wg.Go(func() { w.observe(running, i, c, reports) })
	}

	deadline := time.NewTimer(w.Deadline)
	defer deadline.Stop()
	// Where no check is required, there may be no report to judge after.
	quiet := time.NewTimer(w.Stable)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return Verdict{}, ctx.Err()
		case r := <-reports:
			if err := r.result.Unanswered; err != nil && w.condemns(w.Checks[r.check]) {
				return Verdict{}, err
			}
			j.note(r)
		case <-deadline.C:
			j.late = true
		case <-quiet.C:
		}
		// A check that ended with ctx tells nothing.
		if err := ctx.Err(); err != nil {
			return Verdict{}, err
		}
		if v, ok := j.verdict(); ok {
			return v, nil
		}
	}
}

// condemns reports whether c can condemn the version.
func (w Watch) condemns(c Check) bool {
	good, known := w.Baseline[c.Name]
	return c.Required && (good || !known)
}

// interval is the time between the end of one run and the next: a second, less
// where Stable is so short that a second would miss it (in tests).
func (w Watch) interval() time.Duration {
	return max(min(time.Second, w.Stable/10), 10*time.Millisecond)
}

// A report is the Result of one run of one check.
type report struct {
	check  int
	ended  time.Time
	result Result
}

// observe runs one check again and again until ctx ends. Each check has its own
// pace, so that one that hangs does not hide what the others see.
func (w Watch) observe(ctx context.Context, i int, c Check, reports chan<- report) {
	pause := w.interval()
	if c.every > pause {
		// A script is slower, but not so slow that Stable passes between two runs.
		pause = max(pause, min(c.every, w.Stable/4))
	}
	for {
		r := c.once(ctx)
		select {
		case <-ctx.Done():
			return
		case reports <- report{i, time.Now(), r}:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// A judge gathers reports.
type judge struct {
	watch Watch
	start time.Time
	late  bool // the deadline has passed
	seen  []sight
}

// A sight is what is known of one check.
type sight struct {
	known       bool
	last        Result
	since, till time.Time // the time in which it was good without a gap; zero while it is not
}

func (j *judge) note(r report) {
	s := &j.seen[r.check]
	was := *s
	condemns := j.watch.condemns(j.watch.Checks[r.check])
	if condemns && !r.result.Required && was.known && was.last.Required {
		// It could not be run now, which tells nothing: what was seen last counts.
		if was.last.OK {
			s.till = r.ended
		}
		return
	}
	r.result.Required = r.result.Required && condemns
	s.known, s.last = true, r.result
	switch {
	case !r.result.OK:
		s.since, s.till = time.Time{}, time.Time{}
	case r.result.Up > 0:
		s.since, s.till = r.ended.Add(-r.result.Up), r.ended
	case was.since.IsZero():
		s.since, s.till = r.ended, r.ended
	default:
		s.till = r.ended
	}
	if j.watch.OnChange != nil && (!was.known || was.last.OK != r.result.OK) {
		j.watch.OnChange(r.result)
	}
}

// verdict looks for one in what is known now.
func (j *judge) verdict() (Verdict, bool) {
	v := Verdict{Took: time.Since(j.start)}
	// All required checks were good from when the last of them became good until
	// that which was looked at longest ago was looked at.
	since, till := j.start, time.Now()
	for _, s := range j.seen {
		v.Results = append(v.Results, s.last)
		if !s.last.Required || !s.last.OK {
			continue
		}
		if s.since.After(since) {
			since = s.since
		}
		if s.till.Before(till) {
			till = s.till
		}
	}
	for _, r := range v.Results {
		if r.Required && r.Final {
			v.Failing = r
			return v, true
		}
	}
	if r, bad := Failing(v.Results); bad {
		v.Failing = r
		return v, j.late
	}
	if j.late {
		// Good at every look, but not in between.
		for _, s := range j.seen {
			if s.last.Required && s.since.Sub(j.start) > j.watch.Deadline {
				v.Failing = s.last
				v.Failing.OK, v.Failing.Why = false, "was interrupted after the deadline"
				return v, true
			}
		}
	}
	v.Good = till.Sub(since) >= j.watch.Stable
	return v, v.Good
}
