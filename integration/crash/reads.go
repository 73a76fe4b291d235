package crash

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/try"
)

// programs are those whose reads fail. The shells of health checks are not: what they
// make of it is a check's.
var programs = []string{"ota-guardian", "ota-apply"}

// facts are what a device remembers and must not forget, change or make up because a
// read failed: not the counters of a trial nor what a rollback has as evidence.
type facts struct {
	Phase     string
	Hold      string `json:"hold"`
	Current   *named
	Previous  *named
	Factory   *named
	Next      *named
	Confirmed []named
	Blocked   []named
	Rollback  *struct{ From, To, Level, Cause string } `json:"last_rollback"`
	Floor     int64                                    `json:"release_floor"`
	Revoked   []string                                 `json:"revoked_keys"`
	Trial     *struct{ Hard, Unclean, Clean int }
}

type named struct{ Version, Digest string }

// factsIn are those of a generation's directory.
func factsIn(dir string) (*facts, error) {
	data, err := os.ReadFile(filepath.Join(dir, "record.json"))
	if err != nil {
		return nil, err
	}
	f := new(facts)
	return f, json.Unmarshal(data, f)
}

// remembered is what is active in the store at root; nil: nothing is.
func remembered(root string) (*facts, error) {
	f, err := factsIn(filepath.Join(root, ".active"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// versionsIn are the versions that have their names in the store at root.
func versionsIn(root string) []string {
	names, _ := filepath.Glob(filepath.Join(root, "v*"))
	return names
}

// A reading is what a flow reads when nothing fails, and what it may leave.
type reading struct {
	calls   []crashpoint.Call
	site    string   // where they were made
	allowed []*facts // before it, and of each generation that it makes
	last    *facts   // of the last one
	stay    []string // versions that were confirmed, and are there before and after it
}

// reading runs f and looks at what it reads.
func (l *Lab) reading(ctx context.Context, f *flows.Flow) (*reading, error) {
	return l.readings.of(f, func() (_ *reading, err error) {
		defer try.End(&err)
		site := try.Get(l.Site(ctx, f))
		defer func() { _ = site.Remove() }()
		before := try.Get(remembered(site.Root))
		there := versionsIn(site.Root)
		generations := filepath.Join(site.Root, ".generations", "*")
		history := try.Get(filepath.Glob(generations))
		r := &reading{site: site.Dir}
		r.calls = try.Get(l.whole(ctx, site, point{flow: f, read: true, procs: 1}))
		r.last = try.Get(remembered(site.Root))
		// The last one also where its number is one that was there before, and was given up.
		r.allowed = []*facts{before, r.last}
		for _, name := range try.Get(filepath.Glob(generations)) {
			_, err := strconv.ParseUint(filepath.Base(name), 10, 64)
			// What is no number is prepared, and not switched to; what was there before is
			// history: nothing leads back to it.
			if err == nil && !slices.Contains(history, name) {
				r.allowed = append(r.allowed, try.Get(factsIn(name)))
			}
		}
		for _, name := range versionsIn(site.Root) {
			proved := before != nil && slices.ContainsFunc(before.Confirmed, func(n named) bool { return "v"+n.Version == filepath.Base(name) })
			if proved && slices.Contains(there, name) {
				r.stay = append(r.stay, filepath.Base(name))
			}
		}
		return r, nil
	})
}

// checkRead adds to o what a read that failed left that it must not; problems are what is wrong
// with the site anyhow.
func (l *Lab) checkRead(ctx context.Context, o *outcome, site *flows.Site, problems []invariants.Problem) error {
	r, err := l.reading(ctx, o.flow)
	if err != nil {
		return err
	}
	// A disk that cannot be read any more is damage: nothing is left to roll back to,
	// and a boot that continues with what is there is a boot that is done.
	keeps := o.on && o.errno == unix.EIO && slices.Contains(site.Args(), "boot")
	problems = slices.DeleteFunc(problems, func(p invariants.Problem) bool { return keeps && p.Kind == invariants.Lie })
	o.problems = append(o.problems, problems...)
	problem := func(kind invariants.Kind, format string, args ...any) {
		o.problems = append(o.problems, kind.Of(format, args...))
	}
	now, err := remembered(site.Root)
	if err != nil {
		problem(invariants.Torn, "%v", err)
		return nil
	}
	same := func(f *facts) bool { return cmp.Equal(f, now) }
	if o.said.Exit == o.flow.Exit && !same(r.last) && !keeps {
		problem(invariants.Lie, "exit %d, and it remembers otherwise (-want +got):\n%s", o.said.Exit, cmp.Diff(r.last, now))
	} else if !slices.ContainsFunc(r.allowed, same) {
		problem(invariants.Torn, "a read that failed changed what it remembers (-before +now):\n%s", cmp.Diff(r.allowed[0], now))
	}
	for _, name := range r.stay {
		if _, err := os.Lstat(filepath.Join(site.Root, name)); err != nil {
			problem(invariants.Torn, "%s is gone", name)
		}
	}
	return nil
}
