package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

// boot measures what ota-guardian adds to an ordinary boot: the same machine is booted with
// it and with /bin/true in its place, in turns. The container has the processor of the host,
// and no cold disk. The virtual machine has a kernel and a disk of its own and an emulated
// processor, on which to hash a program of 6 MB takes 0.7 s.
func (b *bench) boot(ctx context.Context) {
	overlay := try.Get(machine.DeviceOverlay())
	scenario.CostOverlay(overlay)
	c := try.Get(container.Start(ctx, container.Options{Overlay: overlay}))
	defer c.Stop()
	b.bootOf(ctx, "one container (real systemd, the host's processor)", c, machine.Quick)
	c.Stop()
	v := try.Get(vm.Start(ctx, vm.Options{Overlay: overlay}))
	defer v.Stop()
	b.bootOf(ctx, "one virtual machine (QEMU, emulated, 1 CPU)", v, machine.Slow)
}

func (b *bench) bootOf(ctx context.Context, where string, m machine.Machine, limits machine.Limits) {
	d := try.Get(machine.NewDevice(ctx, m, limits))
	guardian, stub := scenario.BootCost(ctx, d, b.runs, func(stub bool, c scenario.Cost) {
		program := "ota-guardian boot"
		if stub {
			program = "/bin/true"
		}
		fmt.Fprintf(os.Stderr, "%-17s  unit %.1f ms, device-api executed at %.1f ms, ready at %.1f ms\n", program, ms(c.Unit), ms(c.Execute), ms(c.Ready))
	})
	fmt.Printf("\nBoots, medians of %d, in turns, on %s\n\n| | ota-guardian boot | /bin/true | added | ratio |\n|---|---|---|---|---|\n", b.runs, where)
	for _, r := range []struct {
		name string
		of   func(scenario.Cost) time.Duration
	}{
		{"ota-guardian.service", func(c scenario.Cost) time.Duration { return c.Unit }},
		{"systemd to device-api's start", func(c scenario.Cost) time.Duration { return c.Execute }},
		{"systemd to device-api ready", func(c scenario.Cost) time.Duration { return c.Ready }},
	} {
		with, without := ms(scenario.Median(guardian, r.of)), ms(scenario.Median(stub, r.of))
		fmt.Printf("| %s | %.1f ms | %.1f ms | %.1f ms | %.3f |\n", r.name, with, without, with-without, with/without)
	}
}
