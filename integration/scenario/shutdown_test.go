package scenario_test

import (
	"maps"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestMarksReadOnlyShutdown(t *testing.T) {
	withOverlay(t, func(o debian.Overlay) error { scenario.ReadOnlyOverlay(o); return nil }, scenario.MarksReadOnlyShutdown)
}

func TestMarksReadOnlyShutdownVM(t *testing.T) {
	machine.RequireVM(t, debian.AMD64)
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	o = maps.Clone(o)
	scenario.ReadOnlyOverlay(o)
	ctx := machine.Context(t)
	d, err := machine.NewDevice(ctx, machine.StartVM(t, vm.Options{Overlay: o}), machine.Slow)
	if err == nil {
		err = scenario.MarksReadOnlyShutdown(ctx, d)
	}
	if err != nil {
		t.Fatal(err)
	}
}
