// Package systemdtest runs bootcheck/systemd and the unit checks of
// bootcheck/health against a real systemd: the test binary is put into a
// container and run there as root.
//
//	host_test.go   starts the container and reports what the guest's tests say
//	guest_test.go  the tests that run in the guest
//	units_test.go  the units that they need
package systemdtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// guestBinary is where the test binary is in the guest; guestMark is in its
// environment there.
const (
	guestBinary = "/usr/lib/ota-test/systemdtest"
	guestMark   = "OTA_SYSTEMDTEST_GUEST"
)

func TestInContainer(t *testing.T) {
	host(t)
	defer try.Fatal(t)
	out := filepath.Join(t.TempDir(), "systemdtest")
	build := exec.CommandContext(machine.Context(t), "go", "test", "-c", "-o", out, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // it needs nothing of the guest
	try.Run(build)
	files := debian.Overlay{guestBinary: {Mode: 0o755, Data: try.Get(os.ReadFile(out))}}
	for name, text := range units {
		files["/etc/systemd/system/"+name] = debian.Unit(text)
	}
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		inGuest(t, machine.StartContainer(t, container.Options{Overlay: files, Variant: debian.Variant{Suite: s}}))
	})
}

// host skips a test where this is the guest, and where there can be none.
func host(t *testing.T) {
	t.Helper()
	if os.Getenv(guestMark) != "" {
		t.Skip("this is the guest")
	}
	machine.RequireContainer(t)
}

// onDevices tells a story of a device with the product, and with more, on each suite.
func onDevices(t *testing.T, more debian.Overlay, story func(s *served, suite debian.Suite)) {
	defer try.Fatal(t)
	host(t)
	files := try.Get(machine.DeviceOverlay())
	files.Add(more)
	machine.EachSuite(t, func(t *testing.T, suite debian.Suite) {
		defer try.Fatal(t)
		ctx, cancel := context.WithTimeout(machine.Context(t), 5*time.Minute)
		defer cancel()
		c := machine.StartContainer(t, container.Options{Overlay: files, Variant: debian.Variant{Suite: suite}})
		story(&served{machine.NewStory(ctx, t, c, machine.Quick)}, suite)
	})
}

// inGuest runs the tests of the guest in one machine.
func inGuest(t *testing.T, m machine.Machine) {
	defer try.Fatal(t)
	ctx, cancel := context.WithTimeout(machine.Context(t), 4*time.Minute)
	defer cancel()

	// One report for each test of the guest.
	r := try.Get(m.Exec(ctx, "/usr/bin/env", guestMark+"=1", guestBinary, "-test.v", "-test.run", "^TestGuest", "-test.timeout", "3m"))
	seen := 0
	for _, report := range strings.Split("\n"+r.Stdout, "\n=== RUN   ")[1:] {
		name, log, _ := strings.Cut(report, "\n")
		if strings.Contains(name, "/") {
			continue
		}
		seen++
		t.Run(name, func(t *testing.T) {
			switch {
			case strings.Contains(log, "--- FAIL: "):
				t.Error("\n" + log)
			case strings.Contains(log, "--- SKIP: "):
				t.Skip("\n" + log)
			}
		})
	}
	if r.Code != 0 && !t.Failed() || seen < 9 {
		t.Errorf("the guest ran %d tests: %s", seen, r)
	}

	// Last: a clean reboot asked for over the private socket.
	before := try.Get(m.BootID(ctx))
	// The agent may be stopped before it can say how this ended.
	m.Exec(ctx, "/usr/bin/env", guestMark+"=reboot", guestBinary, "-test.run", "^TestReboot$")
	if err := m.WaitReboot(ctx, before); err != nil {
		t.Errorf("Reboot: %v", err)
	}
}
