// Package follow lets a server say which version a device should run. It asks what
// should run, since when, and whether it may now; it installs by `ota-apply install` and
// `ota-apply activate`, as an operator does; and it tells the server what became of it,
// after the guardian decided and not before.
//
//	follow.go   the loop: deliver, ask, continue, wait
//	source.go   what the loop asks of a server; packages ddi and channel are two
//	job.go      one order of the server, from its first check to its end
//	inhibit.go  what on the device holds an order
//	program.go  ota-apply, as it is called
//	outcome.go  what became of a version, as the record says
//	state.go    what must survive a power cut
//	ddi/        Eclipse hawkBit's device API
//	channel/    a signed file on any web server
//
// An order moves in one direction. Each stage is on the disk before what it names begins:
//
//	judging ──► staging ──► staged ──► switching ──► a message: done or failed
//	   │           │           │           │
//	   └───────────┴───────────┘           └── a cancel is rejected
//	      a cancel is accepted
package follow

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// Bounds of the pause between two polls, which a server cannot exceed.
const (
	leastSleep   = 10 * time.Second
	mostSleep    = 24 * time.Hour
	defaultSleep = 5 * time.Minute  // hawkBit's default
	deniedPause  = 30 * time.Minute // after 401, 403 or 404, which an operator has to end; it doubles up to mostDenied
	mostDenied   = 4 * time.Hour
	firstBackoff = 30 * time.Second // after any other failure; it doubles up to mostBackoff
	mostBackoff  = time.Hour
	look         = 5 * time.Second // how often the end of a trial, or of an inhibitor, is looked for
	mostRounds   = 32              // answers in a row that each bring an order
)

var errEndless = errors.New("the server gives an order for each answer")

// Options are what a Follower is made of.
type Options struct {
	Source  Source
	Store   *bootcheck.Store
	Run     string   // the directory that a reboot empties
	Program []string // ota-apply, its name and its common flags
	Log     io.Writer
	Changed func() // is called after each change of bootcheck.Following
}

// A Follower follows one server.
type Follower struct {
	Options
	lockFree func()
	state    *State
	work
	denied   map[string]bool // orders whose confirmation was denied in this process
	over     map[task]bool   // what was closed since a poll that was due
	stale    bool            // a try failed since the last poll: perhaps because of its address
	contact  error           // of the last poll
	days     *int            // of the last answer, UnchangedDays
	logged   string          // the last failure that was logged
	failed   bool            // an action was closed as failed in this process
	switched bool            // an activation began in this process
	result   error           // of the last job that failed here, unless one succeeded after it
}

// A task is what tells two orders apart.
type task struct {
	kind   Kind
	action string // of a cancel, its own name
}

func (o *Order) task() task { return task{o.Kind, cmp.Or(o.Cancel, o.Action)} }

// work is what this process knows of state.Job.
type work struct {
	order   *Order // what the server said of it last; nil: nothing yet
	child   *child
	told    int       // progress messages
	shown   string    // the last of them
	retry   time.Time // not before
	percent int       // of the download, the most there was
	paid    int       // percent when an address expired last
	waits   string    // why it waits; empty: it does not
}

// New opens the follower's state and takes its lock, until Close. The error has ExitBusy
// while another process follows.
func New(o Options) (*Follower, error) {
	if err := os.MkdirAll(o.Run, 0o755); err != nil {
		return nil, err
	}
	unlock, err := bootcheck.LockFile(context.Background(), filepath.Join(o.Run, ".follow.lock"), time.Second)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, bootcheck.Errorf(bootcheck.ExitBusy, "", "busy: another process follows the server").
			WithAdvice("`systemctl status ota-follow.service` shows it; stop it to follow by hand")
	} else if err != nil {
		return nil, fmt.Errorf("cannot lock the follower: %w", err)
	}
	f := &Follower{Options: o, lockFree: unlock, denied: map[string]bool{}, over: map[task]bool{}}
	if f.state, err = load(o.Store, o.Source.Name()); f.state == nil {
		unlock()
		return nil, err
	} else if err != nil {
		f.logf("%v; what the server does not ask for again is forgotten", err)
	}
	return f, nil
}

