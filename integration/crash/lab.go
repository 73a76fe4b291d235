package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A Lab is where points are made: each on a copy of a site that was prepared once.
type Lab struct {
	world  *flows.World
	doubts int // see aftermath

	sites    onceEach[*flows.Site]
	readings onceEach[*reading]

	mu   sync.Mutex
	seen map[string][]invariants.Problem // see aftermath
}

// NewLab makes one for the programs of w, in its directory.
func NewLab(w *flows.World) *Lab {
	return &Lab{world: w, seen: make(map[string][]invariants.Problem)}
}

// onceEach makes something of each flow, once.
type onceEach[T any] struct{ made sync.Map }

func (o *onceEach[T]) of(f *flows.Flow, make func() (T, error)) (T, error) {
	once, _ := o.made.LoadOrStore(f, sync.OnceValues(make))
	return once.(func() (T, error))()
}

// next names the copies of sites.
var next atomic.Int64

// Site is a copy of what f starts from. Its caller removes it.
func (l *Lab) Site(ctx context.Context, f *flows.Flow) (*flows.Site, error) {
	site, err := l.sites.of(f, func() (*flows.Site, error) {
		return l.world.Build(ctx, f, filepath.Join(l.world.Dir, "sites", f.Name), "")
	})
	if err != nil {
		return nil, err
	}
	return site.Clone(filepath.Join(l.world.Dir, "sites", fmt.Sprint(next.Add(1))))
}

// perCore is how many points are made at once on each core: what was interrupted often
// waits, for a lock or before it tries a server again. What a read failed to nearly
// always does, as it tries again.
const (
	perCore      = 3
	readsPerCore = 12
)

