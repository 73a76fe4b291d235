package mutants

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash"
	"github.com/tope-ota/ota/integration/crash/blocks"
	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/weak"
	"github.com/tope-ota/ota/integration/try"
)

// An Engine is one way to interrupt a command, or to look at what it does. Each is
// asked alone: what it finds is not what another one found.
type Engine string

const (
	Runs   Engine = "runs"   // nothing interrupts it
	Kills  Engine = "kills"  // killed at each point, and then the aftermath
	Errors Engine = "errors" // each call fails, once and from then on
	Lock   Engine = "lock"   // each change is made under the lock that it needs
	Weak   Engine = "weak"   // the weak model of its log, and of those in which a sync failed
	Blocks Engine = "blocks" // block replay
)

// Engines are all of them.
var Engines = []Engine{Runs, Kills, Errors, Lock, Weak, Blocks}

// A Bench is where mutants are tried.
type Bench struct {
	World *flows.World
	// Filesystems is on how many file systems the block replay looks; ext4 is the first.
	Filesystems int
	// Syncs: only errors of syncs and removals.
	Syncs bool
	lab   *crash.Lab
}

// NewBench makes one whose files are in w.Dir.
func NewBench(w *flows.World) *Bench {
	return &Bench{World: w, Filesystems: 1, lab: crash.NewLab(w)}
}

// A Trial is a mutant in one flow.
type Trial struct {
	*Bench
	Flow *flows.Flow
	bad  *flows.World
	dir  string
	logs []*weak.Recording // made by recordings, once
}

// Try builds the mutant whose overlay is given, for the command of f. dir is for its files.
func (b *Bench) Try(ctx context.Context, f *flows.Flow, overlay, dir string) (_ *Trial, err error) {
	defer try.End(&err)
	site := try.Get(b.lab.Site(ctx, f))
	defer site.Remove()
	// Only the command of the flow is a mutant's; what was before it is as it must be.
	bad, err := b.World.Rebuild(ctx, site.Args()[0], dir, "-overlay="+overlay)
	return &Trial{Bench: b, Flow: f, bad: bad, dir: dir}, err
}

// Find is what e finds of the mutant; empty: nothing.
func (t *Trial) Find(ctx context.Context, e Engine) (found string, err error) {
	defer try.End(&err)
	switch e {
	case Kills:
		return t.lab.Kills(ctx, t.Flow, t.bad)
	case Errors:
		return t.lab.Errors(ctx, t.Flow, t.bad, t.Syncs)
	case Blocks:
		return t.blocks(ctx)
	case Runs:
		r, err := t.record(ctx, nil)
		var wrong *weak.ExitError
		if errors.As(err, &wrong) {
			return err.Error(), nil
		}
		if err == nil && len(r.Problems) > 0 {
			found = r.Problems[0].String()
		}
		return found, err
	}
	logs := try.Get(t.recordings(ctx))
	for i, r := range logs {
		most := 60
		if i > 0 {
			most = 20
		}
		switch e {
		case Lock:
			if len(r.Unlocked) > 0 {
				return r.Unlocked[0], nil
			}
		case Weak:
			undone := try.Get(r.Undone())
			if len(undone) > 0 {
				return undone[0], nil
			}
			if err := r.Weak(ctx, t.bad, weak.Options{Most: most, Seed: 1, Enough: 1}, func(line string) { found = line }); found != "" || err != nil {
				return found, err
			}
		}
	}
	return "", nil
}

func (t *Trial) record(ctx context.Context, plan crashpoint.Plan) (_ *weak.Recording, err error) {
	defer try.End(&err)
	site := try.Get(t.lab.Site(ctx, t.Flow))
	defer site.Remove()
	return weak.Record(ctx, site.In(t.bad), plan)
}

// recordings are the logs of a run that nothing interrupts and of those in which the first
// or the last sync of its kind fails, or a removal and all after it: one that fails once is made again,
// by another call.
func (t *Trial) recordings(ctx context.Context) (_ []*weak.Recording, err error) {
	defer try.End(&err)
	if t.logs != nil {
		return t.logs, nil
	}
	whole := try.Get(t.record(ctx, nil))
	logs := []*weak.Recording{whole}
	last := make(map[string]int)
	for i := range whole.Calls {
		last[whole.Kind(&whole.Calls[i])] = i
	}
	first := make(map[string]bool)
	for i := range whole.Calls {
		c := &whole.Calls[i]
		kind := whole.Kind(c)
		if c.Name != "fsync" && c.Name != "syncfs" && c.Name != "unlink" || first[kind] && last[kind] != i {
			continue
		}
		first[kind] = true
		same, failing, on := whole.Same(c.Point), false, c.Name == "unlink"
		r := try.Get(t.record(ctx, func(c *crashpoint.Call) crashpoint.Action {
			if failing = failing && on || same(c); failing {
				return crashpoint.Action{Errno: unix.EIO}
			}
			return crashpoint.Action{}
		}))
		logs = append(logs, r)
	}
	t.logs = logs
	return logs, nil
}

// states is as many as the block replay makes of a flow in a deep run.
const states = 80

// blocks looks on each of the file systems, all of which must see the mutant.
func (t *Trial) blocks(ctx context.Context) (found string, err error) {
	if t.Flow.Full && slices.Contains(flows.Odd, t.Flow) {
		return "", nil // on a real disk what is removed makes room, and it ends otherwise
	}
	for _, fs := range blocks.Filesystems[:t.Filesystems] {
		if found, err = t.blocksOn(ctx, fs); found == "" || err != nil {
			break
		}
	}
	return found, err
}

func (t *Trial) blocksOn(ctx context.Context, fs blocks.Filesystem) (found string, err error) {
	defer try.End(&err)
	dir := try.Get(os.MkdirTemp("", "mutant-"))
	defer os.RemoveAll(dir)
	r := try.Get(blocks.RecordFlow(ctx, t.World, t.bad, t.Flow, fs.Name, fs.Size, filepath.Join(dir, "run")))
	defer r.Close()
	err = r.Check(ctx, r.Plan(states, 1), 20, nil, func(f *blocks.Finding) bool {
		if f.Err == nil {
			found = fmt.Sprintf("%s %v", f.Line(r), f.Problems[0])
		}
		return found == ""
	})
	return found, err
}
