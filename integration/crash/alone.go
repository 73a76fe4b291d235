package crash

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/flows"
)

// Kills is what the first kill of f leaves that leaves what must not be; empty: none does.
func (l *Lab) Kills(ctx context.Context, f *flows.Flow) (found string, err error) {
	return l.first(ctx, f, point{procs: 1})
}

// Errors is Kills of calls that fail: each once, as the disk does, and it and all later
// ones, as on a full one. syncs: only those after which most can be said wrongly, each sync
// once, and each removal with all after it: one that fails once is made again, by another call.
func (l *Lab) Errors(ctx context.Context, f *flows.Flow, syncs bool) (found string, err error) {
	on, once, removals := point{errno: unix.ENOSPC, on: true, procs: 1}, []string(nil), []string(nil)
	if syncs {
		on.errno, once, removals = unix.EIO, []string{"fsync", "syncfs"}, []string{"unlink"}
	}
	if found, err = l.first(ctx, f, point{errno: unix.EIO, procs: 1}, once...); found == "" && err == nil {
		found, err = l.first(ctx, f, on, removals...)
	}
	return found, err
}

// first makes each point of f that is like p, some at once, until one is bad: of the calls
// with these names; none: all.
func (l *Lab) first(ctx context.Context, f *flows.Flow, p point, names ...string) (found string, err error) {
	calls, _, err := l.measure(ctx, f)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan int)
	for range perCore {
		wg.Go(func() {
			for n := range work {
				p := p
				p.flow, p.n = f, n
				o, e := l.try(ctx, p)
				mu.Lock()
				switch {
				case found != "" || err != nil: // another one was before
				case e != nil:
					err = e
				case len(o.problems) > 0:
					found = fmt.Sprintf("%v %s: %v", p, o.call, o.problems[0])
				}
				if found != "" || err != nil {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	for _, c := range calls {
		if ctx.Err() == nil && (len(names) == 0 || slices.Contains(names, c.Name)) {
			work <- c.Point
		}
	}
	close(work)
	wg.Wait()
	return found, err
}
