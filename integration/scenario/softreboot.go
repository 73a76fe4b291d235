package scenario

import (
	"context"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// SoftRebootOverlay gives the device the mounts of a fstab. What was mounted before systemd
// started, a soft reboot unmounts too, and nothing would mount it again.
func SoftRebootOverlay(o debian.Overlay) {
	for unit, where := range map[string]string{"opt-tope": "/opt/tope", "etc-ota": "/etc/ota", "var-lib-ota": "/var/lib/ota"} {
		o["/etc/systemd/system/"+unit+".mount"] = debian.Unit("[Mount]\nWhat=/data/" + unit + "\nWhere=" + where + "\nOptions=bind\n")
		o.Enable(unit+".mount", "local-fs.target")
	}
	// Of the test machine: they stay, as what an initramfs needs for the root does.
	const kept = "[Unit]\nDefaultDependencies=no\n"
	o["/etc/systemd/system/data.mount"] = debian.Unit(kept + "[Mount]\nWhat=/dev/vda\nWhere=/data\n")
	o[`/etc/systemd/system/ota\x2dtest\x2dagent.mount.d/90-kept.conf`] = debian.Unit(kept)
}

// SoftReboots installs a version that starts everything but the kernel again, in a
// loop: the run directory and the boot ID stay, and each counts as an orderly reboot all
// the same, until the device comes back to 1.1.0.
func SoftReboots(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	try.Check(d.Configure(ctx, 4*d.Limits.Stable, 10*d.Limits.Wait, "clean = 3"))
	boot := try.Get(d.BootID(ctx))
	bad := wrapped("1.2.0", 3, "(sleep 1.5; systemctl soft-reboot) &")
	d.Begin(ctx, bad)
	try.Check(d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"}))
	after := try.Get(d.BootID(ctx))
	count := try.Get(d.Must(ctx, "systemctl", "show", "-P", "SoftRebootsCount"))
	if after != boot || strings.TrimSpace(count) != "3" {
		try.Failf("the boot ID was %s and is %s, systemd counts %q soft reboots, want one ID and 3", boot, after, count)
	}
	const evidence = "reboot 3 of 3"
	if l := blames(ctx, d, bootcheck.Rollback{From: bad.Name, To: "1.1.0", Level: "previous", Cause: bootcheck.CauseBoots}); !strings.Contains(l.Output, evidence) {
		try.Failf("the rollback recorded is %+v, want one that says %q", l, evidence)
	}
}
