package docs

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/tier"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
)

// updater stands for the updater of the system: it notes which boot it was told is good.
const updater = "#!/bin/sh\necho \"$* $(cat /proc/sys/kernel/random/boot_id)\" >>/data/os-good\n"

// TestBeside runs the unit of yocto.md that marks a boot of the system as good: it
// must in a boot in which the application works, and must not in one in which no
// version of it does. It does so in a container, and nightly in a virtual machine.
func TestBeside(t *testing.T) {
	overlay := func(t *testing.T) debian.Overlay {
		o, err := product()
		if err != nil {
			t.Fatal(err)
		}
		const name = "os-good.service"
		with := debian.Overlay{"/usr/bin/rauc": {Mode: 0o755, Data: []byte(updater)}}
		with.Add(o)
		for _, b := range read(t, filepath.Join(root(t), "docs/yocto.md")).blocks {
			if filepath.Base(b.notes.device) == name {
				with["/etc/systemd/system/"+name] = debian.Unit(b.text())
			}
		}
		if _, ok := with["/etc/systemd/system/"+name]; !ok {
			t.Fatalf("docs/yocto.md has no %s", name)
		}
		with.Enable(name, "multi-user.target")
		return with
	}
	t.Run("container", func(t *testing.T) {
		machine.RequireContainer(t)
		beside(t, machine.StartContainer(t, container.Options{Overlay: overlay(t)}), machine.Quick)
	})
	if tier.Nightly {
		t.Run("vm", func(t *testing.T) {
			machine.RequireVM(t, debian.AMD64)
			beside(t, machine.StartVM(t, vm.Options{Overlay: overlay(t)}), machine.Slow)
		})
	}
}

func beside(t *testing.T, m machine.Machine, limits machine.Limits) {
	ctx := machine.Context(t)
	d, err := machine.NewDevice(ctx, m, limits)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	marked := func() bool {
		t.Helper()
		id, err := d.BootID(ctx)
		must(err)
		r, err := d.Exec(ctx, "cat", "/data/os-good")
		must(err)
		return strings.Contains(r.Stdout, "status mark-good "+id)
	}
	wait := func(what string, yes func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, limits.Wait)
		defer cancel()
		must(machine.Poll(ctx, what, func(context.Context) (bool, error) { return yes(), nil }))
	}
	phase := func(want bootcheck.Phase) func() bool {
		return func() bool {
			s, err := d.Status(ctx)
			return err == nil && s.Phase == want
		}
	}
	const sick = "/data/sick"
	first := machine.Version{Name: "1.0.0", Release: 1, Behave: deviceapi.Config{BadIfExists: sick, BadBehave: deviceapi.Exit}}
	next := machine.Version{Name: "1.1.0", Release: 2, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
	must(d.Factory(ctx, first))

	// The application works: the system is told so.
	must(d.Reboot(ctx))
	wait("a boot with a confirmed version to be marked as good", marked)

	// The next boot has a version that is bad, and the one before it turns bad too:
	// it is neither, maybe it is the system.
	url, err := d.Offer(ctx, next)
	must(err)
	_, err = d.Must(ctx, "ota-apply", "install", "--at-reboot", url)
	must(err)
	must(d.WriteFile(ctx, sick, 0o644, nil))
	must(d.Reboot(ctx))
	wait("the device to be on hold", phase(bootcheck.PhaseHold))
	wait("the end of the trial", func() bool {
		r, err := d.Exec(ctx, "systemctl", "is-active", "ota-confirm.service")
		return err == nil && strings.TrimSpace(r.Stdout) == "failed"
	})
	wait("the unit to have no job any more", func() bool {
		r, err := d.Exec(ctx, "systemctl", "list-jobs", "--no-legend", "os-good.service", "boot-complete.target")
		return err == nil && r.Code == 0 && strings.TrimSpace(r.Stdout) == ""
	})
	r, err := d.Exec(ctx, "systemctl", "is-active", "boot-complete.target")
	must(err)
	if state := strings.TrimSpace(r.Stdout); state != "inactive" || marked() {
		t.Errorf("on hold boot-complete.target is %s, and the boot is marked as good: %t", state, marked())
	}
	// Not even asked: by the time that the application is well, it would say yes.
	if id, err := d.Must(ctx, "systemctl", "show", "-P", "InvocationID", "os-good.service"); err != nil || strings.TrimSpace(id) != "" {
		t.Errorf("os-good.service was started on hold: %q, %v", id, err)
	}

	// It turns well again, and so does the next boot.
	_, err = d.Must(ctx, "rm", sick)
	must(err)
	good := machine.Version{Name: "1.2.0", Release: 3}
	if r, err := d.Install(ctx, good); err != nil || r.Code != 0 {
		t.Fatal(fmt.Errorf("install: %v, %s", err, r))
	}
	must(d.Reboot(ctx))
	wait("a boot after the hold to be marked as good", marked)
}
