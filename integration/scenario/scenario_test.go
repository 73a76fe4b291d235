package scenario_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/scenario"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// options are those of a container of that suite.
func options(o debian.Overlay, s debian.Suite) container.Options {
	return container.Options{Overlay: o, Variant: debian.Variant{Suite: s}}
}

func TestContainer(t *testing.T) {
	defer try.Fatal(t)
	machine.RequireContainer(t)
	o := try.Get(machine.DeviceOverlay())
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		t.Parallel()
		run(t, machine.Context(t), scenario.All, func(t *testing.T, ctx context.Context) *machine.Device {
			return try.Get(machine.NewDevice(ctx, machine.StartContainer(t, options(o, s)), machine.Quick))
		})
	})
}

func TestVM(t *testing.T) {
	defer try.Fatal(t)
	machine.RequireVM(t, debian.AMD64)
	o := try.Get(machine.DeviceOverlay())
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		run(t, machine.Context(t), inVM(scenario.All, debian.AMD64), func(t *testing.T, _ context.Context) *machine.Device {
			return started(t, vm.Options{Overlay: o, Variant: debian.Variant{Suite: s}})
		})
	})
}

// inVM are those of all that this run has a virtual machine of that processor for.
func inVM(all []scenario.Scenario, processor debian.Arch) []scenario.Scenario {
	if tier.Nightly {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(s scenario.Scenario) bool { return !slices.Contains(s.VM, processor) })
}

// saved are the machines on which scenario.Start has been, by their suite, their processor and what
// is on their kernel's command line, which is all that they differ in: each is made
// once, and is where many scenarios continue from.
var saved struct {
	sync.Mutex
	dir  string
	from map[string]func() (string, error)
}

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(saved.dir)
	os.Exit(code)
}

// started is a device on which scenario.Start has been.
func started(t *testing.T, o vm.Options) *machine.Device {
	t.Helper()
	machine.RequireVM(t, o.Variant.Arch)
	saved.Lock()
	if saved.from == nil {
		saved.from = make(map[string]func() (string, error))
		saved.dir, _ = os.MkdirTemp("", "ota-started-") // Save says what is wrong with it
	}
	key := fmt.Sprint(o.Variant.Suite, o.Variant.Arch, o.Append)
	if saved.from[key] == nil {
		dir := filepath.Join(saved.dir, strconv.Itoa(len(saved.from)))
		saved.from[key] = sync.OnceValues(func() (string, error) { return dir, save(o, dir) })
	}
	from := saved.from[key]
	saved.Unlock()
	o.From = try.Get(from())
	return &machine.Device{Machine: machine.StartVM(t, o), Limits: machine.Slow, Arch: o.Variant.Arch, Runs: "1.1.0"}
}

// save makes a device on which scenario.Start has been, in dir.
func save(o vm.Options, dir string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*machine.Slow.Wait)
	defer cancel()
	defer try.End(&err)
	m := try.Get(vm.Start(ctx, o))
	defer m.Stop()
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot make a device that others continue from: %w\nthe machine's log:\n%s", err, m.Log())
		}
	}()
	defer try.End(&err)
	d := try.Get(machine.NewDevice(ctx, m, machine.Slow))
	d.Arch = o.Variant.Arch
	scenario.Start(ctx, d)
	try.Get(d.Must(ctx, "sync"))
	return m.Save(ctx, dir)
}

func run(t *testing.T, ctx context.Context, all []scenario.Scenario, start func(*testing.T, context.Context) *machine.Device) {
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			defer try.Fatal(t)
			// Each has a machine of one CPU, or is waiting for a timer; there are two.
			t.Parallel()
			began := time.Now()
			d := start(t, ctx)
			s.Run(ctx, d)
			t.Logf("%s: %s", d.Name(), time.Since(began).Round(100*time.Millisecond))
		})
	}
}
