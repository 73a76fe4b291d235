package scenario_test

import (
	"maps"
	"testing"

	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/machinetest"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/machine/vm/vmtest"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestMarksReadOnlyShutdown(t *testing.T) {
	withOverlay(t, func(o debian.Overlay) error { scenario.ReadOnlyOverlay(o); return nil }, scenario.MarksReadOnlyShutdown)
}

func TestMarksReadOnlyShutdownVM(t *testing.T) {
	vmtest.Require(t)
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	o = maps.Clone(o)
	scenario.ReadOnlyOverlay(o)
	ctx := machinetest.Context(t)
	d, err := device.New(ctx, vmtest.Start(t, vm.Options{Overlay: o}), device.Slow)
	if err == nil {
		err = scenario.MarksReadOnlyShutdown(ctx, d)
	}
	if err != nil {
		t.Fatal(err)
	}
}