// Close gives the lock back.
func (f *Follower) Close() { f.lockFree() }

func (f *Follower) logf(format string, args ...any) {
	fmt.Fprintf(f.Log, "ota-apply: %s\n", bootcheck.OneLine(fmt.Sprintf(format, args...)))
}

// Once asks once, does all that can be done now, and tells the server. The error is the
// server's, or of the version that it asked for: as `ota-apply install` would end.
func (f *Follower) Once(ctx context.Context) (err error) {
	defer func() {
		if err != nil && f.switched && err != f.result {
			err = bootcheck.Errorf(bootcheck.ExitUnknown, "", "a version was activated, and the server may not know: %w", err).
				WithAdvice("`ota-apply status` shows which; run the same command again")
		}
	}()
	defer f.show()
	for range mostRounds {
		if _, err := f.poll(ctx); err != nil {
			return err
		}
		before := f.state.saves
		if !f.failed {
			f.advance(ctx)
		}
		if f.child != nil {
			if err := f.finishChild(ctx); err != nil {
				return err
			}
		}
		if f.failed { // another action is for another call: one exit code cannot say both
			if err := f.deliver(ctx); err != nil {
				return err
			}
			if err := f.tell(ctx, false); err != nil {
				return err
			}
			return f.result
		}
		if f.state.saves == before && len(f.state.Outbox) == 0 {
			if job := f.state.Job; job != nil && f.result == nil {
				f.logf("version %s: %s, waits: %s", job.name(), job.Stage, f.waits)
			}
			return f.result
		}
	}
	return errEndless
}

// Follow asks until ctx ends. While the state cannot be written, nothing is asked and nothing
// begins.
func (f *Follower) Follow(ctx context.Context) {
	next := time.Now().Add(f.firstPause())
	unsent := len(f.state.Outbox) // that the last poll left
	for failures := 0; ; {
		alive()
		// A try that follows one that failed gets an address of now, unless the server is not well.
		again := f.stale && f.contact == nil && !time.Now().Before(f.retry)
		due := !time.Now().Before(next)
		if due {
			clear(f.over)
		}
		if again || due || len(f.state.Outbox) > unsent {
			answer, err := f.poll(ctx)
			if failures++; err == nil {
				failures = 0
			}
			next, unsent = time.Now().Add(pause(answer, failures, err)), len(f.state.Outbox)
		}
		f.advance(ctx)
		f.show()
		wait := min(time.Until(next), watchEvery)
		if len(f.state.Outbox) > unsent {
			wait = 0
		}
		if f.state.Job != nil {
			wait = min(wait, look)
		}
		var news <-chan said
		if f.child != nil {
			news = f.child.news
		}
		select {
		case <-ctx.Done():
			if f.child != nil {
				f.child.leave()
			}
			return
		case n, more := <-news:
			f.hear(ctx, n, more)
		case <-time.After(wait):
		}
	}
}

// firstPause spreads the first polls of devices that get their power back together. A
// service that was only restarted does not wait.
func (f *Follower) firstPause() time.Duration {
	if _, err := os.Stat(filepath.Join(f.Run, bootcheck.FollowingFile)); err == nil || f.state.Job != nil {
		return 0
	}
	return rand.N(defaultSleep)
}

// pause is how long after a poll the next one is. answer is that of a poll that succeeded.
func pause(answer *Answer, failures int, err error) time.Duration {
	jitter := func(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5+1) }
	switch {
	case err == nil && answer.Exact:
		return answer.Sleep
	case err == nil && answer.Sleep <= 0:
		return jitter(defaultSleep)
	case err == nil:
		return jitter(min(max(answer.Sleep, leastSleep), mostSleep))
	}
	first, most := firstBackoff, mostBackoff
	if errors.Is(err, ErrDenied) {
		first, most = deniedPause, mostDenied
	}
	wait := jitter(min(first<<min(failures-1, 10), most))
	if e, ok := errors.AsType[*StatusError](err); ok {
		wait = max(wait, min(e.After, mostSleep))
	}
	return wait
}

