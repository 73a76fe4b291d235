// Package crash is the tests that interrupt real programs: at every call that
// changes a file system, in every way.
//
// Without anything said, the part for CI runs: every kill of the flows that every device
// goes through, every sync that fails, and a sample of the rest.
// OTA_TESTS=nightly runs all. What a device does afterwards is tried once for each
// state of its disk. One point, as a line of the log names it, is made once more, with its log, by
//
//	go test ./integration/crash -run TestPoint -v -crash.flow NAME -crash.point N [-crash.errno EIO [-crash.on]]
package crash

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/machine/machinetest"
)

var (
	flowFlag   = flag.String("crash.flow", "", "only these flows, with commas between them")
	pointFlag  = flag.Int("crash.point", 0, "only this point of -crash.flow, with its log")
	errnoFlag  = flag.String("crash.errno", "", "at the point the call fails with this, as EIO; empty: all is killed")
	onFlag     = flag.Bool("crash.on", false, "with -crash.errno: every later call fails, too")
	byFlag     = flag.String("crash.by", "", "after the kill, kill this, too: boot, or again for the same command")
	secondFlag = flag.Int("crash.second", 1, "with -crash.by: the point of the second kill")
	procsFlag  = flag.Int("crash.procs", 1, "GOMAXPROCS of the programs")
	seedFlag   = flag.Uint64("crash.seed", 0, "of what is a sample; 0: another one each time")
)

// nightly: all points, not a sample.
var nightly = machinetest.Nightly

// core are the flows in which CI makes every kill: what every device does again and
// again. The first install has as many points as an update, most of them the same ones.
var core = []string{"install-update", "activate", "confirm", "boot-counts", "fallback", "fallback-factory", "rollback", "factory-create-first"}

// The samples of CI. A point is the start of half a dozen programs, which is what it
// takes its time for.
const (
	thinned     = 8  // of the other flows, every eighth kill, from another one on each time
	errorsInCI  = 40 // beside every sync, which fails once
	doublesInCI = 20
)

// doublesNightly is for each flow and each way to recover.
const doublesNightly = 40

// errnos are what a call may fail with.
var errnos = []unix.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EMFILE, unix.ENOMEM}

