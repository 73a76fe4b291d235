// Package crash is the tests that interrupt real programs: at every call that
// changes a file system, in every way.
//
// OTA_TESTS says how much of it is made: see package tier. What a device does afterwards is
// tried once for each state of its disk. One point, as a line of the log names it, is made
// once more, with its log, by
//
//	go test ./integration/crash -run TestPoint -v -crash.flow NAME -crash.point N [-crash.errno EIO [-crash.on]] [-crash.read]
package crash

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/tier"
)

// core are the flows of which every kill is made: what every device does again and
// again, in a check the first four. The first install has as many points as an update,
// most of them the same ones.
var core = []string{"install-update", "activate", "confirm", "fallback", "boot-counts", "fallback-factory", "rollback", "factory-create-first"}

func isCore(f *flows.Flow) bool {
	return slices.Contains(core[:tier.Of(4, len(core), len(core))], f.Name)
}

// The samples. A point is the start of half a dozen programs, which is what it takes its
// time for.
var (
	thinned     = tier.Of(60, 8, 1)  // of the other flows every so many-th kill, from another one on each day
	someErrors  = tier.Of(30, 40, 0) // beside every sync of the core, which fails once; 0: all
	someDoubles = tier.Of(6, 20, 0)  // 0: doublesOf each flow and each way to recover

	readsOnce = tier.Of(2, 16, 0) // of each flow: reads that fail once, and from then on; 0: all
	readsOn   = tier.Of(1, 4, 0)
)

const doublesOf = 40

// errnos are what a call may fail with.
var errnos = []unix.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EMFILE, unix.ENOMEM}

// readErrnos are what a look at the disk may fail with. Two say that this process
// lacks something, one that it may not, and one that the disk cannot.
var readErrnos = []unix.Errno{unix.EIO, unix.ENOMEM, unix.EMFILE, unix.EACCES}

// TestPoints makes every point there is: kills, errors, and a sample of kills of the
// recovery from a kill.
func TestPoints(t *testing.T) {
	if *pointFlag != 0 {
		t.Skip("one point is asked for: TestPoint")
	}
	r := rand.New(rand.NewPCG(tier.Seed(t), 0))
	all := flows.Chosen(t)
	l := theLab(t)
	var counts tier.Tally
	defer func() { t.Logf("what came of each flow's points:\n%s", table(&counts)) }()
	calls := l.measured(t, all, point{procs: 1})
	whole := nightly || *flows.Only != ""

	t.Run("Kill", func(t *testing.T) {
		began := time.Now()
		procs := []int{1}
		if nightly {
			procs = append(procs, 2)
		}
		for _, n := range procs {
			work := points(all, calls, point{procs: n})
			if !whole {
				// The last is always there: see below.
				nth := r.IntN(thinned)
				work = slices.DeleteFunc(work, func(p point) bool {
					return !isCore(p.flow) && p.n%thinned != nth && p.n < len(calls[p.flow])
				})
			}
			inParallel(t, perCore, work, func(ctx context.Context, p point) error {
				o, err := l.tell(ctx, t, p, &counts)
				// A run may have more calls than the one that was measured.
				for p.n >= len(calls[p.flow]) && err == nil && o.reached {
					p.n++
					o, err = l.tell(ctx, t, p, &counts)
				}
				return err
			})
		}
		sum(&counts, "kills", "killed", len(procs)*len(points(all, calls, point{})), began)
	})
	t.Run("Error", func(t *testing.T) {
		began := time.Now()
		var work []point
		for _, errno := range errnos {
			for _, on := range []bool{false, true} {
				work = append(work, points(all, calls, point{errno: errno, on: on, procs: 1})...)
			}
		}
		total := len(work)
		r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
		if nightly {
			// Those that fail once first: a run that is broken off has them.
			slices.SortStableFunc(work, func(a, b point) int {
				switch {
				case a.on == b.on:
					return 0
				case b.on:
					return -1
				}
				return 1
			})
		} else {
			work = work[:min(len(work), someErrors)]
			for _, f := range all {
				if tier.Check && !isCore(f) && *flows.Only == "" {
					continue
				}
				for _, c := range calls[f] {
					if c.Name != "fsync" && c.Name != "syncfs" {
						continue
					}
					// Want of room, one time in two: programs do something about it, and try again.
					some := errnos
					if r.IntN(2) == 0 {
						some = []unix.Errno{unix.ENOSPC, unix.EDQUOT}
					}
					work = append(work, point{flow: f, n: c.Point, errno: some[r.IntN(len(some))], procs: 1})
				}
			}
		}
		inParallel(t, perCore, work, func(ctx context.Context, p point) error {
			_, err := l.tell(ctx, t, p, &counts)
			return err
		})
		sum(&counts, "errors", "failed", total, began)
	})
	t.Run("Double", func(t *testing.T) {
		began := time.Now()
		var work []point
		for _, f := range all {
			for _, by := range []string{"boot", "again"} {
				for range doublesOf {
					work = append(work, point{flow: f, n: 1 + r.IntN(len(calls[f])), by: by, second: r.IntN(1 << 20), procs: 1})
				}
			}
		}
		total := len(work)
		r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
		if someDoubles > 0 {
			work = work[:min(len(work), someDoubles)]
		}
		inParallel(t, perCore, work, func(ctx context.Context, p point) error {
			n, err := l.length(ctx, p)
			if err != nil || n == 0 {
				return err // a recovery that writes nothing cannot be broken off
			}
			p.second = 1 + p.second%n
			_, err = l.tell(ctx, t, p, &counts)
			return err
		})
		sum(&counts, "double kills", "twice", total, began)
	})
}