// poll delivers what is not delivered, then asks, until there is nothing new. Work that
// continues is not waited for.
func (f *Follower) poll(ctx context.Context) (answer *Answer, err error) {
	defer func() {
		f.contact = err
		if err != nil && ctx.Err() == nil && err.Error() != f.logged {
			f.logged = err.Error()
			f.logf("%v", err)
		} else if err == nil {
			f.logged = ""
		}
	}()
	if f.state.failed != nil {
		if err := f.state.save(); err != nil {
			return nil, err
		}
	}
	f.stale = false
	for range mostRounds {
		alive()
		if err := f.deliver(ctx); err != nil {
			return nil, err
		}
		answer, err := f.Source.Ask(ctx, f.state.Memory)
		if err != nil {
			return nil, err
		}
		f.days = answer.UnchangedDays
		if answer.Memory != nil && !bytes.Equal(answer.Memory, f.state.Memory) {
			f.state.Memory = answer.Memory
			if err := f.state.save(); err != nil {
				return nil, err
			}
		}
		f.takeIn(answer.Orders)
		if err := f.tell(ctx, answer.Attributes); err != nil {
			return nil, err
		}
		if len(f.state.Outbox) == 0 {
			return answer, f.state.failed
		}
	}
	return nil, errEndless
}

// deliver sends what waits, oldest first. What the server does not take, ever, is
// dropped; of anything else the rest waits for the next time.
func (f *Follower) deliver(ctx context.Context) error {
	for len(f.state.Outbox) > 0 {
		m := &f.state.Outbox[0]
		switch err := f.Source.Tell(ctx, m); {
		case errors.Is(err, ErrUnwanted):
			f.logf("the server does not take the end of action %s: %v", m.Action, err)
		case err != nil:
			return err
		}
		f.state.Outbox = slices.Delete(f.state.Outbox, 0, 1)
		f.state.save()
	}
	return f.state.failed
}

// tell sends the attributes of the device when they changed, or when the server asks.
func (f *Follower) tell(ctx context.Context, asked bool) error {
	a, installed := f.attributes()
	text, _ := json.Marshal([]any{a, installed}) // its keys are sorted
	sum := bootcheck.Digest(text)
	if !asked && sum == f.state.Told {
		return nil
	}
	if err := f.Source.Attributes(ctx, a, installed); err != nil && !errors.Is(err, ErrUnwanted) {
		return err
	}
	if f.state.Told != sum {
		f.state.Told = sum
		f.state.save()
	}
	return nil
}

// takeIn compares orders with the job.
func (f *Follower) takeIn(orders []Order) {
	for i := range orders {
		switch o := &orders[i]; {
		case o.Kind == KindConfirm && f.denied[o.Action]:
		case f.over[o.task()]: // a server may offer for a moment still what was closed
		case o.Kind == KindCancel:
			f.takeCancel(o)
		default:
			f.takeOrder(o)
		}
	}
	// The server has forgotten the order, or another one replaced it.
	if job := f.state.Job; job != nil && job.Stage != Switching && !slices.ContainsFunc(orders, job.isOf) {
		f.logf("the server no longer asks for version %s", job.name())
		f.abandon()
	}
}

// show keeps what the follower does in the run directory, for status.
func (f *Follower) show() {
	now := bootcheck.Following{Server: f.Source.Name(), Undelivered: len(f.state.Outbox), UnchangedDays: f.days}
	if f.contact != nil {
		now.Error = bootcheck.OrNull(bootcheck.OneLine(f.contact.Error()))
	}
	if job := f.state.Job; job != nil {
		now.Action, now.Version, now.Stage, now.Waits, now.Since = job.Action, job.name(), string(job.Stage), bootcheck.OrNull(f.waits), job.Since
	}
	switch changed, err := now.Keep(f.Run); {
	case err != nil:
		f.logf("cannot tell status what the follower does: %v", err)
	case changed:
		f.Changed()
	}
}
