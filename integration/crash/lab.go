package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A Lab is where points are made: each on a copy of a site that was prepared once.
type Lab struct {
	world *flows.World
	// tried is world, or one whose programs are others for the commands that are
	// interrupted, but not for what is before and after them.
	tried  *flows.World
	dir    string
	doubts int

	mu    sync.Mutex
	bench map[*flows.Flow]*bench
	seen  map[string][]invariants.Problem // see aftermath
}

// NewLab makes one for the programs of w, in dir.
func NewLab(w *flows.World, dir string) *Lab {
	return &Lab{world: w, tried: w, dir: dir, bench: make(map[*flows.Flow]*bench), seen: make(map[string][]invariants.Problem)}
}

// Of is l for other programs, made by Rebuild.
func (l *Lab) Of(w *flows.World) *Lab {
	other := NewLab(l.world, l.dir)
	other.tried = w
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.Copy(other.bench, l.bench)
	return other
}

// A bench is a flow that is prepared.
type bench struct {
	site *flows.Site
	kept map[string]string
}

// Prepare makes what the flow starts from.
func (l *Lab) Prepare(ctx context.Context, f *flows.Flow) error {
	site, err := l.world.Build(ctx, f, filepath.Join(l.dir, "sites", f.Name), "")
	if err != nil {
		return err
	}
	kept, err := f.KeptOf(site)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bench[f] = &bench{site: site, kept: kept}
	return err
}

// next names the copies of sites.
var next atomic.Int64

// copyOf is a copy of a site, which its caller removes.
func (l *Lab) copyOf(s *flows.Site) (*flows.Site, error) {
	return s.Clone(filepath.Join(l.dir, "sites", fmt.Sprint(next.Add(1))))
}

// perCore is how many points are made at once on each core: what was interrupted often
// waits, for a lock or before it tries a server again. What a read failed to nearly
// always does, as it tries again.
const (
	perCore      = 3
	readsPerCore = 12
)

// patience is how long one command may take, on a machine that has other work, too. A
// download that finds no way gives up after 2.5 minutes.
const patience = 5 * time.Minute

// errHangs is that of a command that did not end.
var errHangs = errors.New("it does not end")

// run runs a command of a site under plan.
func run(ctx context.Context, s *flows.Site, args []string, procs int, plan crashpoint.Plan) (*invariants.Said, *crashpoint.Run, error) {
	return runWith(ctx, s, args, procs, func(ctx context.Context, cmd *exec.Cmd) (*crashpoint.Run, error) {
		return crashpoint.Start(ctx, cmd, plan)
	})
}

func runWith(ctx context.Context, s *flows.Site, args []string, procs int, start func(context.Context, *exec.Cmd) (*crashpoint.Run, error)) (*invariants.Said, *crashpoint.Run, error) {
	argv := s.Command(args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(s.Env(), fmt.Sprint("GOMAXPROCS=", procs))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	s.Forget()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errHangs)
	defer cancel()
	r, err := start(ctx, cmd)
	if errors.Is(err, errHangs) {
		return s.Heard(-1, stdout.String(), stderr.String()), r, errHangs
	}
	if err != nil {
		return nil, nil, err
	}
	exit := r.State.ExitCode()
	if !r.Killed && exit < 0 {
		return nil, nil, fmt.Errorf("%v ended with %v, and was not killed: %s", args, r.State, &stderr)
	}
	return s.Heard(exit, stdout.String(), stderr.String()), r, nil
}

// measure is the calls of f when nothing interrupts it, and where they were made.
func (l *Lab) measure(ctx context.Context, f *flows.Flow) (calls []crashpoint.Call, dir string, err error) {
	site, err := l.copyOf(l.bench[f].site)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = site.Remove() }()
	said, r, err := run(ctx, site.In(l.tried), f.Args(site), 1, f.Plan(site, nil))
	if err != nil {
		return nil, "", fmt.Errorf("flow %s: %w", f.Name, err)
	}
	if said.Exit != f.Exit {
		return nil, "", fmt.Errorf("flow %s: exit %d, want %d: %s", f.Name, said.Exit, f.Exit, said.Stderr)
	}
	return r.Calls, site.Dir, nil
}

// try makes a point and checks what it left. The error says that nothing was found
// out.
func (l *Lab) try(ctx context.Context, p point) (*outcome, error) {
	b := l.bench[p.flow]
	site, err := l.copyOf(b.site)
	if err != nil {
		return nil, err
	}
	defer func() { _ = site.Remove() }()
	plan := crashpoint.Kill(p.n)
	switch {
	case p.errno != 0 && p.on:
		plan = crashpoint.FailFrom(p.n, p.errno)
	case p.errno != 0:
		plan = crashpoint.Fail(p.n, p.errno)
	}
	o := &outcome{point: p, site: site.Dir}
	c := &flows.Case{Flow: p.flow, Site: site, Kept: b.kept}
	said, r, err := run(ctx, site.In(l.tried), p.flow.Args(site), p.procs, p.flow.Plan(site, plan))
	if err != nil && err != errHangs {
		return nil, fmt.Errorf("%v: %w", p, err)
	}
	c.Said, o.said, o.log, o.next = said, said, r.Calls, r.Next
	switch {
	case r.Killed:
		o.reached, o.call = true, r.Next.Name
	case p.n <= len(r.Calls):
		o.reached, o.call = true, r.Calls[p.n-1].Name
	default:
		return o, nil
	}
	if err == errHangs {
		o.problems = append(o.problems, invariants.Problem{Kind: invariants.Stuck, Text: fmt.Sprintf("it does not end within %v", patience)})
	}
	found, problems := c.Check()
	o.state = found.State
	o.problems = append(o.problems, problems...)
	o.problems = append(o.problems, unsaid(c, r)...)
	// After an error both are tried, a reboot and none.
	reboot := p.errno == 0 || p.n%2 == 0
	if p.by != "" {
		again, reached, err := l.second(ctx, c, p)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", p, err)
		}
		o.problems = append(o.problems, again...)
		o.reached = reached
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	problems, err = l.aftermath(ctx, c, reboot)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", p, err)
	}
	o.problems = append(o.problems, problems...)
	return o, nil
}