// TestReads makes the looks at the disk fail, each one once and from then on. No phase, no
// block, no pending version and no confirmed one may change for it.
func TestReads(t *testing.T) {
	if *pointFlag != 0 {
		t.Skip("one point is asked for: TestPoint")
	}
	began := time.Now()
	r := rand.New(rand.NewPCG(tier.Seed(t), 1))
	// A full disk is what TestPoints fills.
	all := slices.DeleteFunc(flows.Chosen(t), func(f *flows.Flow) bool { return f.Full })
	l := theLab(t)
	calls := l.measured(t, all, point{read: true, procs: 1})
	var work []point
	total := 0
	for _, f := range all {
		t.Logf("flow %s looks %d times", f.Name, len(calls[f]))
		for _, on := range []bool{false, true} {
			var some []point
			for _, errno := range readErrnos {
				some = append(some, points([]*flows.Flow{f}, calls, point{read: true, errno: errno, on: on, procs: 1})...)
			}
			total += len(some)
			if !nightly && *flows.Only == "" {
				r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
				some = some[:min(len(some), map[bool]int{false: readsOnce, true: readsOn}[on])]
			}
			work = append(work, some...)
		}
	}
	var counts tier.Tally
	var mu sync.Mutex
	failed := map[string]int{}
	defer func() {
		t.Logf("what came of each flow's:\n%s", table(&counts))
		sum(&counts, "reads", "failed", total, began)
		t.Logf("the command did not do its work after a read that failed once: %v", failed)
	}()
	inParallel(t, readsPerCore, work, func(ctx context.Context, p point) error {
		o, err := l.tell(ctx, t, p, &counts)
		if err == nil && o.reached && !p.on && o.said.Exit != p.flow.Exit {
			mu.Lock()
			failed[p.flow.Name+" "+o.describe(&o.log[p.n-1])]++
			mu.Unlock()
		}
		return err
	})
}

// measured are the calls of each flow of which points like p are made.
func (l *Lab) measured(t *testing.T, all []*flows.Flow, p point) map[*flows.Flow][]crashpoint.Call {
	t.Helper()
	calls := make(map[*flows.Flow][]crashpoint.Call)
	var mu sync.Mutex
	inParallel(t, perCore, all, func(ctx context.Context, f *flows.Flow) error {
		p := p
		p.flow = f
		made, _, err := l.measure(ctx, p)
		mu.Lock()
		defer mu.Unlock()
		calls[f] = made
		return err
	})
	return calls
}

// tell makes a point, and counts and tells what came of it, if the run came to it.
func (l *Lab) tell(ctx context.Context, t *testing.T, p point, counts *tier.Tally) (*outcome, error) {
	o, err := l.try(ctx, p)
	if err == nil && o.reached {
		o.tell(t, counts)
	}
	return o, err
}

// tell prints the outcome and counts it.
func (o *outcome) tell(t *testing.T, counts *tier.Tally) {
	kind := "killed"
	if o.by != "" {
		kind = "twice"
	} else if o.errno != 0 {
		kind = "failed"
	}
	counts.Add(o.flow.Name, kind)
	counts.Add(o.flow.Name, invariants.Result(o.problems))
	if len(o.problems) > 0 {
		counts.Add(o.flow.Name, "bad "+kind)
		t.Error(o.story())
	} else if !o.read { // of these there are too many
		t.Log(o)
	}
}

func table(counts *tier.Tally) string {
	return counts.Table("killed", "failed", "twice", "ok", "torn", "lie", "stuck")
}

// sum prints what was made of one kind of all that there are.
func sum(counts *tier.Tally, engine, kind string, all int, began time.Time) {
	tier.Sum(engine, counts.All(kind), all, counts.All("bad "+kind), began)
}

// points are all points of the flows, each like p.
func points(all []*flows.Flow, calls map[*flows.Flow][]crashpoint.Call, p point) []point {
	var work []point
	for _, f := range all {
		for n := range calls[f] {
			p.flow, p.n = f, n+1
			work = append(work, p)
		}
	}
	return work
}

// TestPoint makes one point once more.
func TestPoint(t *testing.T) {
	if *flows.Only == "" || *pointFlag == 0 {
		t.Skip("no point is asked for: -crash.flow NAME -crash.point N")
	}
	p := point{flow: flows.Chosen(t)[0], n: *pointFlag, read: *readFlag, on: *onFlag, by: *byFlag, second: *secondFlag, procs: *procsFlag}
	if *errnoFlag != "" {
		p.errno = errnoNamed(t, *errnoFlag)
	}
	start := time.Now()
	o, err := theLab(t).try(machine.Context(t), p)
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

func errnoNamed(t *testing.T, name string) unix.Errno {
	t.Helper()
	for errno := unix.Errno(1); errno < 134; errno++ {
		if unix.ErrnoName(errno) == name {
			return errno
		}
	}
	t.Fatalf("there is no error %q", name)
	return 0
}
