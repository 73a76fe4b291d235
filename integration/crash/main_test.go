package crash

import (
	"context"
	"flag"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

var (
	flowFlag   = flag.String("crash.flow", "", "only these flows, with commas between them")
	pointFlag  = flag.Int("crash.point", 0, "only this point of -crash.flow, with its log")
	errnoFlag  = flag.String("crash.errno", "", "at the point the call fails with this, as EIO; empty: all is killed")
	onFlag     = flag.Bool("crash.on", false, "with -crash.errno: every later call fails, too")
	byFlag     = flag.String("crash.by", "", "after the kill, kill this, too: boot, or again for the same command")
	secondFlag = flag.Int("crash.second", 1, "with -crash.by: the point of the second kill")
	procsFlag  = flag.Int("crash.procs", 1, "GOMAXPROCS of the programs")
)

// nightly: all points, not a sample.
var nightly = tier.Nightly

var world struct {
	*flows.World
	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if world.World != nil {
		world.Close()
	}
	_ = os.RemoveAll(world.dir)
	os.Exit(code)
}

// theWorld is made once for the tests here.
func theWorld(t *testing.T) *flows.World {
	t.Helper()
	defer try.Fatal(t)
	if world.World != nil {
		return world.World
	}
	machine.Require(t, "supervisor", crashpoint.Missing())
	dir := try.Get(os.MkdirTemp("", "ota-world-"))
	world.dir = dir
	world.World = try.Get(flows.NewWorld(context.Background(), dir))
	return world.World
}

// newLab prepares flows, in memory: what is tested here is no disk.
func newLab(t *testing.T, all []*flows.Flow) *Lab {
	t.Helper()
	defer try.Fatal(t)
	machine.Require(t, "supervisor", crashpoint.Missing())
	dir := try.Get(os.MkdirTemp("/dev/shm", "ota-crash-"))
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w := try.Get(flows.NewWorld(t.Context(), dir))
	t.Cleanup(w.Close)
	l := NewLab(w, dir)
	if nightly {
		l.doubts = 10
	}
	inParallel(t, all, l.Prepare)
	return l
}

// inParallel calls f for each of all, perCore at once, until one fails.
func inParallel[T any](t *testing.T, all []T, f func(context.Context, T) error) {
	t.Helper()
	inParallelBy(t, perCore, all, f)
}

func inParallelBy[T any](t *testing.T, perCore int, all []T, f func(context.Context, T) error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(machine.Context(t))
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
	if err := context.Cause(ctx); err != nil {
		t.Fatal(err)
	}
}

// chosen are the flows that are asked for.
func chosen(t *testing.T) []*flows.Flow {
	t.Helper()
	if *flowFlag == "" {
		return slices.Concat(flows.All, flows.Odd)
	}
	var all []*flows.Flow
	for name := range strings.SplitSeq(*flowFlag, ",") {
		f := flows.Find(name)
		if f == nil {
			t.Fatalf("there is no flow %q", name)
		}
		all = append(all, f)
	}
	return all
}
