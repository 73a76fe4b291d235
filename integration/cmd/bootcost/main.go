// Command bootcost measures what ota-guardian adds to an ordinary boot: the same
// machine is booted with it and with /bin/true in its place, in turns, and the
// medians are printed. It asserts nothing: times are those of the machine that it
// runs on.
//
//	go run ./integration/cmd/bootcost [-boots N] [-machine vm|container]
//
// The virtual machine has a kernel and a disk of its own and an emulated
// processor, on which to hash a program of 6 MB takes 0.7 s. The container has the
// processor of the host, and no cold disk.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/try"
)

func main() {
	boots := flag.Int("boots", 10, "boots of each kind")
	kind := flag.String("machine", "vm", "vm or container")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *kind, *boots); err != nil {
		fmt.Fprintln(os.Stderr, "bootcost:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kind string, boots int) (err error) {
	defer try.End(&err)
	missing := vm.Missing
	if kind == "container" {
		missing = container.Missing
	}
	if missing := missing(); len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, " "))
	}
	overlay := try.Get(machine.DeviceOverlay(ctx))
	scenario.CostOverlay(overlay)
	var m machine.Machine
	var limits machine.Limits
	switch kind {
	case "vm":
		v := try.Get(vm.Start(ctx, vm.Options{Overlay: overlay}))
		defer v.Stop()
		m, limits = v, machine.Slow
	case "container":
		c := try.Get(container.Start(ctx, container.Options{Overlay: overlay}))
		defer c.Stop()
		m, limits = c, machine.Quick
	default:
		return fmt.Errorf("%q is not one of vm, container", kind)
	}
	d := try.Get(machine.NewDevice(ctx, m, limits))
	guardian, stub, err := scenario.BootCost(ctx, d, boots, func(stub bool, c scenario.Cost) {
		program := "ota-guardian boot"
		if stub {
			program = "/bin/true"
		}
		fmt.Fprintf(os.Stderr, "%-17s  unit %s, device-api executed at %s, ready at %s\n", program, ms(c.Unit), ms(c.Execute), ms(c.Ready))
	})
	try.Check(err)
	where := "one virtual machine (QEMU, emulated, 1 CPU)"
	if kind == "container" {
		where = "one container (real systemd, the host's processor)"
	}
	fmt.Printf("median of %d boots each, in turns, on %s\n", boots, where)
	const row = "%-30s %18s %12s %10s %7s\n"
	fmt.Printf(row, "", "ota-guardian boot", "/bin/true", "added", "ratio")
	for _, r := range []struct {
		name string
		of   func(scenario.Cost) time.Duration
	}{
		{"ota-guardian.service", func(c scenario.Cost) time.Duration { return c.Unit }},
		{"systemd to device-api's start", func(c scenario.Cost) time.Duration { return c.Execute }},
		{"systemd to device-api ready", func(c scenario.Cost) time.Duration { return c.Ready }},
	} {
		with, without := scenario.Median(guardian, r.of), scenario.Median(stub, r.of)
		fmt.Printf(row, r.name, ms(with), ms(without), ms(with-without), fmt.Sprintf("%.3f", float64(with)/float64(without)))
	}
	return nil
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
