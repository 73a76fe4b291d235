package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Freeze stops every thread of QEMU wherever it is, until thaw is called; to the
// guest it is as if nothing happened but that time has passed. Disk is by then the
// disk that a power cut at this moment would leave: what the guest asked for and
// QEMU has not written is not in it. One run of a machine so gives any number of
// cuts.
func (v *VM) Freeze(ctx context.Context) (thaw func(), err error) {
	_, q, err := v.running()
	if err != nil {
		return nil, err
	}
	process := q.cmd.Process
	thaw = func() { process.Signal(syscall.SIGCONT) } // an error says that it has ended
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		return nil, v.explain(q, fmt.Errorf("cannot stop QEMU: %w", err))
	}
	// A write that the kernel has begun goes on after the signal was sent.
	start := time.Now()
	for {
		stopped, err := allStopped(process.Pid)
		if err == nil && stopped {
			return thaw, nil
		}
		if err == nil && ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil {
			thaw()
			return nil, fmt.Errorf("waited %s for QEMU to stop: %w", time.Since(start).Round(time.Millisecond), err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// allStopped reports whether each thread of the process is stopped: proc(5), state.
func allStopped(pid int) (bool, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(files) == 0 {
		return false, fmt.Errorf("process %d is gone (%v)", pid, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has just ended
		}
		// The name of the thread is in parentheses and may hold some.
		state := bytes.TrimLeft(b[bytes.LastIndexByte(b, ')')+1:], " ")
		if len(state) == 0 || bytes.IndexByte([]byte("TZX"), state[0]) < 0 {
			return false, nil
		}
	}
	return true, nil
}

// SlowDisk lets the data disk carry out that many operations a second, as slow
// flash does, so that what takes a moment can be met; 0 is no limit.
func (v *VM) SlowDisk(ctx context.Context, iops int) error {
	_, q, err := v.running()
	if err != nil {
		return err
	}
	limits := map[string]any{"id": "/machine/peripheral/data-disk/virtio-backend", "iops": iops}
	for _, name := range []string{"bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"} {
		limits[name] = 0
	}
	return v.explain(q, q.qmp.call(ctx, "block_set_io_throttle", limits, nil))
}
