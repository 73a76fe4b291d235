package container_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
)

// onHost is everything that the machine whose directory is dir has on the host:
// directory, mounts, cgroup and processes.
func onHost(t *testing.T, dir string) (found []string) {
	t.Helper()
	name := filepath.Base(dir)
	if _, err := os.Lstat(dir); err == nil {
		found = append(found, dir)
	}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			found = append(found, filepath.Join(root, name))
		}
	}
	return append(found, processes(t, name)...)
}

// processes are the processes in the machine's cgroup, and others that have one
// of its mounts.
func processes(t *testing.T, name string) (found []string) {
	t.Helper()
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		for _, file := range []string{"cgroup", "mountinfo"} {
			if b, err := os.ReadFile(filepath.Join(pid, file)); err == nil && bytes.Contains(b, []byte(name)) {
				found = append(found, pid+"/"+file)
			}
		}
	}
	return found
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// One machine after the other, each in the middle of something when it ends.
func TestNothingIsLeft(t *testing.T) {
	machine.RequireContainer(t)
	ctx := machine.Context(t)
	const rounds = 20
	var fds, goroutines int
	for i := range rounds {
		c, err := container.Start(ctx, container.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := onHost(t, c.Dir()); len(got) < 3 {
			t.Fatalf("a running machine has only %q on the host", got)
		}
		switch i % 4 {
		case 0: // at work
			machine.Sh(t, c, "sleep 1000 >/dev/null 2>&1 & systemd-run --quiet sleep 1000")
		case 1:
			c.Exec(ctx, "systemctl", "--no-block", "reboot")
		case 2:
			if err := c.PowerOff(); err != nil {
				t.Error(err)
			}
		}
		c.Stop()
		c.Stop()
		if got := onHost(t, c.Dir()); len(got) > 0 {
			t.Fatalf("round %d left %q", i, got)
		}
		if _, err := c.Exec(ctx, "true"); err == nil {
			t.Error("Exec in a machine that was stopped succeeded")
		}
		if i == 4 { // what is made once has been made
			fds, goroutines = descriptors(t), runtime.NumGoroutine()
		}
	}
	err := machine.Poll(testContext(t), fmt.Sprintf("no more than %d descriptors and %d goroutines", fds, goroutines), func(context.Context) (bool, error) {
		if n, g := descriptors(t), runtime.NumGoroutine(); n > fds || g > goroutines {
			return false, fmt.Errorf("%d and %d", n, g)
		}
		return true, nil
	})
	if err != nil {
		t.Error(err)
	}
}
