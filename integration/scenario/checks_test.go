package scenario_test

import (
	"context"
	"maps"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestExcused(t *testing.T) { inContainer(t, scenario.Excused) }

func TestFillsTheDisk(t *testing.T) { inContainer(t, scenario.FillsTheDisk) }

// inContainer runs one scenario on a device that is a container.
func inContainer(t *testing.T, run func(context.Context, *machine.Device) error) {
	t.Helper()
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	inOverlay(t, o, func(_ *testing.T, ctx context.Context, d *machine.Device, _ debian.Suite) error { return run(ctx, d) })
}

// Systemd has soft reboots since version 254: before, there is nothing to count.
func TestSoftReboots(t *testing.T) {
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	o = maps.Clone(o)
	scenario.SoftRebootOverlay(o)
	inOverlay(t, o, func(t *testing.T, ctx context.Context, d *machine.Device, s debian.Suite) error {
		if s.Systemd() >= 254 {
			return scenario.SoftReboots(ctx, d)
		}
		if r, err := d.Exec(ctx, "systemctl", "soft-reboot"); err != nil || !strings.Contains(r.Stderr, "soft-reboot") || r.Code != 1 {
			t.Errorf("systemctl soft-reboot: %v, %s, want that it is unknown", err, r)
		}
		return nil
	})
}

func inOverlay(t *testing.T, o debian.Overlay, run func(*testing.T, context.Context, *machine.Device, debian.Suite) error) {
	t.Helper()
	machine.RequireContainer(t)
	t.Parallel()
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		t.Parallel()
		ctx := machine.Context(t)
		d, err := machine.NewDevice(ctx, machine.StartContainer(t, options(o, s)), machine.Quick)
		if err == nil {
			err = run(t, ctx, d, s)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestBitRot(t *testing.T) { inContainer(t, scenario.BitRot) }

func TestApart(t *testing.T) {
	inContainer(t, func(ctx context.Context, d *machine.Device) error {
		exposure, err := scenario.Apart(ctx, d)
		t.Log(exposure)
		return err
	})
}