// aftermath is c.Aftermath; or what came of the same disk before, if it was the same:
// a third of all calls, as an fsync, change nothing, and most errors end in the same
// state. One of those in doubts is made all the same, and must agree; 0: none.
func (l *Lab) aftermath(ctx context.Context, c *flows.Case, reboot bool) (_ []invariants.Problem, err error) {
	defer try.End(&err)
	key := try.Get(imprint(c.Site, reboot))
	key += c.Flow.Name
	l.mu.Lock()
	before, known := l.seen[key]
	l.mu.Unlock()
	if known && (l.doubts == 0 || rand.N(l.doubts) > 0) {
		return before, nil
	}
	problems := try.Get(c.Aftermath(ctx, reboot))
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
	sum := sha256.New()
	names := make(map[uint64]int)
	err := filepath.WalkDir(s.Dir, func(name string, d os.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		rel := try.Get(filepath.Rel(s.Dir, name))
		if rel == "run" && reboot {
			return filepath.SkipDir
		}
		if rel == "ota.toml" || rel == "check" {
			return nil // they name the site
		}
		var st unix.Stat_t
		try.Check(unix.Lstat(name, &st))
		if names[st.Ino] == 0 {
			names[st.Ino] = len(names) + 1
		}
		fmt.Fprintf(sum, "%q %o %d:%d %d\n", rel, st.Mode, st.Uid, st.Gid, names[st.Ino])
		switch {
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(name)
			fmt.Fprintf(sum, "%q\n", target)
			return err
		case d.Type().IsRegular():
			data, err := os.ReadFile(name)
			fmt.Fprintf(sum, "%d\n", len(data))
			sum.Write(data)
			return err
		}
		return nil
	})
	return string(sum.Sum(nil)), err
}

// recovery is what the device does after a kill, by name; nil: nothing.
func recovery(c *flows.Case, by string) []string {
	if by == "again" {
		return c.Flow.Args(c.Site)
	}
	if c.Flow.Before.Current == "" && c.Flow.Look(c.Site).Generation == 0 {
		return nil // a boot of a device without a version is none of the guardian's
	}
	return []string{"ota-guardian", "boot", "--boot-id", "second", "--last-boot", "unclean"}
}

// second kills the recovery, too.
func (l *Lab) second(ctx context.Context, c *flows.Case, p point) (problems []invariants.Problem, reached bool, err error) {
	defer try.End(&err)
	args := recovery(c, p.by)
	if args == nil {
		return nil, false, nil
	}
	if p.by == "boot" {
		try.Check(c.Site.Reboot())
	}
	// What was sick is what was left, if it was: a version after it that fails in the
	// same way is another story, and ends on hold.
	try.Check(c.Site.MakeHealthy())
	_, r, err := run(ctx, c.Site, args, p.procs, crashpoint.Kill(p.second))
	if err != nil && err != errHangs {
		return nil, false, err
	}
	if err == errHangs {
		problems = append(problems, invariants.Problem{Kind: invariants.Stuck, Text: fmt.Sprintf("the recovery does not end within %v", patience)})
	}
	// Nothing was said that counts: what remains is what the disk is.
	c.Said = nil
	_, torn := c.Check()
	return append(problems, torn...), r.Killed, nil
}

// length is how many calls the recovery makes after a kill at p.
func (l *Lab) length(ctx context.Context, p point) (int, error) {
	b := l.bench[p.flow]
	site, err := l.copyOf(b.site)
	if err != nil {
		return 0, err
	}
	defer func() { _ = site.Remove() }()
	_, r, err := run(ctx, site.In(l.tried), p.flow.Args(site), p.procs, p.flow.Plan(site, crashpoint.Kill(p.n)))
	if err != nil {
		return 0, err
	}
	c := &flows.Case{Flow: p.flow, Site: site}
	args := recovery(c, p.by)
	if !r.Killed || args == nil {
		return 0, nil
	}
	if p.by == "boot" {
		if err := site.Reboot(); err != nil {
			return 0, err
		}
	}
	if err := site.MakeHealthy(); err != nil {
		return 0, err
	}
	_, r, err = run(ctx, site, args, p.procs, nil)
	if err != nil {
		return 0, err
	}
	return len(r.Calls), nil
}
