package guardian

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/tier"
)

// A trouble is what a device with factory 1.0, previous 2.0 and current 3.0 is in. Versions
// 3.0 and 4.0 end each of their boots in a crash.
type trouble struct {
	phase                            bootcheck.Phase
	spent                            bool   // one more such boot is too many
	current, previous, factory, next string // whole, damaged, gone; next, which is 4.0: none, too
	record                           string // whole, one copy, lost
	full                             bool   // all that a boot gives up is filled again until the next one
	ends                             LastBoot
}

// troubles are all that have at most three faults besides the crash.
func troubles() (all []trouble) {
	var t trouble
	versions := []string{"whole", "damaged", "gone"}
	each := [][]func(){
		set(&t.phase, bootcheck.PhaseConfirmed, bootcheck.PhaseTrial, bootcheck.PhaseFallback),
		set(&t.spent, false, true),
		set(&t.ends, LastHard, LastUnclean),
		set(&t.current, versions...),
		set(&t.previous, versions...),
		set(&t.factory, versions...),
		set(&t.next, append([]string{"none"}, versions...)...),
		set(&t.record, "whole", "one copy", "lost"),
		set(&t.full, false, true),
	}
	var choose func(i int)
	choose = func(i int) {
		if i == len(each) {
			if t.faults() <= 3 {
				all = append(all, t)
			}
			return
		}
		for _, choice := range each[i] {
			choice()
			choose(i + 1)
		}
	}
	choose(0)
	return all
}

// set are the ways to set dst.
func set[T any](dst *T, values ...T) (ways []func()) {
	for _, v := range values {
		ways = append(ways, func() { *dst = v })
	}
	return ways
}

func (t *trouble) faults() (n int) {
	for _, is := range []bool{t.current != "whole", t.previous != "whole", t.factory != "whole", t.next != "whole" && t.next != "none", t.record != "whole", t.full} {
		if is {
			n++
		}
	}
	return n
}

// TestTroubles holds that a device comes out of each of them by itself, in the boots that its
// limits allow: it runs an intact version if there is one, and not one on trial that crashes
// if there is another one.
func TestTroubles(t *testing.T) {
	dir, inside := ownMounts(t)
	if !inside {
		return
	}
	all := troubles()
	n := tier.Of(60, 60, len(all))
	for _, i := range rand.New(rand.NewPCG(tier.Seed(t), 0)).Perm(len(all))[:n] {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			at := filepath.Join(dir, fmt.Sprint(i))
			b := newBoard(t)
			b.must(os.Mkdir(at, 0o755))
			b.onSmallDisk(at)
			defer unix.Unmount(at, unix.MNT_DETACH)
			is := all[i]
			b.enter(&is)
			var log bytes.Buffer
			for range 16 { // limits of 6 boots for 4.0 and 3.0
				if is.full {
					b.fill(at)
				}
				last := is.ends
				if runs := b.now(); runs == "1.0" || runs == "2.0" {
					last = LastClean
				}
				err := b.boot(last)
				fmt.Fprintf(&log, "runs %q, %v\n%s", b.now(), err, &b.log)
			}
			runs, intact := b.now(), b.intact("1.0", "2.0", "3.0", "4.0")
			switch {
			case len(intact) > 0 && !intact[runs]:
				t.Errorf("%+v: runs %q, intact are %v\n%s", is, runs, intact, &log)
			case is.phase.Counted() && is.record != "lost" && (runs == "3.0" || runs == "4.0") && (intact["1.0"] || intact["2.0"]):
				t.Errorf("%+v: runs %q, which crashes; intact are %v\n%s", is, runs, intact, &log)
			}
		})
	}
	t.Logf("%d of %d", n, len(all))
}

// enter brings the device into trouble.
func (b *board) enter(is *trouble) {
	b.t.Helper()
	r := b.record().Clone()
	if r.Phase = is.phase; r.Phase.Counted() {
		r.Confirmed, r.Trial = r.Confirmed[:2], &bootcheck.Trial{BootID: "before"}
		if is.spent {
			r.Trial.Hard, r.Trial.Unclean = 2, 5
		}
	} else if is.spent {
		r.HardStreak = []string{"a", "b", "c", "d"}
	}
	if is.next != "none" {
		r.Next = &bootcheck.Next{Ref: *b.add("4.0")}
	}
	b.commit(r)
	for version, how := range map[string]string{"1.0": is.factory, "2.0": is.previous, "3.0": is.current, "4.0": is.next} {
		switch how {
		case "damaged":
			b.must(os.WriteFile(b.path("v"+version, "bin", "app"), []byte("x"), 0o755))
		case "gone":
			b.must(os.RemoveAll(b.path("v" + version)))
		}
	}
	if is.full { // it was full before: no more is left of the history
		for n := uint64(1); n+1 < b.record().Generation; n++ {
			b.must(os.RemoveAll(b.path(".generations", fmt.Sprint(n))))
		}
	}
	copies := map[string][]string{"one copy": {"record.json"}, "lost": {"record.json", "record.backup.json"}}
	for _, name := range copies[is.record] {
		b.must(os.Truncate(b.path(".active", name), 0))
	}
}

