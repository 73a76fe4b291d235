package cuts

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/machine/machinetest"
)

// nightly: hours, not minutes.
var nightly = machinetest.Nightly

// machines bounds how many run at the same time: each has one processor, of two.
var machines = make(chan struct{}, 2)

func acquire() (release func()) {
	machines <- struct{}{}
	return func() { <-machines }
}

var shared struct {
	sync.Once
	world *World
	dir   string
	err   error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.world != nil {
		shared.world.Close()
	}
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// world is what all tests begin with; it is made once.
func world(t *testing.T) *World {
	machinetest.Require(t, "device whose power is cut", Missing())
	shared.Do(func() {
		began := time.Now()
		if shared.dir, shared.err = os.MkdirTemp("", "ota-cuts-"); shared.err == nil {
			shared.world, shared.err = NewWorld(machinetest.Context(t), shared.dir)
		}
		t.Logf("the device was prepared in %s", time.Since(began).Round(100*time.Millisecond))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.world
}

// A tally counts what was really met.
type tally struct {
	mu           sync.Mutex
	cuts, booted map[string]map[Stage]int // by story
	verdicts     map[string]int
	random       int
}

func newTally() *tally {
	return &tally{cuts: map[string]map[Stage]int{}, booted: map[string]map[Stage]int{}, verdicts: map[string]int{}}
}

func count(m map[string]map[Stage]int, c *Cut) int {
	of := m[c.Story.Name]
	if of == nil {
		of = map[Stage]int{}
		m[c.Story.Name] = of
	}
	of[c.Stage]++
	return of[c.Stage]
}

func sum(m map[string]map[Stage]int) (n int) {
	for _, of := range m {
		for _, k := range of {
			n += k
		}
	}
	return n
}

// stories are what happens while the power is cut.
var stories = []*Story{Update, TakenBack}

// missing are the stages that no cut has met.
func (y *tally) missing() (all []string) {
	for _, s := range stories {
		for _, stage := range y.missingIn(s) {
			all = append(all, s.Name+": "+string(stage))
		}
	}
	return all
}

func (y *tally) missingIn(s *Story) (all []Stage) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, stage := range s.Stages {
		if y.cuts[s.Name][stage] == 0 {
			all = append(all, stage)
		}
	}
	return all
}

func (y *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d power cuts, %d at random moments, %d booted; verdicts: %v\n", sum(y.cuts), y.random, sum(y.booted), y.verdicts)
	for _, s := range stories {
		stages := append([]Stage{Nothing}, s.Stages...)
		for stage := range y.cuts[s.Name] {
			if !slices.Contains(stages, stage) {
				stages = append(stages, stage)
			}
		}
		for _, stage := range stages {
			fmt.Fprintf(&b, "  %-9s %-12s %4d cuts %4d booted\n", s.Name, stage, y.cuts[s.Name][stage], y.booted[s.Name][stage])
		}
	}
	return b.String()
}

// In CI each stage is met by a cut, and at least 50 are at random moments, all of
// which are judged on the host; some are booted, too. Nightly, 200 are at random
// moments, and 60 are booted, of each stage one at least.
const (
	randomCuts    = 50
	randomNightly = 200
	bootsInCI     = 4
	bootsNightly  = 60
	maxRounds     = 6 // for all that in CI; after the first, of what is still to be met
)

func TestCuts(t *testing.T) {
	w := world(t)
	ctx := machinetest.Context(t)
	seed := uint64(time.Now().UnixNano()) % 1e9
	y := newTally()
	enough := func() bool {
		if nightly && (sum(y.booted) < bootsNightly || y.random < randomNightly) {
			return false
		}
		return y.random >= randomCuts && len(y.missing()) == 0
	}
	began := time.Now()
	for round := 0; !enough(); round++ {
		if !nightly && round == maxRounds || t.Failed() || ctx.Err() != nil {
			break
		}
		again := stories
		if !nightly && y.random >= randomCuts {
			again = slices.DeleteFunc(slices.Clone(stories), func(s *Story) bool { return len(y.missingIn(s)) == 0 })
			t.Logf("not met so far: %s", strings.Join(y.missing(), ", "))
		}
		cuts := runAll(ctx, t, w, y, again, seed+uint64(round))
		t.Logf("round %d: %d cuts to boot after %s", round+1, len(cuts), time.Since(began).Round(time.Second))
		if !nightly {
			rand.Shuffle(len(cuts), func(i, j int) { cuts[i], cuts[j] = cuts[j], cuts[i] })
			cuts = cuts[:max(0, min(len(cuts), bootsInCI-sum(y.booted)))]
		}
		bootAll(ctx, t, w, y, cuts)
		t.Logf("round %d: booted after %s", round+1, time.Since(began).Round(time.Second))
	}
	t.Logf("%v", y)
	if missing := y.missing(); len(missing) > 0 {
		t.Errorf("no cut met %s", strings.Join(missing, ", "))
	}
	if y.random < randomCuts {
		t.Errorf("%d cuts at random moments, want %d", y.random, randomCuts)
	}
}

// runAll lets the stories happen, judges each cut, and returns those that are to be
// booted.
func runAll(ctx context.Context, t *testing.T, w *World, y *tally, stories []*Story, seed uint64) (kept []*Cut) {
	var all sync.WaitGroup
	for _, s := range stories {
		all.Go(func() {
			defer acquire()()
			dir := t.TempDir()
			// Judged while the machine goes on, which does not wait for that: what it is
			// slowed down for is not met.
			judging, judged := make(chan *Cut, 1000), make(chan error, 1)
			go func() {
				var last *Cut
				var failed error
				for c := range judging {
					if failed == nil {
						failed = w.judgeCut(ctx, c, last)
						last = c
					}
					if keep := failed == nil && y.add(t, w, c); keep {
						y.mu.Lock()
						kept = append(kept, c)
						y.mu.Unlock()
					} else {
						os.Remove(c.File)
					}
				}
				judged <- failed
			}()
			err := w.Run(ctx, s, seed, dir, func(c *Cut) error {
				judging <- c
				return nil
			})
			close(judging)
			if err := errors.Join(err, <-judged); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	return kept
}

// judgeCut judges c, and that nothing was lost since the cut before it.
func (w *World) judgeCut(ctx context.Context, c, last *Cut) error {
	if err := w.Judge(ctx, c); err != nil {
		return fmt.Errorf("cannot judge %v: %w", c, err)
	}
	if last != nil && (c.Disk.Found.Generation < last.Disk.Found.Generation || len(c.Disk.Reports) < len(last.Disk.Reports)) {
		c.Problems = append(c.Problems, problem(invariants.Lie, "a cut before it had generation %d and %d reports, this one %d and %d",
			last.Disk.Found.Generation, len(last.Disk.Reports), c.Disk.Found.Generation, len(c.Disk.Reports)))
	}
	return nil
}

// add counts c and says whether it is to be booted.
func (y *tally) add(t *testing.T, w *World, c *Cut) (boot bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	t.Logf("%v", c)
	n := count(y.cuts, c)
	y.verdicts[invariants.Verdict(c.Problems)]++
	if c.Why == "random" {
		y.random++
	}
	if len(c.Problems) > 0 {
		t.Errorf("%v\n%s", c, w.keepDisk(c))
		return false
	}
	return n == 1 || nightly && n%4 == 0
}

// keepDisk keeps the disk of a cut that failed where it can be looked at: no second
// run meets the same moment.
func (w *World) keepDisk(c *Cut) string {
	to := filepath.Join(os.TempDir(), fmt.Sprintf("ota-cut-%s-%d-%d.img", c.Story.Name, c.Seed, c.N))
	if err := applyDelta(w.disk(), c.File, to); err != nil {
		return err.Error()
	}
	return "its disk is kept as " + to + " (mount -o loop)"
}

func bootAll(ctx context.Context, t *testing.T, w *World, y *tally, cuts []*Cut) {
	var all sync.WaitGroup
	for i, c := range cuts {
		all.Go(func() {
			defer acquire()()
			if ctx.Err() != nil {
				return
			}
			dir, err := os.MkdirTemp(w.dir, "boot-")
			if err != nil {
				t.Error(err)
				return
			}
			defer os.RemoveAll(dir)
			began := time.Now()
			install := i%4 == 0 // each takes the next update on the host
			problems, log, err := w.Boot(ctx, c, dir, install)
			if err != nil || len(problems) > 0 {
				t.Errorf("booted: %v: %v %v\nthe machine's log:\n%s", c, problems, err, log)
				return
			}
			y.mu.Lock()
			defer y.mu.Unlock()
			count(y.booted, c)
			t.Logf("booted in %s (install %v): %v", time.Since(began).Round(100*time.Millisecond), install, c)
		})
	}
	all.Wait()
}
