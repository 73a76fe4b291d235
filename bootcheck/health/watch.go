package health

import (
	"context"
	"sync"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// A Watch is a trial: the required checks must become good within Deadline and
// stay good, all together, for Stable.
//
// A required check that is not good begins the time of Stable again. At the
// deadline the version has failed if a required check is not good; if all are,
// the rest of Stable is waited for and the first that is not good ends it. So a
// trial ends at the latest after Deadline + Stable and the longest Timeout.
// Without any required check a version is good after Stable: it has run for that
// long without taking the device with it.
//
// All times are of the monotonic clock.
type Watch struct {
	Checks   []Check
	Stable   time.Duration
	Deadline time.Duration // counted from Run

	// Baseline is which checks were good under the old version, by name. A
	// required check that is false here cannot roll back the new one; one that is
	// not here can.
	Baseline map[string]bool

	// OnChange is called when a check is known for the first time, becomes good,
	// or becomes bad; never at the same time twice. nil: not called.
	OnChange func(Result)

	// OnState is called after each run of a check, never at the same time twice. nil:
	// the state is not shown.
	OnState func(State)
}

// A State is how far a Watch has come.
type State struct {
	Healthy time.Duration // how long all required checks have been good together
	// Last is of the first required check that is bad, or else of the one that became
	// good last; zero: no check is required.
	Last Result
}

// An Outcome is how a Watch ended.
type Outcome struct {
	Good    bool
	Failing Result        // what rolled back the version; zero when Good
	Results []Result      // the last of each check, in order
	Took    time.Duration // until the end
}

// Run watches until the version is good or has failed. It ends early, without waiting
// for the deadline, when a required check says that waiting will not help. No check runs
// any more when it returns. The error says that there is no Outcome: it is that of
// ctx, or ErrUnanswered of a check that could roll back.
func (w Watch) Run(ctx context.Context) (Outcome, error) {
	start := time.Now()
	running, stop := context.WithCancel(ctx)
	reports := make(chan report)
	var wg sync.WaitGroup
	// In this order: no goroutine is left that would send to reports.
	defer wg.Wait()
	defer stop()

	t := tally{watch: w, start: start, seen: make([]sight, len(w.Checks))}
	for i, c := range w.Checks {
		t.seen[i].last = Result{Check: c.Name, Required: w.canRollBack(c), Why: bootcheck.NoAnswerYet}
		wg.Go(func() { w.observe(running, i, c, reports) })
	}

	deadline := time.NewTimer(w.Deadline)
	defer deadline.Stop()
	// Where no check is required, there may be no report to decide after.
	quiet := time.NewTimer(w.Stable)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		case r := <-reports:
			if err := r.result.Unanswered; err != nil && w.canRollBack(w.Checks[r.check]) {
				return Outcome{}, err
			}
			t.note(r)
		case <-deadline.C:
			t.late = true
		case <-quiet.C:
		}
		// A check that ended with ctx tells nothing.
		if err := ctx.Err(); err != nil {
			return Outcome{}, err
		}
		o, state, ok := t.outcome()
		if ok {
			return o, nil
		}
		if w.OnState != nil {
			w.OnState(state)
		}
	}
}

// canRollBack reports whether c can roll back the version.
func (w Watch) canRollBack(c Check) bool {
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

// observe runs one check repeatedly until ctx ends. Each check has its own
// pace, so that one that hangs does not hide what the others see.
func (w Watch) observe(ctx context.Context, i int, c Check, reports chan<- report) {
	pause := w.interval()
	if c.every > pause {
		// A script is slower, but not so slow that Stable passes between two runs.
		pause = max(pause, min(c.every, w.Stable/4))
	}
	if w.Baseline[c.Name] {
		c.optional = false // something listened under the old version
	}
	for {
		r := c.once(ctx)
		if r.Required {
			c.optional = false // something listened, and has to from now on
		}
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

// A tally gathers reports.
type tally struct {
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

func (t *tally) note(r report) {
	s := &t.seen[r.check]
	was := *s
	canRollBack := t.watch.canRollBack(t.watch.Checks[r.check])
	if canRollBack && !r.result.Required && was.known && was.last.Required {
		// It could not be run now, which tells nothing: what was seen last counts.
		if was.last.OK {
			s.till = r.ended
		}
		return
	}
	r.result.Required = r.result.Required && canRollBack
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
	if t.watch.OnChange != nil && (!was.known || was.last.OK != r.result.OK) {
		t.watch.OnChange(r.result)
	}
}

// outcome is that of what is known now; ok is false while the trial continues.
func (t *tally) outcome() (o Outcome, state State, ok bool) {
	o.Took = time.Since(t.start)
	// All required checks were good from when the last of them became good until
	// that which was looked at longest ago was looked at.
	since, till := t.start, time.Now()
	for _, s := range t.seen {
		o.Results = append(o.Results, s.last)
		if !s.last.Required || !s.last.OK {
			continue
		}
		if state.Last.Check == "" || s.since.After(since) {
			state.Last = s.last
		}
		if s.since.After(since) {
			since = s.since
		}
		if s.till.Before(till) {
			till = s.till
		}
	}
	for _, r := range o.Results {
		if r.Required && r.Final {
			o.Failing = r
			return o, state, true
		}
	}
	if r, bad := Failing(o.Results); bad {
		o.Failing = r
		return o, State{Last: r}, t.late
	}
	if t.late {
		// Good at every look, but not in between.
		for _, s := range t.seen {
			if s.last.Required && s.since.Sub(t.start) > t.watch.Deadline {
				o.Failing = s.last
				o.Failing.OK, o.Failing.Why = false, "was interrupted after the deadline"
				return o, state, true
			}
		}
	}
	state.Healthy = max(0, till.Sub(since))
	o.Good = state.Healthy >= t.watch.Stable
	return o, state, o.Good
}
