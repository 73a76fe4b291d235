package crash

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/flows"
)

// Kills is what the first kill of f, a command of tried, leaves that leaves what must not be;
// empty: none does.
func (l *Lab) Kills(ctx context.Context, f *flows.Flow, tried *flows.World) (found string, err error) {
	return l.first(ctx, point{flow: f, tried: tried, procs: 1})
}

// Errors is Kills of calls that fail: each once, as the disk does, and it and all later
// ones, as on a full one. syncs: only those after which most can be said wrongly, each sync
// once, and each removal with all after it: one that fails once is made again, by another call.
func (l *Lab) Errors(ctx context.Context, f *flows.Flow, tried *flows.World, syncs bool) (found string, err error) {
	one := point{flow: f, tried: tried, errno: unix.EIO, procs: 1}
	on, once, removals := one, []string(nil), []string(nil)
	on.errno, on.on = unix.ENOSPC, true
	if syncs {
		on.errno, once, removals = unix.EIO, []string{"fsync", "syncfs"}, []string{"unlink"}
	}
	if found, err = l.first(ctx, one, once...); found == "" && err == nil {
		found, err = l.first(ctx, on, removals...)
	}
	return found, err
}

// found is what was looked for.
type found string

func (f found) Error() string { return string(f) }

// first makes each point that is like p, some at once, until one is bad: of the calls
// with these names; none: all.
func (l *Lab) first(ctx context.Context, p point, names ...string) (string, error) {
	calls, _, err := l.measure(ctx, p)
	if err != nil {
		return "", err
	}
	var work []point
	for _, c := range calls {
		if p.n = c.Point; len(names) == 0 || slices.Contains(names, c.Name) {
			work = append(work, p)
		}
	}
	err = each(ctx, perCore, work, func(ctx context.Context, p point) error {
		o, err := l.try(ctx, p)
		if err == nil && len(o.problems) > 0 {
			err = found(fmt.Sprintf("%v %s: %v", p, o.call, o.problems[0]))
		}
		return err
	})
	if f, ok := errors.AsType[found](err); ok {
		return string(f), nil
	}
	return "", err
}
