package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// A snapshot is a directory of the cache with a machine that has booted: ram, the
// stream of QEMU's migration to a file, and data.img, the disk as it was then.

// startWarm continues a machine from the snapshot of one like it, making that
// first if there is none.
func (v *VM) startWarm(ctx context.Context) (err error) {
	defer try.End(&err)
	version := try.Output(exec.CommandContext(ctx, v.opts.Variant.Arch.Facts().QEMU, "--version"))
	key := append([]string{version, v.assets.root, fmt.Sprint(dataSize)}, v.opts.args(v.assets)...)
	dir, err := debian.Entry(ctx, "snapshot-"+debian.Hash(key...), func(ctx context.Context, dir string) error {
		return v.makeSnapshot(ctx, dir)
	})
	if err != nil {
		return fmt.Errorf("cannot make the snapshot for a warm start: %w", err)
	}
	return v.restore(ctx, dir)
}

// restore continues a machine from the snapshot in dir.
func (v *VM) restore(ctx context.Context, dir string) (err error) {
	defer try.End(&err)
	try.Check(copySparse(filepath.Join(dir, "data.img"), v.Disk()))
	try.Check(v.launch(ctx, "-incoming", "exec:cat "+quote(filepath.Join(dir, "ram"))))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	try.Check(v.resume(ctx))
	if v.opts.RTC == "" { // the guest's clock has stood still since the snapshot
		r := try.Get(v.Exec(ctx, "date", "-s", fmt.Sprintf("@%.3f", float64(time.Now().UnixMilli())/1000)))
		if r.Code != 0 {
			return fmt.Errorf("cannot set the clock of the machine: %s", r)
		}
	}
	v.log.Note("warm start")
	return nil
}

// resume waits until QEMU has read the snapshot, and lets the guest continue.
func (v *VM) resume(ctx context.Context) error {
	return v.control(func(q *qmp) {
		try.Check(agent.Poll(ctx, "QEMU to read the snapshot", func(ctx context.Context) error {
			var status struct{ Status string }
			try.Check(q.call(ctx, "query-status", nil, &status))
			if status.Status == "inmigrate" {
				return errors.New("it still reads")
			}
			return nil
		}))
		try.Check(q.call(ctx, "cont", nil, nil))
	})
}

// control has do control QEMU, and explains what that fails with.
func (v *VM) control(do func(q *qmp)) (err error) {
	_, q, err := v.running()
	if err != nil {
		return err
	}
	defer func() { err = v.explain(q, err) }()
	defer try.End(&err)
	do(q.qmp)
	return nil
}

// makeSnapshot boots a machine like v, with its disk in dir, waits until the boot
// is over, and writes it to dir.
func (v *VM) makeSnapshot(ctx context.Context, dir string) (err error) {
	defer try.End(&err)
	o := v.opts
	o.Cold = true
	m := newVM(o, v.assets, dir, v.log)
	defer m.Stop()
	defer context.AfterFunc(ctx, m.Stop)()
	try.Check(m.start(ctx))
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	// "degraded" exits 1: what the overlay holds is the test's affair.
	if r, err := m.Exec(ctx, "systemctl", "is-system-running", "--wait"); err != nil {
		return fmt.Errorf("waited for the end of the boot: %w", err)
	} else {
		v.log.Note("the boot is over: %s", strings.TrimSpace(r.Stdout))
	}
	if r, err := m.Exec(ctx, "sync"); err != nil || r.Code != 0 {
		return fmt.Errorf("sync in the machine: %v %s", err, r)
	}
	return m.pause(ctx, dir)
}

// Save writes the machine as it is to the new directory dir, for Options.From, and
// switches it off. What the guest has not written to its disk yet is in it too.
func (v *VM) Save(ctx context.Context, dir string) (err error) {
	defer try.End(&err)
	try.Check(os.Mkdir(dir, 0o755))
	if err := v.pause(ctx, dir); err != nil {
		return fmt.Errorf("cannot save the virtual machine: %w", err)
	}
	try.Check(v.PowerOff())
	return copySparse(v.Disk(), filepath.Join(dir, "data.img"))
}

// pause stops the guest and writes its memory to dir.
func (v *VM) pause(ctx context.Context, dir string) error {
	// The program writes on after QEMU says "completed": it is done when the file
	// has its name.
	ram := filepath.Join(dir, "ram")
	uri := fmt.Sprintf("exec:cat > %[1]s.new && mv %[1]s.new %[1]s", quote(ram))
	return v.control(func(q *qmp) {
		try.Check(q.call(ctx, "stop", nil, nil))
		try.Check(q.call(ctx, "migrate", map[string]any{"uri": uri}, nil))
		try.Check(agent.Poll(ctx, "QEMU to write the snapshot", func(ctx context.Context) error {
			var info struct {
				Status string
				Desc   string `json:"error-desc"`
			}
			try.Check(q.call(ctx, "query-migrate", nil, &info))
			if info.Status == "failed" {
				try.Failf("migration failed: %s", info.Desc)
			}
			if info.Status != "completed" {
				return fmt.Errorf("it is %s", info.Status)
			}
			_, err := os.Stat(ram)
			return err
		}))
	})
}

// quote makes s one word of the shell that QEMU starts for exec:.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
