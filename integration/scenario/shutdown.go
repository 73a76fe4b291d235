package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// ReadOnlyOverlay makes a device on which a shutdown, before ota-guardian.service
// is stopped, unmounts /tmp and makes the root read-only. Then systemd cannot set
// up the sandbox of a unit any more.
func ReadOnlyOverlay(o debian.Overlay) {
	o["/etc/systemd/system/t-read-only.service"] = debian.Unit(`[Unit]
DefaultDependencies=no
After=ota-guardian.service local-fs.target
Before=shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/umount -l /tmp
ExecStop=/bin/mount -o remount,bind,ro /
ExecStop=/bin/sh -c '! touch /tmp/t && touch /data/t-read-only'
`)
	o["/etc/systemd/system/multi-user.target.wants/t-read-only.service"] = debian.File{Link: "../t-read-only.service"}
}

// MarksReadOnlyShutdown reboots a device whose root is read-only early in the
// shutdown while a version is on trial: the boot after it knows that the end was an
// orderly one. So it does after a soft stop of the guardian in a running system,
// which is none. The machine has ReadOnlyOverlay.
func MarksReadOnlyShutdown(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	// 1.2.0 is on trial for as long as this takes.
	try.Check(d.Configure(ctx, 10*d.Limits.Wait, 20*d.Limits.Wait))
	d.Begin(ctx, v12).Switched(ctx)
	counted := func(what string, want bootcheck.Trial) {
		try.Check(d.Wait(ctx, what, func(s *bootcheck.Status) bool {
			return s.Phase == bootcheck.PhaseTrial && s.Trial.Clean == want.Clean && s.Trial.Unclean == want.Unclean && s.Trial.Hard == want.Hard
		}))
	}
	for n := 1; n <= 2; n++ {
		// Once it runs: the boot before may not have come to it yet.
		try.Get(d.Must(ctx, "systemctl", "start", "t-read-only.service"))
		try.Check(d.Reboot(ctx))
		counted(fmt.Sprintf("orderly reboot %d to be counted as one", n), bootcheck.Trial{Clean: n})
		if _, err := d.Must(ctx, "rm", "/data/t-read-only"); err != nil {
			try.Failf("the shutdown was an ordinary one: %w", err)
		}
	}
	// A systemd before 248 does not tell a unit's stop from its restart: there, nothing
	// restarts it before the power is cut.
	is := try.Get(d.Must(ctx, "systemctl", "show", "--property", "Version", "--value"))
	if !strings.HasPrefix(strings.TrimSpace(is), "247") {
		try.Get(d.Must(ctx, "systemctl", "restart", "ota-guardian.service"))
		counted("nothing to be counted for a restart of the unit", bootcheck.Trial{Clean: 2})
	}
	try.Check(d.PowerCut(ctx))
	counted("the power cut to be counted as one", bootcheck.Trial{Clean: 2, Unclean: 1})
}
