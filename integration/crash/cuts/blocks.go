package cuts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/crash/blocklog"
	"github.com/tope-ota/ota/integration/crash/blocks"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/machine"
)

// Record lets a device take the good version and writes down each write of its
// guest: it is installed and put on trial, the device is rebooted in the middle of
// that, the guardian counts the boot and confirms the version, and who asks for it
// again is told that it is there. dir is a new folder.
func (w *World) Record(ctx context.Context, dir string) (*blocks.Recording, error) {
	log := filepath.Join(dir, "log")
	if err := os.WriteFile(log, nil, 0o644); err != nil {
		return nil, err
	}
	m, d, err := w.resume(ctx, dir, log)
	if err != nil {
		return nil, err
	}
	defer m.Stop()
	if err := rebootOnTrial(ctx, d); err != nil {
		return nil, fmt.Errorf("%w\nthe machine's log:\n%s", err, m.Log())
	}
	if err := m.PowerOff(); err != nil {
		return nil, err
	}
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &blocks.Recording{FS: "ext4"}
	if r.Entries, err = blocklog.Read(f); err != nil {
		return nil, err
	}
	base, err := os.Open(w.disk())
	if err != nil {
		return nil, err
	}
	defer base.Close()
	size, err := base.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	r.Base, err = blocks.LoadImage(base, size)
	return r, err
}

func rebootOnTrial(ctx context.Context, d *device.Device) error {
	install := []string{"ota-apply", "install", machine.BundleAt + "/" + good.Name + ".ota"}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	go d.Exec(running, install...) // ends with the boot
	err := machine.Poll(ctx, good.Name+" to be on trial", func(ctx context.Context) (bool, error) {
		text, err := d.ReadFile(ctx, machine.Store+"/.active/record.json")
		if err != nil {
			return false, err
		}
		record, err := bootcheck.ParseRecord(text)
		return err == nil && record.Phase == bootcheck.PhaseTrial, err
	})
	if err != nil {
		return err
	}
	if err := d.Reboot(ctx); err != nil {
		return err
	}
	confirmed := device.Want{Current: good.Name, Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
	if err := d.Reach(ctx, confirmed); err != nil {
		return err
	}
	if _, err := d.Must(ctx, install...); err != nil {
		return err
	}
	_, err = d.Must(ctx, "sync") // the log counts its entries when it is flushed
	return err
}

// plan chooses n states of r: one half prefixes, at each flush first, the other half
// parts of what was not flushed. It ends the log where it ends.
func plan(r *blocks.Recording, n int, seed uint64) []blocks.State {
	random := rand.New(rand.NewPCG(seed, 0))
	var flushes, others []blocks.State
	for point := range len(r.Entries) + 1 {
		if point == len(r.Entries) || r.Entries[point].Flags&(blocklog.Flush|blocklog.FUA) != 0 {
			flushes = append(flushes, blocks.State{Point: point})
		} else {
			others = append(others, blocks.State{Point: point})
		}
	}
	for _, states := range [][]blocks.State{flushes, others} {
		random.Shuffle(len(states), func(i, j int) { states[i], states[j] = states[j], states[i] })
	}
	all := slices.Concat(flushes, others)
	all = all[:min(len(all), n/2)]
	for len(all) < n {
		all = append(all, blocks.State{Point: random.IntN(len(r.Entries) + 1), Seed: 1 + random.Uint64N(1<<32)})
	}
	slices.SortFunc(all, func(a, b blocks.State) int { return a.Point - b.Point })
	return all
}

// A guest is a recording that is replayed.
type guest struct {
	*World
	*blocks.Recording
	replay *blocks.Replay
	dir    string // where the disk is mounted
}

// errUnmountable is a state that the file system itself cannot cope with.
var errUnmountable = errors.New("the file system cannot be mounted")

// judge makes a state and judges it: what is on the disk, and, with after, what
// becomes of it.
func (g *guest) judgeState(ctx context.Context, s blocks.State, after bool) (d *Disk, problems []invariants.Problem, err error) {
	reached := false
	err = g.replay.Mount(g.Set(s), g.dir, func() (err error) {
		reached = true
		if d, err = read(g.dir); err != nil {
			return err
		}
		if problems = append(d.Found.Problems, g.honest(Update, d, running)...); after && len(problems) == 0 {
			problems, err = g.aftermath(ctx, g.dir, d.Found.State)
		}
		return err
	})
	if err != nil && !reached {
		err = fmt.Errorf("%w: %w", errUnmountable, err)
	}
	return d, problems, err
}
