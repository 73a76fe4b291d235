package cuts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/crash/blocks"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/machine/machinetest"
)

// How many states of what the guest wrote are judged, and of how many of them it is
// seen what becomes: of one in aftermaths.
const (
	guestStates        = 100
	guestStatesNightly = 3000
	aftermaths         = 10
)

// Whatever part of what a guest wrote is on its disk, the device is whole and nobody
// has lied: all writes up to any of them, and any part of those that no flush ended.
func TestGuestBlocks(t *testing.T) {
	w := world(t)
	ctx := machinetest.Context(t)
	release := acquire()
	began := time.Now()
	r, err := w.Record(ctx, t.TempDir())
	release()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Base.Close()
	t.Logf("recorded %d entries in %s", len(r.Entries), time.Since(began).Round(time.Second))
	replay, err := blocks.NewReplay(r)
	if err != nil {
		t.Fatal(err)
	}
	defer replay.Close()
	g := &guest{World: w, Recording: r, replay: replay, dir: t.TempDir()}

	n, seed := guestStates, uint64(time.Now().UnixNano())%1e9
	if nightly {
		n = guestStatesNightly
	}
	began = time.Now()
	prefixes, torn, unmounted, after := 0, 0, 0, 0
	states, stages := map[string]int{}, map[Stage]int{}
	for i, s := range plan(r, n, seed) {
		if t.Failed() && !nightly {
			break
		}
		set := r.Set(s)
		line := fmt.Sprintf("point=%d of %d seed=%d (plan %d: %v)", s.Point, len(r.Entries), s.Seed, seed, set)
		d, problems, err := g.judgeState(ctx, s, i%aftermaths == 0)
		if s.Seed == 0 {
			prefixes++
		}
		if set.Torn {
			torn++
		}
		if errors.Is(err, errUnmountable) {
			unmounted++
			if !set.Torn {
				t.Errorf("%s: %v\n%s", line, err, g.keep(s))
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, g.keep(s))
		}
		if i%aftermaths == 0 {
			after++
		}
		states[d.Found.State.Phase+" "+d.Found.State.Current]++
		stages[Update.stage(d, d.Reports[min(len(w.base.Reports), len(d.Reports)):], true)]++
		if len(problems) > 0 {
			t.Errorf("%s: %v: verdict=%s %v\n%s", line, d.Found.State, invariants.Verdict(problems), problems, g.keep(s))
		}
	}
	t.Logf("%d states of %d entries, seed %d: %d prefixes, %d parts of which %d torn, %d could not be mounted, %d aftermaths, in %s\n%v\n%v",
		n, len(r.Entries), seed, prefixes, n-prefixes, torn, unmounted, after, time.Since(began).Round(time.Second), states, stages)
	// All that the guest came through was met, or the log is not of what it should be.
	for _, state := range []string{"confirmed 1.1.0", "trial 1.2.0", "confirmed 1.2.0"} {
		if states[state] == 0 {
			t.Errorf("no state was %s", state)
		}
	}
	if stages[Success] == 0 {
		t.Error("no state was one in which success had been said")
	}
}

// keep keeps the disk of a state that must not be.
func (g *guest) keep(s blocks.State) string {
	f, err := g.replay.File(g.Set(s))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	to := filepath.Join(os.TempDir(), fmt.Sprintf("ota-guest-%d-%d.img", s.Point, s.Seed))
	out, err := os.Create(to)
	if err == nil {
		_, err = out.ReadFrom(f)
		err = errors.Join(err, out.Close())
	}
	if err != nil {
		return err.Error()
	}
	return "its disk is kept as " + to + " (mount -o loop)"
}
