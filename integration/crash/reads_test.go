package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/tier"
)

// readErrnos are what a look at the disk may fail with. Two say that this process
// lacks something, one that it may not, and one that the disk cannot.
var readErrnos = []unix.Errno{unix.EIO, unix.ENOMEM, unix.EMFILE, unix.EACCES}

// The sample of each flow: reads that fail once, and from then on; 0: all.
var (
	readsOnce = tier.Of(2, 16, 0)
	readsOn   = tier.Of(1, 4, 0)
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

// runReads is run, whose reads below l.dir are the points.
func (l *Lab) runReads(ctx context.Context, s *flows.Site, args []string, plan crashpoint.Plan) (*invariants.Said, *crashpoint.Run, error) {
	return runWith(ctx, s, args, 1, func(ctx context.Context, cmd *exec.Cmd) (*crashpoint.Run, error) {
		return crashpoint.StartReads(ctx, cmd, l.dir, programs, plan)
	})
}

// readingOf runs f and looks at what it reads.
func (l *Lab) readingOf(ctx context.Context, f *flows.Flow) (*reading, error) {
	site, err := l.copyOf(l.bench[f].site)
	if err != nil {
		return nil, err
	}
	defer func() { _ = site.Remove() }()
	before, err := remembered(site.Root)
	if err != nil {
		return nil, err
	}
	there := versionsIn(site.Root)
	said, run, err := l.runReads(ctx, site, f.Args(site), nil)
	if err != nil || said.Exit != f.Exit {
		return nil, fmt.Errorf("flow %s: exit %v, want %d (%v)", f.Name, said, f.Exit, err)
	}
	r := &reading{calls: run.Calls, site: site.Dir, allowed: []*facts{before}}
	if r.last, err = remembered(site.Root); err != nil {
		return nil, err
	}
	// Also where its number is one that was there before, and was given up.
	r.allowed = append(r.allowed, r.last)
	names, err := filepath.Glob(filepath.Join(site.Root, ".generations", "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := strconv.ParseUint(filepath.Base(name), 10, 64); err != nil {
			continue // prepared, and not switched to
		}
		// What was there before is history: nothing leads back to it.
		if _, err := os.Stat(filepath.Join(l.bench[f].site.Root, ".generations", filepath.Base(name))); err == nil {
			continue
		}
		g, err := factsIn(name)
		if err != nil {
			return nil, err
		}
		r.allowed = append(r.allowed, g)
	}
	for _, name := range versionsIn(site.Root) {
		proved := before != nil && slices.ContainsFunc(before.Confirmed, func(n named) bool { return "v"+n.Version == filepath.Base(name) })
		if proved && slices.Contains(there, name) {
			r.stay = append(r.stay, filepath.Base(name))
		}
	}
	return r, nil
}

// tryRead makes the read p.n of its flow fail, and checks what that left.
func (l *Lab) tryRead(ctx context.Context, p point, r *reading) (*outcome, error) {
	b := l.bench[p.flow]
	site, err := l.copyOf(b.site)
	if err != nil {
		return nil, err
	}
	defer func() { _ = site.Remove() }()
	plan := crashpoint.Fail(p.n, p.errno)
	if p.on {
		plan = crashpoint.FailFrom(p.n, p.errno)
	}
	o := &outcome{point: p, site: site.Dir}
	c := &flows.Case{Flow: p.flow, Site: site, Kept: b.kept}
	said, run, err := l.runReads(ctx, site, p.flow.Args(site), plan)
	if err != nil && err != errHangs {
		return nil, fmt.Errorf("%v: %w", p, err)
	}
	c.Said, o.said, o.log = said, said, run.Calls
	if p.n > len(run.Calls) {
		return o, nil // a retry less than in the run that was measured
	}
	o.reached, o.call = true, "read:"+run.Calls[p.n-1].Name
	problem := func(kind invariants.Kind, format string, args ...any) {
		o.problems = append(o.problems, invariants.Problem{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	if err == errHangs {
		problem(invariants.Stuck, "it does not end within %v", patience)
	}
	found, problems := c.Check()
	o.state = found.State
	// A disk that cannot be read any more is damage: nothing is left to roll back to,
	// and a boot that continues with what is there is a boot that is done.
	keeps := p.on && p.errno == unix.EIO && slices.Contains(p.flow.Args(site), "boot")
	problems = slices.DeleteFunc(problems, func(p invariants.Problem) bool { return keeps && p.Kind == invariants.Lie })
	o.problems = append(o.problems, problems...)
	now, err := remembered(site.Root)
	if err != nil {
		problem(invariants.Torn, "%v", err)
		return o, nil
	}
	same := func(f *facts) bool { return cmp.Equal(f, now) }
	if said.Exit == p.flow.Exit && !same(r.last) && !keeps {
		problem(invariants.Lie, "exit %d, and it remembers otherwise (-want +got):\n%s", said.Exit, cmp.Diff(r.last, now))
	} else if !slices.ContainsFunc(r.allowed, same) {
		problem(invariants.Torn, "a read that failed changed what it remembers (-before +now):\n%s", cmp.Diff(r.allowed[0], now))
	}
	for _, name := range r.stay {
		if _, err := os.Lstat(filepath.Join(site.Root, name)); err != nil {
			problem(invariants.Torn, "%s is gone", name)
		}
	}
	return o, nil
}

// TestReads makes the looks at the disk fail, each one once and from then on. No phase, no
// block, no pending version and no confirmed one may change for it.
//
//	go test ./integration/crash -run TestReads -v -crash.flow NAME -crash.point N -crash.errno EIO [-crash.on]
//
// makes one point once more, with its log.
func TestReads(t *testing.T) {
	began := time.Now()
	r := rand.New(rand.NewPCG(tier.Seed(t), 1))
	// A full disk is what TestPoints fills.
	all := slices.DeleteFunc(slices.Clone(chosen(t)), func(f *flows.Flow) bool { return f.Full })
	l := newLab(t, all)
	readings := make(map[*flows.Flow]*reading)
	lengths := make(map[*flows.Flow]int)
	var mu sync.Mutex
	inParallel(t, all, func(ctx context.Context, f *flows.Flow) error {
		one, err := l.readingOf(ctx, f)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			readings[f], lengths[f] = one, len(one.calls)
		}
		return err
	})
	var work []point
	for _, f := range all {
		for _, on := range []bool{false, true} {
			var some []point
			for _, errno := range readErrnos {
				some = append(some, points([]*flows.Flow{f}, lengths, point{errno: errno, on: on, procs: 1})...)
			}
			most := map[bool]int{false: readsOnce, true: readsOn}[on]
			if !nightly && *flowFlag == "" {
				r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
				some = some[:min(len(some), most)]
			}
			work = append(work, some...)
		}
	}
	total := 0
	for f, n := range lengths {
		t.Logf("flow %s looks %d times", f.Name, n)
		total += 2 * len(readErrnos) * n
	}
	if *pointFlag != 0 {
		work = slices.DeleteFunc(work, func(p point) bool {
			return p.n != *pointFlag || p.on != *onFlag || unix.ErrnoName(p.errno) != *errnoFlag
		})
	}
	var counts tally
	failed := map[string]int{}
	defer func() {
		t.Logf("what came of each flow's:\n%v", &counts)
		counts.sum("reads", "failed", total, began)
		t.Logf("the command did not do its work after a read that failed once: %v", failed)
	}()
	inParallelBy(t, readsPerCore, work, func(ctx context.Context, p point) error {
		o, err := l.tryRead(ctx, p, readings[p.flow])
		if err != nil || !o.reached {
			return err
		}
		if !p.on && o.said.Exit != p.flow.Exit {
			mu.Lock()
			failed[p.flow.Name+" "+o.describe(&o.log[p.n-1])]++
			mu.Unlock()
		}
		if len(o.problems) == 0 && *pointFlag == 0 {
			counts.add(o)
			return nil
		}
		counts.add(o)
		text := strings.Replace(o.story(), "-run TestPoint ", "-run TestReads ", 1)
		if len(o.problems) > 0 {
			t.Error(text)
		} else {
			t.Log(text)
		}
		return nil
	})
}
