package scenario_test

import (
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestSystemdThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	c := machine.StartContainer(t, container.Options{Overlay: o})
	ctx := machine.Context(t)
	d, err := machine.NewDevice(ctx, c, machine.Quick)
	if err != nil {
		t.Fatal(err)
	}
	if err := scenario.Freezes(ctx, d, c.Freeze); err != nil {
		t.Fatal(err)
	}
}
