package crash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
)

// A point is one moment at which one run of a flow is interrupted.
type point struct {
	flow *flows.Flow
	n    int // just before this call
	// errno is what the call fails with, and, with on, every later one; 0: all is
	// killed.
	errno unix.Errno
	on    bool
	// by is what a device does after the kill, which is killed at its call second:
	// "boot", or "again" for the same command; empty: it is not.
	by     string
	second int
	// procs is GOMAXPROCS of the programs. With 1 a point is nearly always the same
	// call; with more, threads race for the order.
	procs int
	seed  uint64 // of the sample that it is from
}

func (p point) String() string {
	s := fmt.Sprintf("flow=%s point=%d", p.flow.Name, p.n)
	if p.errno != 0 {
		s += fmt.Sprintf(" errno=%s on=%v", unix.ErrnoName(p.errno), p.on)
	}
	if p.by != "" {
		s += fmt.Sprintf(" by=%s second=%d", p.by, p.second)
	}
	return s + fmt.Sprintf(" procs=%d seed=%d", p.procs, p.seed)
}

// flags are those that make this point once more.
func (p point) flags() string {
	s := fmt.Sprintf("-crash.flow %s -crash.point %d -crash.procs %d", p.flow.Name, p.n, p.procs)
	if p.errno != 0 {
		s += " -crash.errno " + unix.ErrnoName(p.errno)
	}
	if p.on {
		s += " -crash.on"
	}
	if p.by != "" {
		s += fmt.Sprintf(" -crash.by %s -crash.second %d", p.by, p.second)
	}
	return s
}

// An outcome is what came of a point.
type outcome struct {
	point
	reached  bool // the run had that many calls
	call     string
	state    invariants.State
	said     *invariants.Said
	problems []invariants.Problem
	log      []crashpoint.Call
	next     *crashpoint.Call // that was not made
	site     string
}

func (o *outcome) String() string {
	current := o.state.Current
	if current == "" {
		current = "-"
	}
	phase := o.state.Phase
	if phase == "" {
		phase = "-"
	}
	return fmt.Sprintf("%v call=%s phase=%s current=%s verdict=%s", o.point, o.call, phase, current, invariants.Verdict(o.problems))
}

// story is the outcome with all that a person needs to see why.
func (o *outcome) story() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", o)
	for _, p := range o.problems {
		fmt.Fprintf(&b, "  %v\n", p)
	}
	fmt.Fprintf(&b, "  once more: go test ./integration/crash -run TestPoint -v %s\n", o.flags())
	if o.said != nil {
		fmt.Fprintf(&b, "  exit %d, stages %v, operation %q\n  stdout: %s\n  stderr: %s\n", o.said.Exit, o.said.Stages, o.said.Operation,
			strings.TrimSpace(o.said.Stdout), strings.TrimSpace(o.said.Stderr))
	}
	first := max(0, o.n-12)
	for i := range o.log {
		if i >= first && i < o.n+25 {
			fmt.Fprintf(&b, "  %3d %s\n", o.log[i].Point, o.describe(&o.log[i]))
		}
	}
	if o.next != nil {
		fmt.Fprintf(&b, "  %3d %s: not made\n", o.next.Point, o.describe(o.next))
	}
	return b.String()
}

// describe is a call with paths in the site.
func (o *outcome) describe(c *crashpoint.Call) string {
	s := c.Name + " " + inSite(o.site, c.File.Path)
	if c.To.Path != "" {
		s += " to " + inSite(o.site, c.To.Path)
	}
	switch c.Name {
	case "write", "copy", "clone":
		s += fmt.Sprintf(" %d+%d", c.Offset, c.Length)
	case "symlink":
		s += " -> " + c.Target
	}
	if c.Errno != 0 {
		s += ": " + c.Errno.Error()
	}
	if c.Injected {
		s += " (injected)"
	}
	return s
}

func inSite(site, path string) string {
	if rel, ok := strings.CutPrefix(path, site+"/"); ok {
		return rel
	}
	return path
}

// A lab is where points are made: each on a copy of a site that was prepared once.
type lab struct {
	world *flows.World
	dir   string
	bench map[*flows.Flow]*bench
	sites atomic.Int64

	mu   sync.Mutex
	seen map[string][]invariants.Problem // see aftermath
}

// A bench is a flow that is prepared.
type bench struct {
	site *flows.Site
	kept map[string]string
}