// each calls f for each of all, perCore at once, until one fails.
func each[T any](ctx context.Context, perCore int, all []T, f func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var wg sync.WaitGroup
	for range perCore * runtime.NumCPU() {
		wg.Go(func() {
			for v := range work {
				if ctx.Err() != nil {
					continue
				}
				if err := f(ctx, v); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, v := range all {
		work <- v
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}

// run runs the command of the flow of p on site under plan.
func (l *Lab) run(ctx context.Context, site *flows.Site, p point, plan crashpoint.Plan) (*invariants.Said, *crashpoint.Run, error) {
	if p.tried != nil {
		site = site.In(p.tried)
	}
	if !p.read {
		return site.Interrupt(ctx, site.Args(), p.procs, site.Plan(plan))
	}
	return site.RunBy(ctx, site.Args(), p.procs, func(ctx context.Context, cmd *exec.Cmd) (*crashpoint.Run, error) {
		return crashpoint.StartReads(ctx, cmd, l.world.Dir, programs, plan)
	})
}

// measure is the calls that points like p are made of when nothing interrupts their flow, and
// where they were made.
func (l *Lab) measure(ctx context.Context, p point) (calls []crashpoint.Call, dir string, err error) {
	if p.read {
		r, err := l.reading(ctx, p.flow)
		if err != nil {
			return nil, "", err
		}
		return r.calls, r.site, nil
	}
	site, err := l.Site(ctx, p.flow)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = site.Remove() }()
	calls, err = l.whole(ctx, site, p)
	return calls, site.Dir, err
}

// whole runs the flow of p on site, with nothing that interrupts it.
func (l *Lab) whole(ctx context.Context, site *flows.Site, p point) ([]crashpoint.Call, error) {
	said, r, err := l.run(ctx, site, p, nil)
	if err != nil {
		return nil, fmt.Errorf("flow %s: %w", p.flow.Name, err)
	}
	if said.Exit != p.flow.Exit {
		return nil, fmt.Errorf("flow %s: exit %d, want %d: %s", p.flow.Name, said.Exit, p.flow.Exit, said.Stderr)
	}
	return r.Calls, nil
}

// try makes a point and checks what it left. The error says that nothing was found
// out.
func (l *Lab) try(ctx context.Context, p point) (_ *outcome, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%v: %w", p, err)
		}
	}()
	defer try.End(&err)
	site := try.Get(l.Site(ctx, p.flow))
	defer func() { _ = site.Remove() }()
	o := &outcome{point: p, site: site.Dir}
	said, r, err := l.run(ctx, site, p, p.plan())
	o.hangs(err, "")
	o.said, o.log, o.next = said, r.Calls, r.Next
	switch {
	case r.Killed:
		o.reached, o.call = true, r.Next.Name
	case p.n <= len(r.Calls):
		o.reached, o.call = true, r.Calls[p.n-1].Name
	default:
		return o, nil
	}
	found, problems := site.Check(said)
	o.state = found.State
	if p.read {
		try.Check(l.checkRead(ctx, o, site, problems))
		return o, nil
	}
	o.problems = append(o.problems, problems...)
	o.problems = append(o.problems, unsaid(site, said, r)...)
	// After an error both are tried, a reboot and none.
	reboot := p.errno == 0 || p.n%2 == 0
	if p.by != "" {
		o.reached = try.Get(l.second(ctx, site, o))
	}
	try.Check(ctx.Err())
	o.problems = append(o.problems, try.Get(l.aftermath(ctx, site, reboot))...)
	return o, nil
}

// aftermath is site.Aftermath; or what came of the same disk before, if it was the same:
// a third of all calls, as an fsync, change nothing, and most errors end in the same
// state. One of those in doubts is made all the same, and must agree; 0: none.
func (l *Lab) aftermath(ctx context.Context, site *flows.Site, reboot bool) (_ []invariants.Problem, err error) {
	defer try.End(&err)
	key := try.Get(imprint(site, reboot))
	key += site.Flow.Name
	l.mu.Lock()
	before, known := l.seen[key]
	l.mu.Unlock()
	if known && (l.doubts == 0 || rand.N(l.doubts) > 0) {
		return before, nil
	}
	problems := try.Get(site.Aftermath(ctx, reboot))
	if known && invariants.Result(before) != invariants.Result(problems) {
		return nil, fmt.Errorf("the same disk came to %v before, and to %v now", before, problems)
	}
	l.mu.Lock()
	l.seen[key] = problems
	l.mu.Unlock()
	return problems, nil
}

// imprint is all that a site holds, but for the times of files: names, modes,
// owners, content and which names are one file. reboot: it loses what a reboot does.
func imprint(s *flows.Site, reboot bool) (string, error) {
	names := make(map[uint64]int)
	return invariants.Hash(s.Dir, func(rel string, info os.FileInfo, st *syscall.Stat_t) (string, error) {
		switch {
		case rel == "run" && reboot:
			return "", filepath.SkipDir
		case rel == "ota.toml" || rel == "check":
			return "", nil // they name the site
		}
		if names[st.Ino] == 0 {
			names[st.Ino] = len(names) + 1
		}
		return fmt.Sprintf("%v %d:%d %d", info.Mode(), st.Uid, st.Gid, names[st.Ino]), nil
	})
}

// recover runs under plan what the device does after the kill of p, on what that left; nil: it
// does nothing.
func (l *Lab) recover(ctx context.Context, site *flows.Site, p point, plan crashpoint.Plan) (_ *crashpoint.Run, err error) {
	args := site.Args()
	if p.by == "boot" {
		if p.flow.Before.Current == "" && site.Look().Generation == 0 {
			return nil, nil // a boot of a device without a version is none of the guardian's
		}
		args = []string{"ota-guardian", "boot", "--boot-id", "second", "--last-boot", "unclean"}
		if err := site.Reboot(); err != nil {
			return nil, err
		}
	}
	// What was sick is what was left, if it was: a version after it that fails in the
	// same way is another story, and ends on hold.
	if err := site.MakeHealthy(); err != nil {
		return nil, err
	}
	_, r, err := site.Interrupt(ctx, args, p.procs, plan)
	return r, err
}

// second kills the recovery, too.
func (l *Lab) second(ctx context.Context, site *flows.Site, o *outcome) (reached bool, err error) {
	defer try.End(&err)
	r, err := l.recover(ctx, site, o.point, crashpoint.Kill(o.second))
	o.hangs(err, "the recovery: ")
	if r == nil {
		return false, nil
	}
	// Nothing was said that counts: what remains is what the disk is.
	_, torn := site.Check(nil)
	o.problems = append(o.problems, torn...)
	return r.Killed, nil
}

// length is how many calls the recovery makes after a kill at p.
func (l *Lab) length(ctx context.Context, p point) (_ int, err error) {
	defer try.End(&err)
	site := try.Get(l.Site(ctx, p.flow))
	defer func() { _ = site.Remove() }()
	_, r, err := l.run(ctx, site, p, p.plan())
	try.Check(err)
	if !r.Killed {
		return 0, nil
	}
	if r = try.Get(l.recover(ctx, site, p, nil)); r == nil {
		return 0, nil
	}
	return len(r.Calls), nil
}
