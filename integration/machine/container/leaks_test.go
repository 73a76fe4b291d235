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
	"github.com/tope-ota/ota/integration/try"
)

// onHost is everything that the machine whose directory is dir has on the host:
// directory, mounts, cgroup and processes.
func onHost(t *testing.T, dir string) (found []string) {
	t.Helper()
	defer try.Fatal(t)
	name := filepath.Base(dir)
	for _, path := range []string{dir, "/sys/fs/cgroup/" + name, "/sys/fs/cgroup/unified/" + name} {
		if _, err := os.Lstat(path); err == nil {
			found = append(found, path)
		}
	}
	// Those in its cgroup, and others that have one of its mounts.
	for _, pid := range try.Get(filepath.Glob("/proc/[0-9]*")) {
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
	defer try.Fatal(t)
	return len(try.Get(os.ReadDir("/proc/self/fd")))
}

// One machine after the other, each in the middle of something when it ends.
func TestNothingIsLeft(t *testing.T) {
	defer try.Fatal(t)
	machine.RequireContainer(t)
	ctx := machine.Context(t)
	const rounds = 20
	var fds, goroutines int
	for i := range rounds {
		c := try.Get(container.Start(ctx, container.Options{}))
		if got := onHost(t, c.Dir()); len(got) < 3 {
			t.Fatalf("a running machine has only %q on the host", got)
		}
		switch i % 4 {
		case 0: // at work
			machine.Sh(t, c, "sleep 1000 >/dev/null 2>&1 & systemd-run --quiet sleep 1000")
		case 1:
			c.Exec(ctx, "systemctl", "--no-block", "reboot")
		case 2:
			try.Check(c.PowerOff())
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
	try.Check(machine.Poll(testContext(t), fmt.Sprintf("no more than %d descriptors and %d goroutines", fds, goroutines), func(context.Context) error {
		if n, g := descriptors(t), runtime.NumGoroutine(); n > fds || g > goroutines {
			return fmt.Errorf("%d and %d", n, g)
		}
		return nil
	}))
}
