package weak_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/weak"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

var pointFlag = flag.Int("crash.point", 0, "only this point of -crash.flow")

// some are those of which a check makes states: what every device does, and some of the rest.
func some(t *testing.T, seed uint64) []*flows.Flow {
	all := flows.Chosen(t)
	if tier.Check && *flows.Only == "" {
		core := []string{"activate", "confirm", "install-update", "fallback"}
		rnd := rand.New(rand.NewPCG(seed, 0))
		all = slices.DeleteFunc(all, func(f *flows.Flow) bool { return !slices.Contains(core, f.Name) && rnd.IntN(8) > 0 })
	}
	return all
}

func TestMain(m *testing.M) { os.Exit(flows.Main(m)) }

// theWorld is one for all tests here.
func theWorld(t *testing.T) *flows.World {
	t.Helper()
	machine.Require(t, "supervisor", crashpoint.Missing())
	return flows.Shared(t)
}

var logs sync.Map

// recorded is the log of f with nothing that interrupts it, made once.
func recorded(t *testing.T, f *flows.Flow) *weak.Recording {
	t.Helper()
	defer try.Fatal(t)
	w := theWorld(t)
	once, _ := logs.LoadOrStore(f, sync.OnceValues(func() (*weak.Recording, error) {
		site, err := w.Build(context.Background(), f, filepath.Join(w.Dir, "site-"+f.Name), "")
		if err != nil {
			return nil, err
		}
		defer site.Remove()
		return weak.Record(context.Background(), site, nil)
	}))
	return try.Get(once.(func() (*weak.Recording, error))())
}

// What every flow said is so, it did it under the lock that it needs, and where it may.
func TestLogs(t *testing.T) {
	calls, failed, began := 0, 0, time.Now()
	for _, f := range flows.Chosen(t) {
		if !t.Run(f.Name, func(t *testing.T) {
			r := recorded(t, f)
			calls += len(r.Calls)
			checkLog(t, r)
			for _, text := range r.Unlocked {
				t.Errorf("flow=%s %s", f.Name, text)
			}
		}) {
			failed++
		}
	}
	tier.Sum("logs", calls, calls, failed, began)
}

// checkLog is what can be said of a log without states.
func checkLog(t *testing.T, r *weak.Recording) {
	t.Helper()
	found, err := r.Undone()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range found {
		t.Errorf("flow=%s exit=%d %s", r.Flow.Name, r.Said.Exit, text)
	}
	for _, p := range r.Problems {
		t.Errorf("flow=%s exit=%d %v", r.Flow.Name, r.Said.Exit, p)
	}
}

// All that power cuts leave of a flow of which a sync failed is what was said, too: above
// all no sync is tried again. What fails is a sample of all.
func TestWeakAfterErrors(t *testing.T) {
	seed, began := tier.Seed(t), time.Now()
	var mu sync.Mutex
	made, total, failed := 0, 0, 0
	t.Run("all", func(t *testing.T) {
		for _, f := range flows.Chosen(t) {
			t.Run(f.Name, func(t *testing.T) {
				defer try.Fatal(t)
				t.Parallel()
				w := theWorld(t)
				dir := try.Get(os.MkdirTemp(w.Dir, "errors-"))
				defer os.RemoveAll(dir)
				prepared := try.Get(w.Build(t.Context(), f, filepath.Join(dir, "prepared"), ""))
				defer prepared.Remove()
				whole := recorded(t, f)
				rnd := rand.New(rand.NewPCG(seed, uint64(len(f.Name))))
				for i := range whole.Calls {
					c := &whole.Calls[i]
					if c.Name != "fsync" && c.Name != "syncfs" || c.Errno != 0 {
						continue
					}
					chosen := rnd.IntN(tier.Of(16, 4, 1)) == 0 && *pointFlag == 0 || c.Point == *pointFlag
					bad := chosen && !t.Run(fmt.Sprint("point ", c.Point), func(t *testing.T) { failing(t, prepared, whole, c.Point, seed) })
					mu.Lock()
					total++
					if chosen {
						made++
					}
					if bad {
						failed++
					}
					mu.Unlock()
				}
			})
		}
	})
	tier.Sum("weak model after errors", made, total, failed, began)
}

