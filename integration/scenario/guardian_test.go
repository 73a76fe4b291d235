package scenario_test

import (
	"context"
	"maps"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

func TestWithoutGuardian(t *testing.T) {
	var program []byte
	withOverlay(t, func(o debian.Overlay) (err error) { program, err = scenario.GuardianOverlay(o); return err },
		func(ctx context.Context, d *machine.Device) error { return scenario.WithoutGuardian(ctx, d, program) })
}

func TestRecoversAtEachFailure(t *testing.T) {
	withOverlay(t, func(o debian.Overlay) error { scenario.RecoverOverlay(o); return nil }, scenario.RecoversAtEachFailure)
}

func TestNothingInstalled(t *testing.T) { inContainer(t, scenario.NothingInstalled) }

// Also where ota-recover.service is started at each failure, as all do from systemd 254 on.
func TestNothingInstalledAndRecover(t *testing.T) {
	withOverlay(t, func(o debian.Overlay) error { scenario.RecoverOverlay(o); return nil }, scenario.NothingInstalled)
}

func TestWithoutNetwork(t *testing.T) {
	withOverlay(t, func(o debian.Overlay) error { return scenario.UplinkOverlay(machine.Context(t), o) }, scenario.WithoutNetwork)
}

// withOverlay runs one scenario on a device that is a container, with more in it.
func withOverlay(t *testing.T, more func(debian.Overlay) error, run func(context.Context, *machine.Device) error) {
	t.Helper()
	defer try.Fatal(t)
	o := try.Get(overlay())
	o = maps.Clone(o)
	try.Check(more(o))
	inOverlay(t, o, func(_ *testing.T, ctx context.Context, d *machine.Device, _ debian.Suite) error { return run(ctx, d) })
}
