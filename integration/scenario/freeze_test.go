package scenario_test

import (
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

func TestSystemdThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		defer try.Fatal(t)
		t.Parallel()
		c := machine.StartContainer(t, options(o, s))
		ctx := machine.Context(t)
		d := try.Get(machine.NewDevice(ctx, c, machine.Quick))
		try.Check(scenario.Freezes(ctx, d, c.Freeze))
	})
}