// now is the version that current leads to; empty: it leads nowhere.
func (b *board) now() string {
	target, err := filepath.EvalSymlinks(b.path("current"))
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(filepath.Base(target), "v")
}

// intact are those of versions that are as they were made.
func (b *board) intact(versions ...string) map[string]bool {
	is := make(map[string]bool)
	for _, v := range versions {
		if text, err := os.ReadFile(b.path("v"+v, "bin", "app")); err == nil && string(text) == "this is "+v+"\n" {
			is[v] = true
		}
	}
	return is
}

// TestHistories holds that, in whichever order forty things happened, two boots on a disk
// that has room leave a record that is whole, and a version that is intact, if the record
// has one to run.
func TestHistories(t *testing.T) {
	dir, inside := ownMounts(t)
	if !inside {
		return
	}
	for i := range tier.Of(30, 30, 2000) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			r := rand.New(rand.NewPCG(tier.Seed(t), uint64(i)))
			at := filepath.Join(dir, fmt.Sprint(i))
			b := newBoard(t)
			b.must(os.Mkdir(at, 0o755))
			b.onSmallDisk(at)
			defer unix.Unmount(at, unix.MNT_DETACH)
			b.must(b.boot(LastClean))
			versions := []string{"1.0", "2.0", "3.0"}
			var log bytes.Buffer
			for range 40 {
				what := b.happen(r, at, &versions)
				fmt.Fprintf(&log, "%s\n    runs %q, intact are %v\n", what, b.now(), b.intact(versions...))
			}
			if err := os.Remove(filepath.Join(at, "full")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			for range 2 {
				err := b.boot(LastClean)
				fmt.Fprintf(&log, "boot: %v\n%s", err, &b.log)
			}
			runs, intact := b.now(), b.intact(versions...)
			if runs == "" {
				if len(intact) > 0 {
					t.Errorf("nothing runs, intact are %v\n%s", intact, &log)
				}
				return
			}
			active, err := b.store.Active()
			if err != nil || active.Damage != "" {
				t.Fatalf("the record: %+v, %v\n%s", active, err, &log)
			}
			if active.Record.Phase == bootcheck.PhaseHold || intact[runs] {
				return
			}
			if target, _ := active.Record.RollbackTarget(func(ref *bootcheck.Ref) bool { return intact[ref.Version] }); target != nil {
				t.Errorf("runs %q, could run %s\n%s", runs, target, &log)
			}
		})
	}
}

// happen lets something happen to the device, whose disk is at dir, and says what.
func (b *board) happen(r *rand.Rand, dir string, versions *[]string) string {
	b.t.Helper()
	active, err := b.store.Active()
	version := (*versions)[r.IntN(len(*versions))]
	_, fullErr := os.Stat(filepath.Join(dir, "full"))
	full := fullErr == nil
	here := func(*bootcheck.Ref) bool { return true }
	switch k := r.IntN(16); {
	case k == 0 && !full && err == nil:
		version = fmt.Sprintf("%d.0", len(*versions)+1)
		*versions = append(*versions, version)
		return fmt.Sprint("install ", version, ": ", b.store.Commit(active.Record.Activate(b.add(version), "", "", nil, here)))
	case k == 1:
		return fmt.Sprint("damage ", version, ": ", os.WriteFile(b.path("v"+version, "bin", "app"), []byte("x"), 0o755))
	case k == 2:
		return fmt.Sprint("delete ", version, ": ", os.RemoveAll(b.path("v"+version)))
	case k == 3 && !full:
		b.fill(dir)
		return "fill the disk"
	case k == 4 && full:
		return fmt.Sprint("make room: ", os.Remove(filepath.Join(dir, "full")))
	case k == 5:
		return fmt.Sprint("damage a copy of the record: ", os.Truncate(b.path(".active", "record.json"), 0))
	case k == 6 && r.IntN(3) == 0:
		return fmt.Sprint("lose the record: ", os.Truncate(b.path(".active", "record.json"), 0), os.Truncate(b.path(".active", "record.backup.json"), 0))
	case k == 7 && r.IntN(3) == 0:
		return fmt.Sprint("lose the switch: ", os.Remove(b.path(".active")))
	case k == 8 && err == nil:
		return fmt.Sprint("confirm: ", b.guardian().commitDecision(b.t.Context(), MarkGood(active.Record, 1)))
	case k == 9 && err == nil && active.Record.Phase.Unconfirmed():
		g := b.guardian()
		d, err := g.markBad(b.t.Context(), active.Record, g.look(b.t.Context(), active.Record), Failure{Cause: bootcheck.CauseHealth, Check: version})
		if err == nil {
			err = g.commitDecision(b.t.Context(), d)
		}
		return fmt.Sprint("a check fails: ", err)
	case k == 10 && err == nil:
		next := active.Record.Clone()
		ref, err := b.store.Ref(version)
		if err == nil {
			next.Next = &bootcheck.Next{Ref: *ref}
			err = b.store.Commit(next)
		}
		return fmt.Sprint("activate ", version, " at the next boot: ", err)
	}
	last := []LastBoot{LastClean, LastUnclean, LastHard, LastHard}[r.IntN(4)]
	return fmt.Sprintf("a boot after a %s end: %v\n%s", last, b.boot(last), &b.log)
}
