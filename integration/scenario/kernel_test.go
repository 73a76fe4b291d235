package scenario_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// What only a kernel can show.
func TestKernel(t *testing.T) {
	machine.RequireVM(t, debian.AMD64)
	defer try.Fatal(t)
	o := try.Get(machine.DeviceOverlay())
	// A watchdog that does not make the test wait for half a minute.
	quick := maps.Clone(o)
	quick["/etc/systemd/system.conf.d/90-test.conf"] = debian.File{Mode: 0o644, Data: []byte("[Manager]\nRuntimeWatchdogSec=5s\n")}
	account := maps.Clone(o)
	scenario.CostOverlay(account)
	seed := uint64(time.Now().UnixNano())
	type row struct {
		name    string
		options vm.Options
		started bool // scenario.Start has been on the device; else it is new
		run     func(ctx context.Context, t *testing.T, d *machine.Device)
	}
	rows := []row{
		{"a version that reboots the machine cleanly", vm.Options{Overlay: o}, true, boots(scenario.Reboots, "clean", "reboot 3 of 3")},
		{"a version that panics the kernel at its start", vm.Options{Overlay: o, Append: "panic=1"}, true, boots(scenario.PanicsEarly, "unclean", "power cut 3 of 3")},
		{"a version that hangs the kernel until the watchdog resets it", vm.Options{Overlay: quick, Watchdog: true}, false, boots(scenario.PanicsLate, "hard", "system crash 3 of 3")},
		{"a clock that begins in 1970 and jumps", vm.Options{Overlay: o, RTC: "1970-01-01T00:00:00", Cold: true}, false, func(ctx context.Context, _ *testing.T, d *machine.Device) {
			scenario.WithoutClock(ctx, d)
		}},
		{"ordinary boots, which write nothing, and a version that eats its memory", vm.Options{Overlay: account}, false, func(ctx context.Context, _ *testing.T, d *machine.Device) {
			scenario.WritesNothing(ctx, d)
			scenario.EatsMemory(ctx, d)
		}},
	}
	if tier.Nightly {
		// Longer versions of rows above.
		rows = append(rows, []row{
			{"a version that panics the kernel when it was well", vm.Options{Overlay: o, Append: "panic=1"}, true, boots(scenario.PanicsLate, "unclean", "power cut 3 of 3")},
			{"two versions that panic the kernel", vm.Options{Overlay: o, Append: "panic=1"}, false, func(ctx context.Context, _ *testing.T, d *machine.Device) {
				scenario.BootsToFactory(ctx, d, "unclean")
			}},
			{"ten histories of good versions", vm.Options{Overlay: o}, true, histories(seed, 10)},
			{"ten other histories of good versions", vm.Options{Overlay: o}, true, histories(seed+1, 10)},
		}...)
	} else {
		rows = append(rows, row{"three histories of good versions", vm.Options{Overlay: o}, true, histories(seed, 3)})
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			defer try.Fatal(t)
			began := time.Now()
			ctx := machine.Context(t)
			var d *machine.Device
			if row.started {
				d = started(t, row.options)
			} else {
				d = try.Get(machine.NewDevice(ctx, machine.StartVM(t, row.options), machine.Slow))
			}
			row.run(ctx, t, d)
			t.Logf("%s", time.Since(began).Round(100*time.Millisecond))
		})
	}
}

func boots(bad machine.Version, class, evidence string) func(context.Context, *testing.T, *machine.Device) {
	return func(ctx context.Context, _ *testing.T, d *machine.Device) {
		scenario.Boots(ctx, d, bad, class, evidence)
	}
}

func histories(seed uint64, n int) func(context.Context, *testing.T, *machine.Device) {
	return func(ctx context.Context, t *testing.T, d *machine.Device) {
		t.Logf("seed %d", seed)
		trials := scenario.Histories(ctx, d, n, seed)
		t.Logf("%d histories, %d of their interruptions met a trial", n, trials)
	}
}
