package health

import (
	"context"
	"errors"
	"time"
)

// An Order is one run of a check that asks an address or runs a program, in words
// that another process understands: the judge of a version needs neither the
// network nor the rights that programs of others need. One of HTTP and Script is
// set.
type Order struct {
	HTTP    string        `json:"http,omitempty"`
	Script  string        `json:"script,omitempty"`
	Version string        `json:"version"` // that should be running
	Timeout time.Duration `json:"timeout"` // nanoseconds
}

// An Answer is what doing an Order found.
type Answer struct {
	Error     string `json:"error,omitempty"` // empty: it is good
	Late      bool   `json:"late,omitempty"`  // its time was up
	CannotRun bool   `json:"cannot_run,omitempty"`
	Note      string `json:"note,omitempty"`
	Output    string `json:"output,omitempty"` // at most 4 KiB
}

// Do does o and returns when it is done, its time is up or ctx ended.
func (o Order) Do(ctx context.Context) Answer {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	f := o.run()(ctx)
	a := Answer{Note: f.note, Output: f.output}
	if f.err != nil {
		// Bounded, like all that an Answer holds: what a version says is in it.
		a.Error = oneLine(f.err.Error())
		a.Late = errors.Is(f.err, context.DeadlineExceeded)
		a.CannotRun = errors.Is(f.err, errCannotRun)
	}
	return a
}

func (o Order) run() func(context.Context) finding {
	if o.HTTP != "" {
		return address(o.HTTP, o.Version)
	}
	return script(o.Script, o.Version)
}

// orderGrace is how much longer than the check's own time the answer of another
// process may take. It kills a script that is late, and sends what that printed.
const orderGrace = 3 * time.Second

// order makes c, whose Timeout is set, a check that does o.
func (env Env) order(c *Check, o Order) {
	o.Version, o.Timeout = env.Version, c.Timeout
	if env.Elsewhere == nil {
		c.run = o.run()
		return
	}
	c.grace = orderGrace
	c.run = func(ctx context.Context) finding {
		a, err := env.Elsewhere(ctx, o)
		f := finding{err: err, note: a.Note, output: a.Output}
		switch {
		case err != nil || a.Error == "":
		case a.Late:
			f.err = context.DeadlineExceeded
		case a.CannotRun:
			f.err = cannotRun(a.Error)
		default:
			f.err = errors.New(a.Error)
		}
		return f
	}
}

// cannotRun is the text of an error that is errCannotRun.
type cannotRun string

func (e cannotRun) Error() string        { return string(e) }
func (e cannotRun) Is(target error) bool { return target == errCannotRun }