// prepare makes what the flow starts from.
func (l *lab) prepare(ctx context.Context, f *flows.Flow) (*bench, error) {
	site, err := l.world.Build(ctx, f, filepath.Join(l.dir, "sites", f.Name), "")
	if err != nil {
		return nil, err
	}
	kept, err := f.KeptOf(site)
	return &bench{site: site, kept: kept}, err
}

// copyOf is a copy of a site, which its caller removes.
func (l *lab) copyOf(s *flows.Site) (*flows.Site, error) {
	return s.Clone(filepath.Join(l.dir, "sites", fmt.Sprint(l.sites.Add(1))))
}

// patience is how long one command may take, on a machine that has other work, too.
const patience = 2 * time.Minute

// errHangs is that of a command that did not end.
var errHangs = errors.New("it does not end")

// run runs a command of a site under plan.
func run(ctx context.Context, s *flows.Site, args []string, procs int, plan crashpoint.Plan) (*invariants.Said, *crashpoint.Run, error) {
	argv := s.Command(args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(s.Env(), fmt.Sprint("GOMAXPROCS=", procs))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	s.Forget()
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errHangs)
	defer cancel()
	r, err := crashpoint.Start(ctx, cmd, plan)
	if errors.Is(err, errHangs) {
		return s.Heard(-1, stdout.String(), stderr.String()), r, errHangs
	}
	if err != nil {
		return nil, nil, err
	}
	exit := r.State.ExitCode()
	if !r.Killed && exit < 0 {
		return nil, nil, fmt.Errorf("%v ended with %v, and nobody killed it: %s", args, r.State, &stderr)
	}
	return s.Heard(exit, stdout.String(), stderr.String()), r, nil
}

// try makes a point and judges what it left. The error says that nothing was found
// out.
func (l *lab) try(ctx context.Context, p point) (*outcome, error) {
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
	said, r, err := run(ctx, site, p.flow.Args(site), p.procs, p.flow.Plan(site, plan))
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
	found, problems := c.Judge()
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
// state. Nightly, one of those in ten is made all the same, and must agree.
func (l *lab) aftermath(ctx context.Context, c *flows.Case, reboot bool) ([]invariants.Problem, error) {
	key, err := imprint(c.Site, reboot)
	if err != nil {
		return nil, err
	}
	key += c.Flow.Name
	l.mu.Lock()
	before, known := l.seen[key]
	l.mu.Unlock()
	if known && (!nightly || rand.N(10) > 0) {
		return before, nil
	}
	problems, err := c.Aftermath(ctx, reboot)
	if err != nil {
		return nil, err
	}
	if known && invariants.Verdict(before) != invariants.Verdict(problems) {
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
	err := filepath.WalkDir(s.Dir, func(name string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.Dir, name)
		if err != nil {
			return err
		}
		if rel == "run" && reboot {
			return filepath.SkipDir
		}
		if rel == "ota.toml" || rel == "check" {
			return nil // they name the site
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
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
func (l *lab) second(ctx context.Context, c *flows.Case, p point) (problems []invariants.Problem, reached bool, err error) {
	args := recovery(c, p.by)
	if args == nil {
		return nil, false, nil
	}
	if p.by == "boot" {
		if err := c.Site.Reboot(); err != nil {
			return nil, false, err
		}
	}
	// What was sick is what was left, if it was: a version after it that fails in the
	// same way is another story, and ends on hold.
	if err := c.Site.Cure(); err != nil {
		return nil, false, err
	}
	_, r, err := run(ctx, c.Site, args, p.procs, crashpoint.Kill(p.second))
	if err != nil && err != errHangs {
		return nil, false, err
	}
	if err == errHangs {
		problems = append(problems, invariants.Problem{Kind: invariants.Stuck, Text: fmt.Sprintf("the recovery does not end within %v", patience)})
	}
	// Nothing was said that counts: what remains is what the disk is.
	c.Said = nil
	_, torn := c.Judge()
	return append(problems, torn...), r.Killed, nil
}

// length is how many calls the recovery makes after a kill at p.
func (l *lab) length(ctx context.Context, p point) (int, error) {
	b := l.bench[p.flow]
	site, err := l.copyOf(b.site)
	if err != nil {
		return 0, err
	}
	defer func() { _ = site.Remove() }()
	_, r, err := run(ctx, site, p.flow.Args(site), p.procs, p.flow.Plan(site, crashpoint.Kill(p.n)))
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
	if err := site.Cure(); err != nil {
		return 0, err
	}
	_, r, err = run(ctx, site, args, p.procs, nil)
	if err != nil {
		return 0, err
	}
	return len(r.Calls), nil
}
