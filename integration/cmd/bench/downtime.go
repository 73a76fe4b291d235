package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

// downtime measures for how long a client that asks device-api each 10 ms gets no
// answer while it is updated, on a machine with a real systemd.
func (b *bench) downtime(ctx context.Context) {
	overlay := try.Get(machine.DeviceOverlay())
	c := try.Get(container.Start(ctx, container.Options{Overlay: overlay}))
	defer c.Stop()
	d := try.Get(machine.NewDevice(ctx, c, machine.Quick))
	updates, restarts := scenario.Downtime(ctx, d, b.runs)
	itself := func(d time.Duration) time.Duration { return d }
	u, r := scenario.Median(updates, itself), scenario.Median(restarts, itself)
	fmt.Printf("\nThe longest time without an answer from device-api, asked each 10 ms, medians of %d: %.0f ms in an update, %.0f ms in a `systemctl restart` (ratio %.2f)\n",
		b.runs, ms(u), ms(r), float64(u)/float64(r))
}
