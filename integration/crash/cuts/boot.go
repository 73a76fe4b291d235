package cuts

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/crash/invariants"
	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/vm"
)

// Boot gives a device with the disk of c its power back and waits until it has come
// to what it must by itself. With install, a good version is installed then. What is
// on its disk in the end is judged again, after another power cut. dir is a new
// folder for its disk; c.File is moved there.
func (w *World) Boot(ctx context.Context, c *Cut, dir string, install bool) (problems []invariants.Problem, log string, err error) {
	disk := filepath.Join(dir, "data.img")
	if err := applyDelta(w.disk(), c.File, disk); err != nil {
		return nil, "", err
	}
	o := w.options
	o.Cold, o.Dir = true, dir
	m, err := vm.Start(ctx, o)
	if err != nil {
		return nil, "", err
	}
	defer m.Stop()
	stuck := func(err error) ([]invariants.Problem, string, error) {
		return []invariants.Problem{problem(invariants.Stuck, "%v", err)}, m.Log(), ctx.Err()
	}
	d := &device.Device{Machine: m, Limits: limits}
	end := c.Story.ends(c.Disk)
	want := device.Want{Current: end.Current, Previous: end.Previous, Factory: end.Factory, Phase: bootcheck.PhaseConfirmed}
	if c.Story.Left > 0 && c.Story.meaning(c.Disk) > 0 {
		want.Told = "ROLLED_BACK_TO_PREVIOUS" // and if it takes one more boot
	}
	if err := d.Reach(ctx, want); err != nil {
		return stuck(err)
	}
	if install {
		r, err := d.Exec(ctx, "ota-apply", "install", "http://127.0.0.1:8000/"+next.Name+".ota")
		if err != nil {
			return stuck(err)
		}
		if r.Code != 0 {
			return stuck(fmt.Errorf("ota-apply install %s: %s", next.Name, r))
		}
		want = device.Want{Current: next.Name, Previous: end.Current, Factory: end.Factory, Phase: bootcheck.PhaseConfirmed, Told: "success"}
		if err := d.Reach(ctx, want); err != nil {
			return stuck(err)
		}
	}
	if err := m.PowerOff(); err != nil {
		return stuck(err)
	}
	got, err := w.Look(ctx, disk)
	if err != nil {
		return nil, m.Log(), err
	}
	problems = got.Found.Problems
	if got.Factory != w.factory {
		problems = append(problems, problem(invariants.Torn, "factory was touched"))
	}
	s := invariants.State{Phase: string(want.Phase), Current: want.Current, Previous: want.Previous, Factory: want.Factory}
	if !install {
		// That it is confirmed was seen, maybe before it was durable, and not said.
		s.Phase = got.Found.State.Phase
	}
	if got.Found.State != s {
		problems = append(problems, problem(invariants.Lie, "it was %v, and after another power cut it is %v", s, got.Found.State))
	}
	return problems, m.Log(), nil
}

// ends is what a device must come to by itself that d is the disk of: a good version
// that was made current stays so, and a bad one does not.
func (s *Story) ends(d *Disk) invariants.State {
	if s.meaning(d) == 0 {
		return s.States[0]
	}
	return s.States[len(s.States)-1]
}
