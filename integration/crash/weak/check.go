package weak

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/tier"
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
	// Tally counts the states, distinct ones, those checked of these, aftermaths, and the kinds
	// of what is wrong; nil: none.
	Tally *tier.Tally
}

// Weak checks what power cuts may leave of r. bad is told of each state that is
// wrong, in a line that says how to have it again.
func (r *Recording) Weak(ctx context.Context, w *flows.World, o Options, bad func(line string)) (err error) {
	defer try.End(&err)
	dir := try.Get(flows.Scratch())
	defer os.RemoveAll(dir)
	mirror := try.Get(NewMirror(dir))
	rel := try.Get(filepath.Rel(r.Dir, r.Root))
	site := &flows.Site{World: w, Flow: r.Flow, Dir: mirror.Dir(), Root: filepath.Join(mirror.Dir(), rel)}
	// What nothing may change, with the times that the mirror gives it.
	try.Check(mirror.Show(r.Before))
	try.Check(site.Remember())

	told := r.told()
	type key struct {
		tree [32]byte
		said int
	}
	distinct := make(map[key]bool)
	well := make(map[key]bool) // whether what was checked is
	stride, next := 0, 0
	if o.Aftermaths > 0 {
		// Spread over all points; the number of states is not known before.
		stride = max(1, len(r.Calls)/o.Aftermaths)
		next = stride / 2
	}
	count := func(kind string) { o.Tally.Add(r.Flow.Name, kind) }
	found := 0
	var failed error
	err = r.Each(o.Most, o.Seed, func(s State) bool {
		if o.Point != 0 && s.Point != o.Point {
			return true
		}
		if failed = ctx.Err(); failed != nil {
			return false
		}
		count("states")
		said, stage := &invariants.Said{Killed: true, Exit: -1}, 0
		if told > 0 && s.Point >= told {
			said.Operation, stage = "success", 1
		}
		if s.Point == len(r.Calls) {
			said, stage = r.Said, 2
		}
		k := key{s.Tree.Sum(), stage}
		if distinct[k] {
			return true
		}
		distinct[k] = true
		count("distinct")
		var wrong invariants.Problem
		seen := key{s.Seen.Sum(), stage}
		if is, known := well[seen]; known && !is {
			return true // it was told
		} else if !known {
			count("checked")
			if failed = mirror.Show(s.Seen); failed != nil {
				return false
			}
			if _, err := os.Lstat(site.Root); err == nil || said.Success() || r.Flow.Before.Current != "" {
				if _, problems := site.Check(said); len(problems) > 0 {
					wrong = problems[0]
				}
			} // else the store was not even made, and no program said that it was
			well[seen] = wrong.Kind == ""
		}
		if store := s.Tree.resolve(rel); wrong.Kind == "" && store != nil {
			wrong = unseen(s.Tree, rel, store, s.Disk.Lookup(r.Root))
		}
		after := wrong.Kind == "" && stride > 0 && s.Point >= next && s.How != "all"
		if after {
			next = s.Point + stride
			count("aftermaths")
			if wrong, failed = r.aftermath(ctx, w, s.Tree, filepath.Join(dir, "after")); failed != nil {
				return false
			}
		}
		if wrong.Kind == "" {
			return true
		}
		count(string(wrong.Kind))
		found++
		bad(fmt.Sprintf("flow=%s point=%d seed=%d most=%d state=%q after=%s aftermath=%v result=%v",
			r.Flow.Name, s.Point, o.Seed, o.Most, s.How, r.at(s.Point), after, wrong))
		return found != o.Enough
	})
	return cmp.Or(failed, err)
}

// at is the call that was the last.
func (r *Recording) at(point int) string {
	if point == 0 {
		return "nothing"
	}
	c := &r.Calls[point-1]
	return strings.ReplaceAll(c.Name+"("+r.kind(c.File.Path)+")", " ", "_")
}

// told is the point of the call that says success to a reader of the screen's file; 0:
// there is none.
func (r *Recording) told() int {
	for i := range r.Calls {
		var op struct{ Stage string }
		if c := &r.Calls[i]; c.Name == "write" && c.Errno == 0 && strings.HasPrefix(c.File.Path, r.run()+"/") &&
			json.Unmarshal(c.Data, &op) == nil && op.Stage == "success" {
			return c.Point
		}
	}
	return 0
}

// unseen is what is wrong with the store, at rel in tree, that Seen does not show. now is the
// store as it is before the power goes.
func unseen(tree *Node, rel string, store *Node, now *Inode) (wrong invariants.Problem) {
	// The directory of a version that runs has one name. A program that removes what is
	// half would remove the current version.
	for _, link := range []string{"current", "previous", "factory"} {
		if is := tree.resolve(filepath.Join(rel, link)); is != nil && tree.names(is.ID) > 1 {
			return invariants.Torn.Of("the directory that %s leads to has two names", link)
		}
	}
	if now != nil {
		if text := vouched(store, now); text != "" {
			wrong = invariants.Torn.Of("%s", text)
		}
	}
	return wrong
}

// aftermath boots a device with tree, and updates it; what goes wrong, if anything does.
func (r *Recording) aftermath(ctx context.Context, w *flows.World, tree *Node, dir string) (wrong invariants.Problem, err error) {
	defer try.End(&err)
	try.Check(tree.Write(dir))
	rel := try.Get(filepath.Rel(r.Dir, r.Root))
	s := try.Get(w.NewSite(r.Flow, dir, filepath.Join(dir, rel)))
	defer s.Remove()
	try.Check(s.Remember())
	problems := try.Get(s.Aftermath(ctx, true))
	if len(problems) > 0 {
		wrong = invariants.Stuck.Of("%v", problems)
	}
	return wrong, nil
}
