package scenario_test

import (
	"testing"

	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/container/containertest"
	"github.com/tope-ota/ota/integration/machine/machinetest"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestSystemdThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	c := containertest.Start(t, container.Options{Overlay: o})
	ctx := machinetest.Context(t)
	d, err := device.New(ctx, c, device.Quick)
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario.Freezes(ctx, d, c.Freeze); err != nil {
		t.Fatal(err)
	}
}