// failing lets the sync at a point of whole fail, and checks what power cuts leave then.
func failing(t *testing.T, prepared *flows.Site, whole *weak.Recording, point int, seed uint64) {
	defer try.Fatal(t)
	// Not on a disk that gives the number of a file to another one.
	dir := try.Get(os.MkdirTemp(filepath.Dir(prepared.Dir), "failing-"))
	defer os.RemoveAll(dir)
	site := try.Get(prepared.Clone(filepath.Join(dir, "site")))
	defer site.Remove()
	same := whole.Same(point)
	r := try.Get(weak.Record(t.Context(), site, func(c *crashpoint.Call) (v crashpoint.Action) {
		if same(c) {
			v.Errno = unix.EIO
		}
		return v
	}))
	checkLog(t, r)
	try.Check(r.Weak(t.Context(), theWorld(t), weak.Options{Most: tier.Of(10, 20, 60), Seed: seed, Enough: 1}, func(line string) { t.Error(line) }))
	if t.Failed() {
		t.Errorf("once more: OTA_SEED=%d go test ./integration/crash/weak -run TestWeakAfterErrors -v -crash.flow %s -crash.point %d", seed, whole.Flow.Name, point)
	}
}

// statesCounted is how many a nightly run made when it was counted last: there is no end of them.
const statesCounted = 1_405_568

// All that power cuts leave of a flow by the weakest rules is an intact state of the
// store, is what was said, and leads on.
func TestWeak(t *testing.T) {
	began := time.Now()
	var all tier.Tally
	o := weak.Options{
		Seed: tier.Seed(t), Point: *pointFlag, Most: tier.Of(20, 60, 600),
		Aftermaths: tier.Of(1, 1, 12), Enough: 20, Tally: &all,
	}
	t.Run("all", func(t *testing.T) {
		for _, f := range some(t, o.Seed) {
			t.Run(f.Name, func(t *testing.T) {
				t.Parallel()
				if err := recorded(t, f).Weak(t.Context(), theWorld(t), o, func(line string) {
					t.Errorf("%s\nonce more: OTA_TESTS=%s OTA_SEED=%d go test ./integration/crash/weak -run TestWeak -v -crash.flow %s", line, os.Getenv("OTA_TESTS"), o.Seed, f.Name)
				}); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
	t.Logf("what power cuts leave of each flow:\n%s", all.Table("states", "distinct", "checked", "aftermaths", "torn", "lie", "stuck"))
	states := all.All("states")
	tier.Sum("weak model", states, max(states, statesCounted), all.All("torn", "lie", "stuck"), began)
	if tier.Nightly && *flows.Only == "" && states < statesCounted {
		t.Errorf("%d states, want %d", states, statesCounted)
	}
}

// unseen are kinds of syncs whose loss nothing shows, and why.
var unseen = map[string]string{
	"fsync ..":                           "the syncfs of the stage, which comes before anything is promised, makes the store's name durable, too",
	"fsync .spool/.N.jsonN":              "a note that is not intact is none: what is lost is time",
	"fsync .spool/.newest-channel-dateN": "a date that is lost is learned again from the next file of the channel",
	"fsync ..follow.jsonN":               "a state of the follower that is not intact is a new one: the server says again what should run",

	"fsync ../run/dry-run-N":          "the run directory is in memory",
	"fsync ../run/dry-run-N/.N.jsonN": "the run directory is in memory",
	"fsync ../run/dry-run-N/N.part":   "the run directory is in memory",
}

// A program that does not make one kind of sync is found: each kind is taken out of the
// logs of all flows, one after the other.
func TestSyncsAreNeeded(t *testing.T) {
	if tier.Check {
		t.Skip("the engine itself is tested in a deep run")
	}
	type place struct {
		r      *weak.Recording
		points []int
	}
	kinds := make(map[string][]place)
	for _, f := range flows.Chosen(t) {
		r := recorded(t, f)
		for kind, points := range r.Syncs() {
			kinds[kind] = append(kinds[kind], place{r, points})
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		t.Run(strings.ReplaceAll(kind, "/", "."), func(t *testing.T) {
			found := ""
			for _, p := range kinds[kind] {
				r := *p.r
				r.Calls = slices.Clone(r.Calls)
				for i := range r.Calls {
					if c := &r.Calls[i]; slices.Contains(p.points, c.Point) {
						r.Calls[i] = crashpoint.Call{Point: c.Point, Name: "open", File: c.File} // and nothing more
					}
				}
				undone, err := r.Undone()
				if err != nil {
					t.Fatal(err)
				}
				if len(undone) > 0 {
					found = undone[0]
				} else if err := r.Weak(t.Context(), theWorld(t), weak.Options{Most: 60, Seed: 1, Enough: 1}, func(line string) { found = line }); err != nil {
					t.Fatal(err)
				}
				if found != "" {
					t.Logf("flow %s: %s", r.Flow.Name, found)
					break
				}
			}
			if why, hidden := unseen[kind]; hidden == (found != "") {
				t.Errorf("found %q (%s)", found, why)
			}
		})
	}
}