// newLab prepares flows, in memory: what is tested here is no disk.
func newLab(t *testing.T, all []*flows.Flow) *lab {
	t.Helper()
	machinetest.Require(t, "supervisor", crashpoint.Missing())
	dir, err := os.MkdirTemp("/dev/shm", "ota-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	l := &lab{dir: dir, bench: make(map[*flows.Flow]*bench), seen: make(map[string][]invariants.Problem)}
	if l.world, err = flows.NewWorld(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.world.Close)
	var mu sync.Mutex
	inParallel(t, all, func(ctx context.Context, f *flows.Flow) error {
		b, err := l.prepare(ctx, f)
		mu.Lock()
		defer mu.Unlock()
		l.bench[f] = b
		return err
	})
	return l
}

// inParallel calls f for each of all, until one fails; more than one on each core:
// what was interrupted often waits, for a lock or before it tries a server again.
func inParallel[T any](t *testing.T, all []T, f func(context.Context, T) error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(machinetest.Context(t))
	defer cancel(nil)
	work := make(chan T)
	var wg sync.WaitGroup
	for range 3 * runtime.NumCPU() {
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
	switch {
	case *flowFlag == "" && nightly:
		return slices.Concat(flows.All, flows.Odd)
	case *flowFlag == "":
		return flows.All
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

// A tally counts what came of each flow's points.
type tally struct {
	mu     sync.Mutex
	counts map[string]map[string]int
}

func (c *tally) add(o *outcome) {
	kind := "killed"
	if o.by != "" {
		kind = "twice"
	} else if o.errno != 0 {
		kind = "failed"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, row := range []string{o.flow.Name, "all"} {
		if c.counts == nil {
			c.counts = make(map[string]map[string]int)
		}
		if c.counts[row] == nil {
			c.counts[row] = make(map[string]int)
		}
		c.counts[row][kind]++
		c.counts[row][invariants.Verdict(o.problems)]++
	}
}

// String is a table, a line for each flow.
func (c *tally) String() string {
	columns := []string{"killed", "failed", "twice", "ok", "torn", "lie", "stuck"}
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s", "")
	for _, column := range columns {
		fmt.Fprintf(&b, "%8s", column)
	}
	for _, row := range slices.Sorted(maps.Keys(c.counts)) {
		if row != "all" {
			b.WriteString(c.row(row, columns))
		}
	}
	b.WriteString(c.row("all", columns))
	return b.String()
}

func (c *tally) row(name string, columns []string) string {
	s := fmt.Sprintf("\n%-24s", name)
	for _, column := range columns {
		s += fmt.Sprintf("%8d", c.counts[name][column])
	}
	return s
}

// tell prints an outcome and counts it.
func (c *tally) tell(t *testing.T, o *outcome) {
	c.add(o)
	if len(o.problems) > 0 {
		t.Error(o.story())
		return
	}
	t.Log(o)
}

// TestPoints makes every point there is: kills, errors, and a sample of kills of the
// recovery from a kill.
func TestPoints(t *testing.T) {
	if *pointFlag != 0 {
		t.Skip("one point is asked for: TestPoint")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	all := chosen(t)
	l := newLab(t, all)
	var counts tally
	defer func() { t.Logf("what came of each flow's points:\n%v", &counts) }()

	// In how many points a flow can be broken off, and which of them are to make
	// something durable.
	lengths := make(map[*flows.Flow]int)
	syncs := make(map[*flows.Flow][]int)
	var mu sync.Mutex
	measure := func(procs int) func(context.Context, *flows.Flow) error {
		return func(ctx context.Context, f *flows.Flow) error {
			site, err := l.copyOf(l.bench[f].site)
			if err != nil {
				return err
			}
			defer func() { _ = site.Remove() }()
			said, r, err := run(ctx, site, f.Args(site), procs, f.Plan(site, nil))
			if err != nil {
				return fmt.Errorf("flow %s: %w", f.Name, err)
			}
			if said.Exit != f.Exit {
				return fmt.Errorf("flow %s: exit %d, want %d: %s", f.Name, said.Exit, f.Exit, said.Stderr)
			}
			mu.Lock()
			defer mu.Unlock()
			lengths[f] = len(r.Calls)
			for _, c := range r.Calls {
				if c.Name == "fsync" || c.Name == "syncfs" {
					syncs[f] = append(syncs[f], c.Point)
				}
			}
			return nil
		}
	}
	inParallel(t, all, measure(1))

	procs := []int{1}
	if nightly {
		procs = append(procs, 2)
	}
	t.Run("Kill", func(t *testing.T) {
		for _, n := range procs {
			work := points(all, lengths, point{procs: n, seed: seed})
			if !nightly && *flowFlag == "" {
				// The last is always there: see below.
				nth := r.IntN(thinned)
				work = slices.DeleteFunc(work, func(p point) bool {
					return !slices.Contains(core, p.flow.Name) && p.n%thinned != nth && p.n < lengths[p.flow]
				})
			}
			t.Logf("%d kills of %d", len(work), len(points(all, lengths, point{})))
			inParallel(t, work, func(ctx context.Context, p point) error {
				o, err := l.try(ctx, p)
				if err == nil && o.reached {
					counts.tell(t, o)
				}
				// A run may have more calls than the one that was measured.
				for p.n >= lengths[p.flow] && err == nil && o.reached {
					p.n++
					if o, err = l.try(ctx, p); err == nil && o.reached {
						counts.tell(t, o)
					}
				}
				return err
			})
		}
	})
	t.Run("Error", func(t *testing.T) {
		var work []point
		for _, errno := range errnos {
			for _, on := range []bool{false, true} {
				work = append(work, points(all, lengths, point{errno: errno, on: on, procs: 1, seed: seed})...)
			}
		}
		r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
		if nightly {
			// Those that fail once first: a run that is broken off has them.
			slices.SortStableFunc(work, func(a, b point) int { return cmp.Compare(on(a), on(b)) })
		} else {
			work = work[:min(len(work), errorsInCI)]
			for _, f := range all {
				for _, n := range syncs[f] {
					// Want of room, one time in two: programs do something about it, and try again.
					some := errnos
					if r.IntN(2) == 0 {
						some = []unix.Errno{unix.ENOSPC, unix.EDQUOT}
					}
					work = append(work, point{flow: f, n: n, errno: some[r.IntN(len(some))], procs: 1, seed: seed})
				}
			}
		}
		t.Logf("%d calls that fail", len(work))
		inParallel(t, work, func(ctx context.Context, p point) error {
			o, err := l.try(ctx, p)
			if err == nil && o.reached {
				counts.tell(t, o)
			}
			return err
		})
	})
	t.Run("Double", func(t *testing.T) {
		var work []point
		for _, f := range all {
			for _, by := range []string{"boot", "again"} {
				for range doublesNightly {
					work = append(work, point{flow: f, n: 1 + r.IntN(lengths[f]), by: by, second: r.IntN(1 << 20), procs: 1, seed: seed})
				}
			}
		}
		r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
		if !nightly {
			work = work[:min(len(work), doublesInCI)]
		}
		inParallel(t, work, func(ctx context.Context, p point) error {
			n, err := l.length(ctx, p)
			if err != nil || n == 0 {
				return err // a recovery that writes nothing cannot be broken off
			}
			p.second = 1 + p.second%n
			o, err := l.try(ctx, p)
			if err == nil && o.reached {
				counts.tell(t, o)
			}
			return err
		})
	})
}

func on(p point) int {
	if p.on {
		return 1
	}
	return 0
}

// points are all points of the flows, each like p.
func points(all []*flows.Flow, lengths map[*flows.Flow]int, p point) []point {
	var work []point
	for _, f := range all {
		for n := range lengths[f] {
			p.flow, p.n = f, n+1
			work = append(work, p)
		}
	}
	return work
}

// TestPoint makes one point once more.
func TestPoint(t *testing.T) {
	if *flowFlag == "" || *pointFlag == 0 {
		t.Skip("no point is asked for: -crash.flow NAME -crash.point N")
	}
	p := point{flow: chosen(t)[0], n: *pointFlag, on: *onFlag, by: *byFlag, second: *secondFlag, procs: *procsFlag, seed: *seedFlag}
	if *errnoFlag != "" {
		for errno := unix.Errno(1); errno < 134; errno++ {
			if unix.ErrnoName(errno) == *errnoFlag {
				p.errno = errno
			}
		}
		if p.errno == 0 {
			t.Fatalf("there is no error %q", *errnoFlag)
		}
	}
	l := newLab(t, []*flows.Flow{p.flow})
	start := time.Now()
	o, err := l.try(machinetest.Context(t), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s\n%v", o.story(), time.Since(start))
	if !o.reached {
		t.Errorf("the run ended after %d calls, before the point", len(o.log))
	}
	if len(o.problems) > 0 {
		t.Fail()
	}
}
