package blocks

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

var (
	onlyFS    = flag.String("crash.fs", "", "only this file system: ext4, xfs, btrfs")
	onlyPoint = flag.Int("crash.point", 0, "only the power cut after this entry of the log, with -crash.flow")
	stateSeed = flag.Uint64("crash.seed", 0, "with -crash.point: what chance did in that state")
	recording = flag.String("crash.recording", "", "a file that a failure left: its writes, not those of a new run")
)

// nightly is a run of all flows, of all prefixes; the other ones are samples of both.
var nightly = tier.Nightly

// counted is how many states a nightly run made when they were counted last: there is no
// end of them.
var counted = map[string]int{"ext4": 13_945, "xfs": 13_832, "btrfs": 14_404}

// The sample. A check is of the commit alone, on ext4.
var (
	states = tier.Of(60, 80, 450) // of a flow on a file system, half of them prefixes
	others = tier.Of(0, 1, 0)     // flows beside core, by chance
	core   = []string{"install-update", "confirm", "fallback", "factory-create"}
)

func init() {
	if tier.Check {
		core = []string{"activate"}
	}
}

func require(t *testing.T) {
	t.Helper()
	machine.Require(t, "power cut of a file system", Missing())
}

// filesystems are those that were asked for.
func filesystems() []Filesystem {
	return slices.DeleteFunc(slices.Clone(Filesystems), func(fs Filesystem) bool {
		return *onlyFS != "" && *onlyFS != fs.Name || *onlyFS == "" && tier.Check && fs.Name != "ext4"
	})
}

// chosen are the flows of a run.
func chosen(t *testing.T, fs string, seed uint64) (all []*flows.Flow) {
	rest := slices.Clone(flows.All)
	switch {
	case *flows.Only != "":
		return flows.Chosen(t)
	case nightly:
		return rest
	}
	for _, name := range core {
		i := slices.IndexFunc(rest, func(f *flows.Flow) bool { return f.Name == name })
		all = append(all, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	// Others on each file system: together they are more.
	rng := rand.New(rand.NewPCG(seed, uint64(len(fs))<<8|uint64(fs[0])))
	rng.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	return append(all, rest[:others]...)
}

// The power goes after any write of any flow, on each file system.
func TestPowerCuts(t *testing.T) {
	require(t)
	if *recording != "" {
		t.Skip("see TestRecording")
	}
	w := flows.Shared(t)
	seed := tier.Seed(t)
	var wg sync.WaitGroup
	for _, fs := range filesystems() {
		wg.Go(func() {
			t.Run(fs.Name, func(t *testing.T) {
				began := time.Now()
				var tally tier.Tally
				for _, f := range chosen(t, fs.Name, seed) {
					cut(t, w, f, fs, seed, &tally)
				}
				t.Logf("%s:\n%s", fs.Name, tally.Table(Kinds...))
				states := tally.All("states")
				tier.Sum("block replay "+fs.Name, states, max(states, counted[fs.Name]), tally.All("unmountable", "torn", "lie", "stuck"), began)
				if nightly && *flows.Only == "" && states < counted[fs.Name] {
					t.Errorf("%d states, want %d", states, counted[fs.Name])
				}
			})
		})
	}
	wg.Wait()
}

// cut records a flow, and checks what each power cut leaves.
func cut(t *testing.T, w *flows.World, f *flows.Flow, fs Filesystem, seed uint64, tally *tier.Tally) {
	t.Helper()
	ctx := machine.Context(t)
	dir := filepath.Join(t.TempDir(), f.Name)
	defer os.RemoveAll(dir)
	start := time.Now()
	r, err := RecordFlow(ctx, w, w, f, fs.Name, fs.Size, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	recorded := time.Since(start)
	plan := r.Plan(states, seed)
	if nightly {
		plan = r.Plan(max(states, 2*r.Points()), seed)
	}
	if *onlyPoint != 0 {
		plan = []State{{*onlyPoint, *stateSeed}}
	}
	start = time.Now()
	check(t, r, plan, tally)
	flushes := 0
	for _, e := range r.Entries {
		if e.Flags&Flush != 0 {
			flushes++
		}
	}
	t.Logf("%-5s %-22s %3d entries, %2d flushes, recorded in %d ms; %.1f ms a state", fs.Name, f.Name, len(r.Entries), flushes,
		recorded.Milliseconds(), time.Since(start).Seconds()*1000/float64(len(plan)))
}

// check checks states of a run. The run is saved when one must not be.
func check(t *testing.T, r *Run, plan []State, tally *tier.Tally) {
	t.Helper()
	saved := *recording
	err := r.Check(machine.Context(t), plan, 40, tally, func(f *Finding) bool {
		var b strings.Builder
		fmt.Fprintln(&b, f.Line(r))
		for _, p := range f.Problems {
			fmt.Fprintf(&b, "\t%v\n", p)
		}
		if f.Err != nil {
			fmt.Fprintf(&b, "\t%v\n", f.Err)
		}
		if saved == "" {
			var err error
			// Not in the directory that is removed with all that a run made.
			if saved, err = r.Save(os.Getenv(inside)); err != nil {
				t.Errorf("cannot save the recording: %v", err)
			}
		}
		fmt.Fprintf(&b, "again: make crash RECORDING=%s POINT=%d SEED=%d", saved, f.Point, f.Seed)
		t.Error(b.String())
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRecording checks states of a run that was saved: all of them, or the one that
// is asked for.
func TestRecording(t *testing.T) {
	if *recording == "" {
		t.Skip("no -crash.recording")
	}
	require(t)
	r, err := LoadRun(flows.Shared(t), *recording, filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plan := []State{{*onlyPoint, *stateSeed}}
	if *onlyPoint == 0 {
		plan = r.Plan(max(states, 2*r.Points()), tier.Seed(t))
	}
	var tally tier.Tally
	check(t, r, plan, &tally)
	t.Logf("%s:\n%s", r.FS, tally.Table(Kinds...))
}

// TestSave: a run that was saved has the same states.
func TestSave(t *testing.T) {
	require(t)
	defer try.Fatal(t)
	w, dir := flows.Shared(t), t.TempDir()
	fs := filesystems()[0]
	r := try.Get(RecordFlow(machine.Context(t), w, w, flows.Find("activate"), fs.Name, fs.Size, filepath.Join(dir, "first")))
	defer r.Close()
	again := try.Get(LoadRun(w, try.Get(r.Save(dir)), filepath.Join(dir, "again")))
	defer again.Close()
	var want, got tier.Tally
	plan := r.Plan(10, 1)
	check(t, r, plan, &want)
	check(t, again, plan, &got)
	if want, got := want.Table(Kinds...), got.Table(Kinds...); got != want {
		t.Errorf("the saved run has\n%s\nwant\n%s", got, want)
	}
}
