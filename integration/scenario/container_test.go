package scenario_test

import (
	"context"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

func TestBaselineCounts(t *testing.T) { inContainer(t, scenario.BaselineCounts) }
func TestWithoutPort(t *testing.T)    { inContainer(t, scenario.WithoutPort) }
func TestFillsTheDisk(t *testing.T)   { inContainer(t, scenario.FillsTheDisk) }
func TestBitRot(t *testing.T)         { inContainer(t, scenario.BitRot) }
func TestDiskOfTheStore(t *testing.T) { inContainer(t, scenario.DiskOfTheStore) }

func TestApart(t *testing.T) {
	inContainer(t, func(ctx context.Context, d *machine.Device) { t.Log(scenario.Apart(ctx, d)) })
}

func TestSystemdThatDoesNotAnswer(t *testing.T) {
	inContainer(t, func(ctx context.Context, d *machine.Device) {
		scenario.Freezes(ctx, d, d.Machine.(interface{ Freeze() error }).Freeze)
	})
}

func TestNothingInstalled(t *testing.T) { inContainer(t, scenario.NothingInstalled) }

// Also where ota-recover.service is started at each failure, as all do from systemd 254 on.
func TestNothingInstalledAndRecover(t *testing.T) {
	inContainer(t, scenario.NothingInstalled, scenario.RecoverOverlay)
}

func TestRecoversAtEachFailure(t *testing.T) {
	inContainer(t, scenario.RecoversAtEachFailure, scenario.RecoverOverlay)
}

func TestMarksReadOnlyShutdown(t *testing.T) {
	inContainer(t, scenario.MarksReadOnlyShutdown, scenario.ReadOnlyOverlay)
}

func TestWithoutGuardian(t *testing.T) {
	var program []byte
	inContainer(t,
		func(ctx context.Context, d *machine.Device) { scenario.WithoutGuardian(ctx, d, program) },
		func(o debian.Overlay) { program = scenario.GuardianOverlay(o) })
}

func TestWithoutNetwork(t *testing.T) {
	inContainer(t, scenario.WithoutNetwork, func(o debian.Overlay) { scenario.UplinkOverlay(machine.Context(t), o) })
}

// Systemd has soft reboots since version 254: before, there is nothing to count.
func TestSoftReboots(t *testing.T) {
	inContainer(t, func(ctx context.Context, d *machine.Device) {
		version := try.Get(d.Must(ctx, "systemctl", "--version"))
		if strings.Fields(version)[1] >= "254" {
			scenario.SoftReboots(ctx, d)
		} else if r := try.Get(d.Exec(ctx, "systemctl", "soft-reboot")); !strings.Contains(r.Stderr, "soft-reboot") || r.Code != 1 {
			t.Errorf("systemctl soft-reboot: %s, want that it is unknown", r)
		}
	}, scenario.SoftRebootOverlay)
}

// inContainer runs one scenario on a device that is a container, with more in it.
func inContainer(t *testing.T, run func(context.Context, *machine.Device), more ...func(debian.Overlay)) {
	t.Helper()
	defer try.Fatal(t)
	machine.RequireContainer(t)
	t.Parallel()
	o := try.Get(machine.DeviceOverlay())
	for _, add := range more {
		add(o)
	}
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		defer try.Fatal(t)
		t.Parallel()
		ctx := machine.Context(t)
		d := try.Get(machine.NewDevice(ctx, machine.StartContainer(t, options(o, s)), machine.Quick))
		run(ctx, d)
	})
}

func TestMarksReadOnlyShutdownVM(t *testing.T) {
	defer try.Fatal(t)
	machine.RequireVM(t, debian.AMD64)
	o := try.Get(machine.DeviceOverlay())
	scenario.ReadOnlyOverlay(o)
	ctx := machine.Context(t)
	d := try.Get(machine.NewDevice(ctx, machine.StartVM(t, vm.Options{Overlay: o}), machine.Slow))
	scenario.MarksReadOnlyShutdown(ctx, d)
}

func TestFollows(t *testing.T) {
	inContainer(t, scenario.Follows, func(o debian.Overlay) { scenario.FleetOverlay(machine.Context(t), o) })
}

func TestInhibited(t *testing.T) {
	inContainer(t, scenario.Inhibited, func(o debian.Overlay) {
		scenario.FleetOverlay(machine.Context(t), o)
		scenario.LogindOverlay(o)
	})
}

func TestCores(t *testing.T) {
	inContainer(t, scenario.Cores, func(o debian.Overlay) { scenario.FleetOverlay(machine.Context(t), o) })
}
