package weak

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// general are the parts of paths that are another in each run or version.
var general = regexp.MustCompile(`[0-9a-f]{32}|[0-9]+(\.[0-9]+)*`)

// Options of Weak.
type Options struct {
	// Most states of each point; see Each.
	Most int
	Seed uint64
	// Point is the only one of which states are made; 0: all.
	Point int
	// Aftermaths is how many of the states a device is booted with and updated.
	Aftermaths int
	// Enough ends it at so many states that are wrong; 0: never.
	Enough int
}

// A Tally counts states.
type Tally struct {
	States, Distinct, Checked int // Checked: distinct ones that were looked at
	Aftermaths                int
	Torn, Lies, Stuck         int
	Took                      time.Duration
}

// Add adds t2 to t.
func (t *Tally) Add(t2 Tally) {
	t.States += t2.States
	t.Distinct += t2.Distinct
	t.Checked += t2.Checked
	t.Aftermaths += t2.Aftermaths
	t.Torn += t2.Torn
	t.Lies += t2.Lies
	t.Stuck += t2.Stuck
	t.Took += t2.Took
}

// Wrong is how many states were.
func (t *Tally) Wrong() int { return t.Torn + t.Lies + t.Stuck }

func (t Tally) String() string {
	return fmt.Sprintf("%d states (%d distinct, %d checked, %.0f states/s), %d aftermaths: %d torn, %d lies, %d stuck",
		t.States, t.Distinct, t.Checked, float64(t.States)/t.Took.Seconds(), t.Aftermaths, t.Torn, t.Lies, t.Stuck)
}

// Weak checks what power cuts may leave of r. bad is told of each state that is
// wrong, in a line that says how to have it again.
func (r *Recording) Weak(ctx context.Context, w *flows.World, o Options, bad func(line string)) (t Tally, err error) {
	defer try.End(&err)
	defer func(start time.Time) { t.Took = time.Since(start) }(time.Now())
	dir := try.Get(flows.Scratch())
	defer os.RemoveAll(dir)
	mirror := try.Get(NewMirror(dir))
	rel := try.Get(filepath.Rel(r.Dir, r.Root))
	site := &flows.Site{World: w, Flow: r.Flow, Dir: mirror.Dir(), Root: filepath.Join(mirror.Dir(), rel)}
	// What nothing may change, with the times that the mirror gives it.
	try.Check(mirror.Show(r.Before))
	try.Check(site.Remember())

	calls := r.Calls
	last := 0
	if n := len(calls); n > 0 {
		last = calls[n-1].Point
	}
	told := r.told(calls)
	type key struct {
		tree [32]byte
		said int
	}
	distinct := make(map[key]bool)
	checked := make(map[key]string) // what is wrong with it
	stride, next := 0, 0
	if o.Aftermaths > 0 {
		// Spread over all points; the number of states is not known before.
		stride = max(1, len(calls)/o.Aftermaths)
		next = stride / 2
	}
	var failed error
	err = Each(Run{
		Root: r.Root, Top: r.Dir, Before: r.Before, Calls: calls,
		Lost: []string{filepath.Join(r.Dir, "run")},
	}, o.Most, o.Seed, func(s State) bool {
		if o.Point != 0 && s.Point != o.Point {
			return true
		}
		if ctx.Err() != nil {
			failed = ctx.Err()
			return false
		}
		t.States++
		said, stage := &invariants.Said{Killed: true, Exit: -1}, 0
		if told > 0 && s.Point >= told {
			said.Operation, stage = "success", 1
		}
		if s.Point == last {
			said, stage = r.Said, 2
		}
		k := key{s.Tree.Sum(), stage}
		if distinct[k] {
			return true
		}
		distinct[k] = true
		t.Distinct++
		seen := key{s.Seen.Sum(), stage}
		wrong, known := checked[seen]
		kind := invariants.Kind("")
		if !known {
			t.Checked++
			if failed = mirror.Show(s.Seen); failed != nil {
				return false
			}
			var problems []invariants.Problem
			if _, err := os.Lstat(site.Root); err == nil || said.Success() || r.Flow.Before.Current != "" {
				_, problems = site.Check(said)
			} // else the store was not even made, and no program said that it was
			if len(problems) > 0 {
				wrong, kind = fmt.Sprint(problems[0]), problems[0].Kind
			}
			checked[seen] = wrong
		}
		if problems := twice(s.Tree, rel, site); wrong == "" && len(problems) > 0 {
			wrong, kind = problems[0].String(), problems[0].Kind // of what Seen does not show
		}
		if now := s.Disk.Lookup(r.Root); wrong == "" && now != nil && rel != "." && s.Tree.Names[rel] != nil {
			if text := vouched(s.Tree.Names[rel], now); text != "" {
				wrong, kind = text, invariants.Torn
			}
		}
		after := false
		if wrong == "" && stride > 0 && s.Point >= next && s.How != "all" {
			next = s.Point + stride
			after = true
			t.Aftermaths++
			if wrong, failed = r.aftermath(ctx, w, s.Tree, filepath.Join(dir, "after")); failed != nil {
				return false
			}
			if wrong != "" {
				kind = invariants.Stuck
			}
		}
		if wrong == "" || kind == "" { // kind: it was told already
			return true
		}
		switch kind {
		case invariants.Lie:
			t.Lies++
		case invariants.Stuck:
			t.Stuck++
		default:
			t.Torn++
		}
		bad(fmt.Sprintf("flow=%s point=%d seed=%d most=%d state=%q after=%s aftermath=%v result=%s: %s",
			r.Flow.Name, s.Point, o.Seed, o.Most, s.How, r.at(calls, s.Point), after, kind, wrong))
		return o.Enough == 0 || t.Wrong() < o.Enough
	})
	if failed != nil {
		err = failed
	}
	return t, err
}

