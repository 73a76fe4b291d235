package scenario_test

import (
	"context"
	"slices"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

// What the product is for, once more on the processor that most devices have: Debian's
// arm64 kernel and systemd, and the programs as `make build-arm64` makes them. All of
// the machines have a watchdog that is armed, as a device has.
func TestARM64(t *testing.T) {
	machine.RequireVM(t, debian.ARM64)
	defer try.Fatal(t)
	ctx := machine.Context(t)
	o := try.Get(machine.DeviceOverlayFor(ctx, debian.ARM64))
	// Shorter than what is installed, so that the test does not wait for three times half
	// a minute; long enough for a systemd that is emulated on a host with other work.
	o["/etc/systemd/system.conf.d/90-test.conf"] = debian.Unit("[Manager]\nRuntimeWatchdogSec=15s\n")
	options := vm.Options{Overlay: o, Watchdog: true, Variant: debian.Variant{Arch: debian.ARM64}}

	core := slices.DeleteFunc(slices.Clone(scenario.All), func(s scenario.Scenario) bool { return !s.Core })
	core = append(core, scenario.Scenario{
		Name: "a version that hangs the kernel until the watchdog resets it",
		Run: func(ctx context.Context, d *machine.Device) {
			scenario.Boots(ctx, d, scenario.PanicsLate, "hard", "system crash 3 of 3")
		},
		VM: []debian.Arch{debian.ARM64}, // it begins with two good versions: what CI has time for
	})
	run(t, ctx, inVM(core, debian.ARM64), func(t *testing.T, ctx context.Context) *machine.Device {
		d := started(t, options)
		// It is what the test is about.
		try.Get(d.Must(ctx, "sh", "-ec", `[ "$(uname -m)" = aarch64 ] && [ "$(cat /sys/class/watchdog/watchdog0/state)" = active ]`))
		return d
	})
}
