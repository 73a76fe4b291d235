// Package health says whether the current version is good.
//
//	checks.go   THE list of what is checked: add a check there
//	unit.go     a unit runs
//	ask.go      an address answers, a program agrees: another process does these
//	watch.go    the trial: good for long enough, soon enough
//	report.go   all of them once, for an operator
//
// A check is *required* or *wanted*. A required one can roll back a version: the
// device goes back to the one before. A wanted one is reported and can never
// roll back: the network, a server, the time of day are not the version's fault.
// Nor is what was failing already under the old version (Baseline).
package health

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// A Check is one thing that is true of a healthy device.
type Check struct {
	Name     string        // one line, and no other check has it
	Required bool          // may roll back a version
	Timeout  time.Duration // for one run; what takes longer is not good
	optional bool          // counts only if something listens at its address, see Result.NotSetUp
	every    time.Duration // least time between two runs of a Watch; 0: as often as it likes
	run      func(context.Context) finding
}

// NewCheck makes a Check of a function: good if it returns nil, which it must do
// soon after its context ended.
func NewCheck(name string, required bool, timeout time.Duration, f func(context.Context) error) Check {
	return Check{Name: name, Required: required, Timeout: timeout, run: limited(timeout, func(ctx context.Context) finding {
		return finding{err: f(ctx)}
	})}
}

// limited is f with a time limit.
func limited(limit time.Duration, f func(context.Context) finding) func(context.Context) finding {
	return func(ctx context.Context) finding {
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		found := f(bounded)
		if errors.Is(found.err, context.DeadlineExceeded) && ctx.Err() == nil {
			found.err = fmt.Errorf("no answer within %s", limit)
		}
		return found
	}
}

// A Result is how one run of a Check ended.
type Result struct {
	Check    string
	Required bool // of the check; false also if it could not be run, and with NotSetUp
	OK       bool
	Final    bool          // not OK, and waiting will not help
	Why      string        // one line: why it is not OK, or, where that is worth knowing, what was seen
	Output   string        // when not OK: what an address answered (the first 4 KiB) or a script printed (the last)
	Took     time.Duration // of this run

	// NotSetUp: nothing listens at the address that is checked where the configuration
	// names none. The application has no such address, and the other checks decide.
	NotSetUp bool

	// Unanswered is why no process ran the check, an ErrUnanswered; nil: one did.
	Unanswered error

	// Up is how long it has been OK by the unit's own record, without a gap even
	// between two runs; 0: only the runs tell.
	Up time.Duration
}

// finding is what a kind of check reports; Check.once makes a Result of it.
type finding struct {
	err    error
	note   string // for Why when err is nil
	output string // at most MaxOutput bytes
	final  bool
	up     time.Duration

	refused bool // nothing listens at the address
}

// errCannotRun says that a check tells nothing, because of the check and not of
// the version.
var errCannotRun = errors.New("cannot run the check")

// MaxOutput is how much of a check's output is kept, in bytes: the record of a
// rollback holds it, and that is written to flash.
const MaxOutput = 4 << 10

// once runs c.
func (c Check) once(ctx context.Context) Result {
	start := time.Now()
	f := c.run(ctx)
	r := Result{
		Check:    c.Name,
		Required: c.Required,
		OK:       f.err == nil,
		Why:      f.note,
		Took:     time.Since(start),
	}
	if f.err == nil {
		r.Up = f.up
		return r
	}
	r.Final, r.Output = f.final, bootcheck.Printable(f.output)
	if errors.Is(f.err, ErrUnanswered) {
		r.Required, r.Unanswered = false, f.err
	} else if errors.Is(f.err, errCannotRun) {
		r.Required = false
	}
	r.Why = bootcheck.Line(f.err)
	if f.refused && c.optional {
		r.NotSetUp, r.Required = true, false
		r.Why = "not set up: " + r.Why + "; the other checks decide"
	}
	return r
}

// Run runs every check once, all at the same time, and returns the results in
// the order of checks. It takes as long as the longest Timeout at most, and less
// when ctx ends; what was not through then is not OK.
func Run(ctx context.Context, checks []Check) []Result {
	results := make([]Result, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = c.once(ctx) })
	}
	wg.Wait()
	return results
}

// Failing returns the first result that canRollBack: of a required check, and not
// OK.
func Failing(results []Result) (r Result, found bool) {
	for _, r := range results {
		if r.Required && !r.OK {
			return r, true
		}
	}
	return Result{}, false
}

// Deciding runs those of checks once that count only if something listens at their
// address. It returns the names of the required checks that decide about a version, and
// the results of those that do not, as they are not set up.
func Deciding(ctx context.Context, checks []Check) (names []string, notSetUp []Result) {
	for _, c := range checks {
		if c.optional {
			if r := c.once(ctx); r.NotSetUp {
				notSetUp = append(notSetUp, r)
				continue
			}
		}
		if c.Required {
			names = append(names, c.Name)
		}
	}
	return names, notSetUp
}

// Unanswered returns why a check was not run, nil if all were.
func Unanswered(results []Result) error {
	for _, r := range results {
		if r.Unanswered != nil {
			return r.Unanswered
		}
	}
	return nil
}

// Baseline is what the record keeps of a Run before a switch: which checks were
// good under the old version; those that were not set up are not in it. Watch takes it.
func Baseline(results []Result) map[string]bool {
	m := make(map[string]bool, len(results))
	for _, r := range results {
		if !r.NotSetUp {
			m[r.Check] = r.OK
		}
	}
	return m
}
