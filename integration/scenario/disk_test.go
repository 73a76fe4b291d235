package scenario_test

import (
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestDiskOfTheStore(t *testing.T) {
	t.Parallel()
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	ctx := machine.Context(t)
	d, err := machine.NewDevice(ctx, machine.StartContainer(t, container.Options{Overlay: o}), machine.Quick)
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario.DiskOfTheStore(ctx, d); err != nil {
		t.Fatal(err)
	}
}
