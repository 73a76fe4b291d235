package blocks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// The marks of a flow: from where on states count, when it told its caller that it is
// done, and when it ended.
const (
	markBegin   = "begin"
	markSuccess = "success"
	markEnd     = "end"
)

// A Run is a flow that was recorded.
type Run struct {
	*Recording
	Site  *flows.Site
	Said  *invariants.Said // when it ended
	Mount string           // where the disk is mounted, whenever it is
}

// RecordFlow prepares f on a new file system and records it. dir is made, for the
// site and the mount point. The command of f is one of the programs of tried, a world
// made of w by Rebuild; or w.
func RecordFlow(ctx context.Context, w, tried *flows.World, f *flows.Flow, fs string, size int64, dir string) (_ *Run, err error) {
	defer try.End(&err)
	r := &Run{Mount: filepath.Join(dir, "disk")}
	try.Check(os.MkdirAll(r.Mount, 0o755))
	root := filepath.Join(r.Mount, "versions")
	base := try.Get(Prepare(ctx, fs, size, r.Mount, func() (err error) {
		r.Site, err = w.Build(ctx, f, filepath.Join(dir, "site"), root)
		return err
	}))
	r.Recording, err = Record(ctx, fs, size, base, r.Mount, func(mark func(string) error) (err error) {
		defer try.End(&err)
		try.Check(mark(markBegin))
		// A report is noted before it is answered. One that comes when the program has
		// ended, which does not wait for ever, is not.
		var mu sync.Mutex
		var told error
		ended := false
		r.Site.OnReport(func(stage string) {
			mu.Lock()
			defer mu.Unlock()
			if stage == "success" && !ended {
				told = errors.Join(told, mark(markSuccess))
			}
		})
		defer r.Site.OnReport(nil)
		said, err := r.Site.In(tried).Run(ctx, r.Site.Args())
		mu.Lock()
		defer mu.Unlock()
		ended = true
		try.Check(err)
		if said.Exit != f.Exit {
			return fmt.Errorf("flow %s: exit %d, want %d: %s%s", f.Name, said.Exit, f.Exit, said.Stdout, said.Stderr)
		}
		r.Said = said
		return errors.Join(told, mark(markEnd))
	})
	return r, err
}

// Close gives the memory back.
func (r *Run) Close() { _ = r.Base.Close() }

// said is what the caller had heard when the power went after point entries.
func (r *Run) said(point int) *invariants.Said {
	if point >= r.Recording.Mark(markEnd) {
		return r.Said
	}
	said := &invariants.Said{Killed: true}
	if success := r.Recording.Mark(markSuccess); success > 0 && point >= success {
		said.Stages = []string{"success"}
	}
	return said
}

// Kinds are what states are counted as: all; of these, those in which all that was written
// arrived, and those in which a write arrived in part; those of the latter that the file
// system could not mount, which is its own fault, and the others; those that a device
// continued from; and what came of those that were mounted.
var Kinds = []string{"states", "prefixes", "with torn writes", "not mounted", "unmountable", "aftermaths", "ok", "torn", "lie", "stuck"}

// A Finding is a state that must not be.
type Finding struct {
	State
	Set       string
	Found     *invariants.Found
	Problems  []invariants.Problem
	Aftermath bool  // it is about what came after
	Err       error // the file system could not be mounted
}

// Line is the finding as one line, enough to find it again.
func (f *Finding) Line(r *Run) string {
	result, state := invariants.Result(f.Problems), ""
	if f.Err != nil {
		result = "unmounted"
	}
	if f.Found != nil {
		state = f.Found.State.String() + " "
	}
	return fmt.Sprintf("fs=%s flow=%s point=%d seed=%d %sverdict=%s (entry %d of %d; begin %d, success %d, end %d; has %s)",
		r.FS, r.Site.Flow.Name, f.Point, f.Seed, state, result, f.Point, len(r.Entries),
		r.Recording.Mark(markBegin), r.Recording.Mark(markSuccess), r.Recording.Mark(markEnd), f.Set)
}

// Points are the moments at which the power may go: after the flow began.
func (r *Run) Points() int { return len(r.Entries) - r.Recording.Mark(markBegin) + 1 }

// Plan chooses up to n different states of the run: up to n/2 prefixes, those beside
// flushes and marks first, and parts of what was not flushed. seed decides.
func (r *Run) Plan(n int, seed uint64) []State {
	rng := rand.New(rand.NewPCG(seed, 0))
	begin, end := r.Recording.Mark(markBegin), len(r.Entries)
	var borders, others []State
	for point := begin; point <= end; point++ {
		s := State{Point: point}
		border := point == begin || point == end || r.Entries[point-1].Flags&(Flush|FUA|Mark) != 0 ||
			r.Entries[point].Flags&(Flush|FUA|Mark) != 0
		if border {
			borders = append(borders, s)
		} else {
			others = append(others, s)
		}
	}
	rng.Shuffle(len(borders), func(i, j int) { borders[i], borders[j] = borders[j], borders[i] })
	rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })

	// A state is no other one than one that has the same writes and after which the
	// same was said.
	var plan []State
	seen := make(map[string]bool)
	add := func(s State) {
		said := r.said(s.Point)
		key := fmt.Sprintf("%v %v %s", said.Killed, said.Stages, r.Set(s).content(r.Recording))
		if !seen[key] {
			seen[key] = true
			plan = append(plan, s)
		}
	}
	for _, s := range slices.Concat(borders, others) {
		if len(plan) < (n+1)/2 {
			add(s)
		}
	}
	for tries := 0; len(plan) < n && tries < 20*n; tries++ {
		add(State{Point: begin + rng.IntN(end-begin+1), Seed: 1 + rng.Uint64N(1<<32)})
	}
	sort.Slice(plan, func(i, j int) bool { return plan[i].Point < plan[j].Point })
	return plan
}

// Check makes each of states, checks it, and lets one of aftermath of them (0: none)
// continue. found is called for each state that must not be, and says whether to continue.
// tally counts the Kinds; nil: none does.
func (r *Run) Check(ctx context.Context, states []State, aftermath int, tally *tier.Tally, found func(*Finding) bool) error {
	replay, err := NewReplay(r.Recording)
	if err != nil {
		return err
	}
	defer replay.Close()
	count := func(kind string) { tally.Add(r.Site.Flow.Name, kind) }
	for i, s := range states {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		set := r.Set(s)
		f := &Finding{State: s, Set: set.String()}
		err := replay.Mount(set, r.Mount, func() error {
			f.Found, f.Problems = r.Site.Check(r.said(s.Point))
			if len(f.Problems) > 0 || aftermath == 0 || i%aftermath != 0 {
				return nil
			}
			count("aftermaths")
			f.Aftermath = true
			var err error
			f.Problems, err = r.Site.Aftermath(ctx, true)
			return err
		})
		count("states")
		if s.Seed == 0 {
			count("prefixes")
		}
		if set.Torn {
			count("with torn writes")
		}
		var unmounted *errMount
		switch {
		case errors.As(err, &unmounted) && set.Torn:
			// A disk that tears writes is not for this file system.
			count("not mounted")
			continue
		case errors.As(err, &unmounted):
			f.Err = err
			count("unmountable")
		case err != nil:
			return fmt.Errorf("%s: %w", f.Line(r), err)
		default:
			count(invariants.Result(f.Problems))
			if len(f.Problems) == 0 {
				continue
			}
		}
		if !found(f) {
			return nil
		}
	}
	return nil
}
