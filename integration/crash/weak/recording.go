package weak

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A Recording is one run of a flow.
type Recording struct {
	Flow *flows.Flow
	// Dir is the site's directory, Root its store, when it was recorded; the site is gone.
	Dir, Root string
	Before    *Node // of Dir
	Calls     []crashpoint.Call
	Said      *invariants.Said
	// Unlocked are calls that were made while the lock was free that their caller has
	// to hold, one of each kind.
	Unlocked []string
	// Problems are what invariants found after it.
	Problems []invariants.Problem
}

// Record runs the flow of s, which was prepared for it, with plan; nil: nothing interrupts it.
func Record(ctx context.Context, s *flows.Site, plan crashpoint.Plan) (_ *Recording, err error) {
	defer try.End(&err)
	f := s.Flow
	s.Forget()
	before := try.Get(ReadNode(s.Dir))
	r := &Recording{Flow: f, Dir: s.Dir, Root: s.Root, Before: before}
	decide := s.Plan(plan)
	said, run, err := s.Interrupt(ctx, s.Args(), 1, func(c *crashpoint.Call) crashpoint.Action {
		r.watch(c)
		if decide == nil {
			return crashpoint.Action{}
		}
		return decide(c)
	})
	if err != nil {
		return nil, fmt.Errorf("flow %s: %w", f.Name, err)
	}
	r.Calls, r.Said = run.Calls, said
	if plan == nil && said.Exit != f.Exit {
		return r, &ExitError{fmt.Sprintf("flow %s: exit %d, want %d: %s%s", f.Name, said.Exit, f.Exit, said.Stdout, said.Stderr)}
	}
	_, r.Problems = s.Check(said)
	return r, nil
}

// An ExitError is a flow that ended otherwise than it has to when nothing interrupts it.
type ExitError struct{ text string }

func (e *ExitError) Error() string { return e.text }

// watch looks whether the lock is held that c needs, by trying to get it: at this
// moment all threads are stopped, so a thread that must have it has it or never took it. Names of the
// store's directory that are made once for ever need none.
func (r *Recording) watch(c *crashpoint.Call) {
	if c.Name == "fsync" || c.Name == "syncfs" || c.Name == "open" && !c.File.Made {
		return
	}
	places := []crashpoint.Place{c.File, c.To}
	if c.Name == "link" {
		places = places[1:] // what it is a link of is not changed
	}
	for _, p := range places {
		rel, err := filepath.Rel(r.Root, p.Path)
		if err != nil || p.Path == "" || !filepath.IsLocal(rel) {
			continue
		}
		top, below, _ := strings.Cut(rel, "/")
		locks := []string{".lock"}
		switch {
		case rel == "." || strings.HasSuffix(top, "lock") || strings.HasSuffix(top, "lock.new"):
			continue
		case strings.Contains(top, ".clean-shutdown"):
			continue // a shutdown must not wait for a lock
		case below == "" && (c.Name == "mkdir" || c.Name == "symlink") && top != ".active":
			continue
		case strings.Contains(top, ".follow.json") || strings.Contains(below, "newest-channel-date"): // only the follower writes them, and there is one
			run, err := filepath.Rel(r.Root, r.run())
			if err == nil {
				locks = []string{filepath.Join(run, ".follow.lock")}
			}
		case strings.HasPrefix(top, ".staging") && !strings.HasPrefix(below, "repair") || top == ".spool" || strings.Contains(top, ".revoked.json"):
			locks = append(locks, ".install.lock") // either of them
		}
		if slices.ContainsFunc(locks, func(name string) bool { return held(filepath.Join(r.Root, name)) }) {
			continue
		}
		what := fmt.Sprintf("%s of %s without the lock", c.Name, r.kind(p.Path))
		if !slices.Contains(r.Unlocked, what) {
			r.Unlocked = append(r.Unlocked, what)
		}
	}
}

// held reports whether a process has the lock file name locked.
func held(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// Syncs are the kinds of syncs that a run makes: what of, by what it makes durable
// in the store, and the points of each.
func (r *Recording) Syncs() map[string][]int {
	kinds := make(map[string][]int)
	for i := range r.Calls {
		if c := &r.Calls[i]; c.Errno == 0 && (c.Name == "fsync" || c.Name == "syncfs") {
			kinds[r.Kind(c)] = append(kinds[r.Kind(c)], c.Point)
		}
	}
	return kinds
}

// Kind is the name of a call and what of, by what that is in the store.
func (r *Recording) Kind(c *crashpoint.Call) string { return c.Name + " " + r.kind(c.File.Path) }

// kind is a path of the store with numbers and names of versions left out.
func (r *Recording) kind(name string) string {
	// In any site: its store has a name of its own.
	if _, rel, ok := strings.Cut(name, "/"+filepath.Base(r.Root)+"/"); ok {
		return general.ReplaceAllString(rel, "N")
	}
	if rel, err := filepath.Rel(r.Root, name); err == nil {
		return general.ReplaceAllString(rel, "N")
	}
	return name
}

// Same finds in another run of the flow the call that the one at point was in r: the
// same of calls of one name on one kind of file. Where threads race, its own point is
// another one in each run. It is asked for each call, in their order, and is true once.
func (r *Recording) Same(point int) func(*crashpoint.Call) bool {
	wanted, nth := r.Kind(&r.Calls[point-1]), 0
	for i := range point {
		if r.Kind(&r.Calls[i]) == wanted {
			nth++
		}
	}
	return func(c *crashpoint.Call) bool {
		if r.Kind(c) != wanted {
			return false
		}
		nth--
		return nth == 0
	}
}
