package crash

import (
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// cut is a site whose flow was killed between the rename of its root that makes last and
// what makes that durable.
type cut struct {
	*flows.Site
	t *testing.T
}

func cutAfter(t *testing.T, flow, last string) *cut {
	t.Helper()
	c := &cut{try.Get(theLab(t).Site(t.Context(), flows.Find(flow))), t}
	t.Cleanup(func() { _ = c.Remove() })
	renamed := false
	if _, r := c.run(c.Args(), func(call *crashpoint.Call) crashpoint.Action {
		renamed = renamed || call.Name == "rename" && call.To.Path == filepath.Join(c.Root, last)
		return crashpoint.Action{Kill: renamed && c.makesDurable(call)}
	}); !r.Killed {
		t.Fatalf("%s was not killed where it should be", flow)
	}
	return c
}

func (c *cut) run(args []string, plan crashpoint.Plan) (*invariants.Said, *crashpoint.Run) {
	c.t.Helper()
	said, r, err := c.Interrupt(c.t.Context(), args, 1, plan)
	try.Check(err)
	return said, r
}

// makesDurable reports whether call does it to the store.
func (c *cut) makesDurable(call *crashpoint.Call) bool {
	return call.Name == "syncfs" || call.Name == "fsync" && call.File.Path == c.Root
}

// again runs a command that finds all of it done: what it says must hold after a power
// cut all the same. What cannot be made durable is no success.
func (c *cut) again(args []string) {
	c.t.Helper()
	said, _ := c.run(args, func(call *crashpoint.Call) crashpoint.Action {
		if c.makesDurable(call) {
			return crashpoint.Action{Errno: unix.EIO}
		}
		return crashpoint.Action{}
	})
	if said.Success() || said.Exit != 10 {
		c.t.Errorf("%v with a disk that fails: %+v; want exit 10, unknown", args, said)
	}
	said, r := c.run(args, nil)
	if !said.Success() || said.Exit != 0 {
		c.t.Fatalf("%v: %+v, want success", args, said)
	}
	if !slices.ContainsFunc(r.Calls, func(call crashpoint.Call) bool { return c.makesDurable(&call) && call.Errno == 0 }) {
		c.t.Errorf("%v says %q, and nothing has made durable what it is about", args, said.Stdout)
	}
}

// An install that finds its version confirmed says success of a switch that another
// process made.
func TestSuccessOfAnothersSwitchIsDurable(t *testing.T) {
	defer try.Fatal(t)
	c := cutAfter(t, "confirm", ".active")
	c.again(flows.Find("install-beside-factory").Args(c.Site))
}

// An adoption that finds all of it done says so of what another one did.
func TestAdoptionThatIsToldIsDurable(t *testing.T) {
	defer try.Fatal(t)
	c := cutAfter(t, "adopt", "factory")
	if found := c.Look(); found.State != c.Flow.After {
		t.Fatalf("killed at its end: %v, want %v", found.State, c.Flow.After)
	}
	c.again(c.Args())
}

// The guardian tells device-api of a rollback that another run of it made.
func TestRollbackThatIsToldIsDurable(t *testing.T) {
	defer try.Fatal(t)
	c := cutAfter(t, "fallback-health", ".active")
	try.Check(c.MakeHealthy())
	var fsyncs, atReport atomic.Int32
	atReport.Store(-1)
	c.OnReport(func(stage string) {
		if stage == "failed" {
			atReport.CompareAndSwap(-1, fsyncs.Load())
		}
	})
	c.run(c.Args(), func(call *crashpoint.Call) crashpoint.Action {
		if c.makesDurable(call) {
			fsyncs.Add(1)
		}
		return crashpoint.Action{}
	})
	if n := atReport.Load(); n < 1 {
		t.Errorf("when the rollback was told, the store had been made durable %d times, want 1 (-1: it was not told)", n)
	}
}
