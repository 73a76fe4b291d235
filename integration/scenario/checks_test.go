package scenario_test

import (
	"context"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
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
	inOverlay(t, o, run)
}

func inOverlay(t *testing.T, o debian.Overlay, run func(context.Context, *machine.Device) error) {
	t.Helper()
	machine.RequireContainer(t)
	t.Parallel()
	ctx := machine.Context(t)
	d, err := machine.NewDevice(ctx, machine.StartContainer(t, container.Options{Overlay: o}), machine.Quick)
	if err == nil {
		err = run(ctx, d)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestBitRot(t *testing.T) { inContainer(t, scenario.BitRot) }

func TestApart(t *testing.T) {
	inContainer(t, func(ctx context.Context, d *machine.Device) error {
		exposure, err := scenario.Apart(ctx, d)
		t.Log(exposure)
		return err
	})
}
