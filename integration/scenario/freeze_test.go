package scenario_test

import (
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/scenario"
)

func TestSystemdThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		t.Parallel()
		c := machine.StartContainer(t, options(o, s))
		ctx := machine.Context(t)
		d, err := machine.NewDevice(ctx, c, machine.Quick)
		if err != nil {
			t.Fatal(err)
		}
		if err := scenario.Freezes(ctx, d, c.Freeze); err != nil {
			t.Fatal(err)
		}
	})
}
