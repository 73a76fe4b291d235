package crash

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// A point is one moment at which one run of a flow is interrupted.
type point struct {
	flow  *flows.Flow
	tried *flows.World // whose program is interrupted; nil: that of the lab
	read  bool         // the calls are those that look at the disk
	n     int          // just before this call
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
}

// plan is what interrupts the flow there.
func (p point) plan() crashpoint.Plan {
	switch {
	case p.errno == 0:
		return crashpoint.Kill(p.n)
	case p.on:
		return crashpoint.FailFrom(p.n, p.errno)
	}
	return crashpoint.Fail(p.n, p.errno)
}

func (p point) String() string {
	s := fmt.Sprintf("flow=%s point=%d", p.flow.Name, p.n)
	if p.read {
		s += " read"
	}
	if p.errno != 0 {
		s += fmt.Sprintf(" errno=%s on=%v", unix.ErrnoName(p.errno), p.on)
	}
	if p.by != "" {
		s += fmt.Sprintf(" by=%s second=%d", p.by, p.second)
	}
	return s + fmt.Sprintf(" procs=%d", p.procs)
}

// flags are those that make this point once more.
func (p point) flags() string {
	s := fmt.Sprintf("-crash.flow %s -crash.point %d -crash.procs %d", p.flow.Name, p.n, p.procs)
	if p.read {
		s += " -crash.read"
	}
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

// hangs adds that a command did not end, if that is err. Any other ends the caller, as
// try.Check does.
func (o *outcome) hangs(err error, of string) {
	if err == flows.ErrHangs {
		o.problems = append(o.problems, invariants.Stuck.Of("%s%v", of, err))
		return
	}
	try.Check(err)
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
	return fmt.Sprintf("%v call=%s phase=%s current=%s result=%s", o.point, o.call, phase, current, invariants.Result(o.problems))
}

// story is the outcome with all that an operator needs to see why.
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