// at is the call that was the last.
func (r *Recording) at(calls []crashpoint.Call, point int) string {
	for i := range calls {
		if c := &calls[i]; c.Point == point {
			return strings.ReplaceAll(c.Name+"("+r.kind(c.File.Path)+")", " ", "_")
		}
	}
	return "nothing"
}

// told is the point of the call that says success to a reader of the screen's file; 0:
// there is none.
func (r *Recording) told(calls []crashpoint.Call) int {
	for i := range calls {
		var op struct{ Stage string }
		if c := &calls[i]; c.Name == "write" && c.Errno == 0 && strings.HasPrefix(c.File.Path, filepath.Join(r.Dir, "run")+"/") &&
			json.Unmarshal(c.Data, &op) == nil && op.Stage == "success" {
			return c.Point
		}
	}
	return 0
}

// twice: the directory of a version that runs has one name. A program that removes what is
// half would remove the current version.
func twice(tree *Node, rel string, site *flows.Site) []invariants.Problem {
	d := NewDisk(map[string]*Node{site.Dir: tree})
	for _, link := range []string{"current", "previous", "factory"} {
		if is := d.Resolve(filepath.Join(site.Dir, rel, link)); is != nil && Twice(tree, is.ID) {
			return []invariants.Problem{{Kind: invariants.Torn, Text: "the directory that " + link + " leads to has two names"}}
		}
	}
	return nil
}

// aftermath boots a device with tree, and updates it; what goes wrong, if anything does.
func (r *Recording) aftermath(ctx context.Context, w *flows.World, tree *Node, dir string) (_ string, err error) {
	defer try.End(&err)
	try.Check(tree.Write(dir))
	rel := try.Get(filepath.Rel(r.Dir, r.Root))
	s := try.Get(w.NewSite(r.Flow, dir, filepath.Join(dir, rel)))
	defer s.Remove()
	try.Check(s.Remember())
	problems, err := s.Aftermath(ctx, true)
	if len(problems) > 0 {
		return fmt.Sprint(problems), err
	}
	return "", err
}
