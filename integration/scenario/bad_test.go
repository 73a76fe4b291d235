package scenario_test

import (
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/container"
	"github.com/tope-ota/ota/integration/container/containertest"
	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/machine/machinetest"
	"github.com/tope-ota/ota/integration/scenario"
)

// Each bad version is installed on a device that others were taken back from
// before: three devices share them.
func TestBadVersions(t *testing.T) {
	containertest.Require(t)
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	const devices = 3
	for i := range devices {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			ctx := machinetest.Context(t)
			d, err := device.New(ctx, containertest.Start(t, container.Options{Overlay: o}), device.Quick)
			if err == nil {
				err = scenario.Prepare(ctx, d)
			}
			if err != nil {
				t.Fatal(err)
			}
			// Those that end on previous first: the others leave 1.1.0 blocked.
			for _, factory := range []bool{false, true} {
				for n := i; n < len(scenario.AllBad); n += devices {
					b := scenario.AllBad[n]
					if b.PreviousToo && !factory {
						b.PreviousToo = false
					} else if b.PreviousToo != factory {
						continue
					}
					began := time.Now()
					number := n
					if factory {
						number += len(scenario.AllBad)
					}
					blamed, err := scenario.TakesBack(ctx, d, number, b)
					if err != nil {
						t.Fatalf("a version that %s (previous too: %v): %v", b.Name, factory, err)
					}
					t.Logf("%-45s %5s  %s", b.Name, time.Since(began).Round(100*time.Millisecond), blamed)
				}
			}
		})
	}
}
