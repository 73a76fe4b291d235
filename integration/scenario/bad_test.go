package scenario_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

// Each bad version is installed on a device that others were rolled back on
// before: four devices share them. They wait for deadlines and restarts most of the
// time, so they are not among the tests that share the processors (t.Parallel).
func TestBadVersions(t *testing.T) {
	defer try.Fatal(t)
	machine.RequireContainer(t)
	o := try.Get(machine.DeviceOverlay())
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) { badVersions(t, options(o, s)) })
}

func badVersions(t *testing.T, o container.Options) {
	const devices = 4
	var all sync.WaitGroup
	defer all.Wait()
	for i := range devices {
		all.Go(func() {
			t.Run(fmt.Sprintf("device %d", i+1), func(t *testing.T) {
				defer try.Fatal(t)
				ctx := machine.Context(t)
				d := try.Get(machine.NewDevice(ctx, machine.StartContainer(t, o), machine.Quick))
				scenario.Start(ctx, d)
				rollBackAll(t, ctx, d, i, devices)
			})
		})
	}
}

// rollBackAll installs every step-th bad version from first on: those that end on
// previous before those that end on factory.
func rollBackAll(t *testing.T, ctx context.Context, d *machine.Device, first, step int) {
	for _, factory := range []bool{false, true} {
		for n := first; n < len(scenario.AllBad); n += step {
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
			blamed := scenario.RollsBack(ctx, d, number, b)
			t.Logf("%-45s %5s  %s", b.Name, time.Since(began).Round(100*time.Millisecond), blamed)
		}
	}
}
