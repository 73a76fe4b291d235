package docs

import (
	"path/filepath"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// updater stands for the updater of the system: it notes which boot it was told is good.
const updater = "#!/bin/sh\necho \"$* $(cat /proc/sys/kernel/random/boot_id)\" >>/data/os-good\n"

// TestBeside runs the unit of yocto.md that marks a boot of the system as good: it
// must in a boot in which the application works, and must not in one in which no
// version of it does. It does so in a container, and nightly in a virtual machine.
func TestBeside(t *testing.T) {
	overlay := func(t *testing.T) debian.Overlay {
		defer try.Fatal(t)
		const name = "os-good.service"
		with := debian.Overlay{"/usr/bin/rauc": {Mode: 0o755, Data: []byte(updater)}}
		with.Add(try.Get(machine.DeviceOverlay()))
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
	defer try.Fatal(t)
	ctx := machine.Context(t)
	s := machine.NewStory(ctx, t, m, limits)
	const marked = `grep -q "status mark-good $(cat /proc/sys/kernel/random/boot_id)" /data/os-good`
	const sick = "/data/sick"
	first := machine.Version{Name: "1.0.0", Release: 1, Behave: deviceapi.Config{BadIfExists: sick, BadBehave: deviceapi.Exit}}
	next := machine.Version{Name: "1.1.0", Release: 2, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
	try.Check(s.Factory(ctx, first))

	// The application works: the system is told so.
	try.Check(s.Reboot(ctx))
	try.Check(s.WaitShell(ctx, "a boot with a confirmed version to be marked as good", marked))

	// The next boot has a version that is bad, and the one before it turns bad too:
	// it is neither, maybe it is the system.
	s.Out("ota-apply", "install", "--at-reboot", try.Get(s.Offer(ctx, next)))
	try.Check(s.WriteFile(ctx, sick, 0o644, nil))
	try.Check(s.Reboot(ctx))
	try.Check(s.Wait(s.Ctx, "the device to be on hold", func(s *bootcheck.Status) bool { return s.Phase == bootcheck.PhaseHold }))
	try.Check(s.WaitShell(ctx, "the end of the trial", `[ "$(systemctl is-active ota-confirm.service)" = failed ]`))
	try.Check(s.WaitShell(ctx, "the unit to have no job any more", `jobs=$(systemctl list-jobs --no-legend os-good.service boot-complete.target) && [ -z "$jobs" ]`))
	s.Says("systemctl is-active boot-complete.target", "inactive")
	s.Says(marked+" || echo it is not marked", "it is not marked")
	// Not even asked: by the time that the application is well, it would say yes.
	s.Says("systemctl show -P InvocationID os-good.service", "")

	// It turns well again, and so does the next boot.
	s.Out("rm", sick)
	try.Check(s.Installs(ctx, machine.Version{Name: "1.2.0", Release: 3}, bootcheck.ExitDone))
	try.Check(s.Reboot(ctx))
	try.Check(s.WaitShell(ctx, "a boot after the hold to be marked as good", marked))
}
