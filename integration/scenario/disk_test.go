package scenario_test

import (
	"testing"

	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/container/containertest"
	"github.com/tope-ota/ota/integration/machine/machinetest"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestDiskOfTheStore(t *testing.T) {
	t.Parallel()
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	ctx := machinetest.Context(t)
	d, err := device.New(ctx, containertest.Start(t, container.Options{Overlay: o}), device.Quick)
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario.DiskOfTheStore(ctx, d); err != nil {
		t.Fatal(err)
	}
}
