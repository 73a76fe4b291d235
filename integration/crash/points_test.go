// Package crash is the tests that interrupt real programs: at every call that
// changes a file system, in every way.
//
// OTA_TESTS says how much of it is made: see package tier. What a device does afterwards is
// tried once for each state of its disk. One point, as a line of the log names it, is made
// once more, with its log, by
//
//	go test ./integration/crash -run TestPoint -v -crash.flow NAME -crash.point N [-crash.errno EIO [-crash.on]]
package crash

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/flows"
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
)

const doublesOf = 40

// errnos are what a call may fail with.
var errnos = []unix.Errno{unix.EIO, unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EMFILE, unix.ENOMEM}

// TestPoints makes every point there is: kills, errors, and a sample of kills of the
// recovery from a kill.
func TestPoints(t *testing.T) {
	if *pointFlag != 0 {
		t.Skip("one point is asked for: TestPoint")
	}
	seed := tier.Seed(t)
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
	inParallel(t, all, func(ctx context.Context, f *flows.Flow) error {
		calls, _, err := l.measure(ctx, f)
		mu.Lock()
		defer mu.Unlock()
		lengths[f] = len(calls)
		for _, c := range calls {
			if c.Name == "fsync" || c.Name == "syncfs" {
				syncs[f] = append(syncs[f], c.Point)
			}
		}
		return err
	})
	whole := nightly || *flowFlag != ""

	t.Run("Kill", func(t *testing.T) {
		began := time.Now()
		procs := []int{1}
		if nightly {
			procs = append(procs, 2)
		}
		for _, n := range procs {
			work := points(all, lengths, point{procs: n})
			if !whole {
				// The last is always there: see below.
				nth := r.IntN(thinned)
				work = slices.DeleteFunc(work, func(p point) bool {
					return !isCore(p.flow) && p.n%thinned != nth && p.n < lengths[p.flow]
				})
			}
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
		counts.sum("kills", "killed", len(procs)*len(points(all, lengths, point{})), began)
	})
	t.Run("Error", func(t *testing.T) {
		began := time.Now()
		var work []point
		for _, errno := range errnos {
			for _, on := range []bool{false, true} {
				work = append(work, points(all, lengths, point{errno: errno, on: on, procs: 1})...)
			}
		}
		total := len(work)
		r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
		if nightly {
			// Those that fail once first: a run that is broken off has them.
			slices.SortStableFunc(work, func(a, b point) int { return cmp.Compare(on(a), on(b)) })
		} else {
			work = work[:min(len(work), someErrors)]
			for _, f := range all {
				if tier.Check && !isCore(f) && *flowFlag == "" {
					continue
				}
				for _, n := range syncs[f] {
					// Want of room, one time in two: programs do something about it, and try again.
					some := errnos
					if r.IntN(2) == 0 {
						some = []unix.Errno{unix.ENOSPC, unix.EDQUOT}
					}
					work = append(work, point{flow: f, n: n, errno: some[r.IntN(len(some))], procs: 1})
				}
			}
		}
		l.tryAll(t, work, &counts)
		counts.sum("errors", "failed", total, began)
	})
	t.Run("Double", func(t *testing.T) {
		began := time.Now()
		var work []point
		for _, f := range all {
			for _, by := range []string{"boot", "again"} {
				for range doublesOf {
					work = append(work, point{flow: f, n: 1 + r.IntN(lengths[f]), by: by, second: r.IntN(1 << 20), procs: 1})
				}
			}
		}
		total := len(work)
		r.Shuffle(len(work), func(i, j int) { work[i], work[j] = work[j], work[i] })
		if someDoubles > 0 {
			work = work[:min(len(work), someDoubles)]
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
		counts.sum("double kills", "twice", total, began)
	})
}

// tryAll makes the points of work that a run comes to.
func (l *Lab) tryAll(t *testing.T, work []point, counts *tally) {
	t.Helper()
	inParallel(t, work, func(ctx context.Context, p point) error {
		o, err := l.try(ctx, p)
		if err == nil && o.reached {
			counts.tell(t, o)
		}
		return err
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
	p := point{flow: chosen(t)[0], n: *pointFlag, on: *onFlag, by: *byFlag, second: *secondFlag, procs: *procsFlag}
	if *errnoFlag != "" {
		p.errno = errnoNamed(t, *errnoFlag)
	}
	l := newLab(t, []*flows.Flow{p.flow})
	start := time.Now()
	o, err := l.try(machine.Context(t), p)
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
