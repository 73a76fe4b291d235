// Command bootcost measures what ota-guardian adds to an ordinary boot: the same
// virtual machine is booted with it and with /bin/true in its place, in turns, and
// the medians are printed. It asserts nothing: times are those of the machine that
// it runs on.
//
//	go run ./integration/cmd/bootcost [-boots N]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/tope-ota/ota/integration/device"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/vm"
)

func main() {
	boots := flag.Int("boots", 10, "boots of each kind")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *boots); err != nil {
		fmt.Fprintln(os.Stderr, "bootcost:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, boots int) error {
	if missing := vm.Missing(); len(missing) > 0 {
		return fmt.Errorf("missing: apt-get install %s", strings.Join(missing, " "))
	}
	overlay, err := device.Overlay(ctx)
	if err != nil {
		return err
	}
	scenario.CostOverlay(overlay)
	m, err := vm.Start(ctx, vm.Options{Overlay: overlay})
	if err != nil {
		return err
	}
	defer m.Stop()
	d, err := device.New(ctx, m, device.Slow)
	if err != nil {
		return err
	}
	guardian, stub, err := scenario.BootCost(ctx, d, boots, func(stub bool, c scenario.Cost) {
		program := "ota-guardian boot"
		if stub {
			program = "/bin/true"
		}
		fmt.Fprintf(os.Stderr, "%-17s  unit %s, device-api executed at %s, ready at %s\n", program, ms(c.Unit), ms(c.Execute), ms(c.Ready))
	})
	if err != nil {
		return err
	}
	fmt.Printf("median of %d boots each, in turns, on one emulated machine (QEMU TCG, 1 CPU)\n", boots)
	const row = "%-28s %18s %12s %10s %7s\n"
	fmt.Printf(row, "", "ota-guardian boot", "/bin/true", "added", "ratio")
	for _, r := range []struct {
		name string
		of   func(scenario.Cost) time.Duration
	}{
		{"ota-guardian.service", func(c scenario.Cost) time.Duration { return c.Unit }},
		{"kernel to device-api's start", func(c scenario.Cost) time.Duration { return c.Execute }},
		{"kernel to device-api ready", func(c scenario.Cost) time.Duration { return c.Ready }},
	} {
		with, without := scenario.Median(guardian, r.of), scenario.Median(stub, r.of)
		fmt.Printf(row, r.name, ms(with), ms(without), ms(with-without), fmt.Sprintf("%.3f", float64(with)/float64(without)))
	}
	return nil
}

func ms(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}
