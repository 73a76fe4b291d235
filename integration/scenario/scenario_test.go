package scenario_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/container"
	"github.com/tope-ota/ota/integration/container/containertest"
	"github.com/tope-ota/ota/integration/debian"
	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/machinetest"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/vm"
	"github.com/tope-ota/ota/integration/vm/vmtest"
)

// overlay is the device, built once.
var overlay = sync.OnceValues(func() (debian.Overlay, error) { return device.Overlay(context.Background()) })

func TestContainer(t *testing.T) {
	containertest.Require(t)
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	run(t, machinetest.Context(t), device.Quick, func(t *testing.T) machine.Machine {
		return containertest.Start(t, container.Options{Overlay: o})
	})
}

func TestVM(t *testing.T) {
	vmtest.Require(t)
	o, err := overlay()
	if err != nil {
		t.Fatal(err)
	}
	run(t, machinetest.Context(t), device.Slow, func(t *testing.T) machine.Machine {
		return vmtest.Start(t, vm.Options{Overlay: o})
	})
}

func run(t *testing.T, ctx context.Context, limits device.Limits, start func(t *testing.T) machine.Machine) {
	for _, s := range scenario.All {
		t.Run(s.Name, func(t *testing.T) {
			// Each has a machine of one CPU, or is waiting for a timer; there are two.
			t.Parallel()
			began := time.Now()
			d, err := device.New(ctx, start(t), limits)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Run(ctx, d); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %s", d.Name(), time.Since(began).Round(100*time.Millisecond))
		})
	}
}
