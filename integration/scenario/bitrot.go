package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// BitRot lets a byte of versions change that do not run, and the units that look
// for that find it and put it right, in their sandboxes.
func BitRot(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	try.Check(d.Installs(ctx, v12, bootcheck.ExitDone))
	factory := try.Get(d.Tree(ctx, "1.0.0"))
	try.Get(d.Must(ctx, "systemctl", "is-active", "ota-verify.timer"))
	for _, row := range []struct{ version, unit string }{
		{"1.1.0", "ota-verify.service"}, // previous
		{"1.0.0", "ota-verify.service"}, // factory
		{"1.0.0", "ota-factory.service"},
	} {
		// Of the version's own: the same file may have a name in another one that runs.
		rot := func(version, program string) string {
			return fmt.Sprintf("cd $(ls -d %s/v%s* | tail -n 1); cp -p %[3]s x; mv x %[3]s; printf X | dd of=%[3]s bs=1 seek=1000000 conv=notrunc", machine.Store, version, program)
		}
		try.Get(d.Must(ctx, "bash", "-c", rot(row.version, program)))
		if r, err := d.Exec(ctx, "ota-guardian", "verify"); err != nil || r.Code != int(bootcheck.ExitDamaged) || !strings.Contains(r.Stdout, row.version+"            damaged: ") {
			try.Failf("verify of a version %s with a wrong byte: %s (%v)", row.version, r, err)
		}
		try.Get(d.Must(ctx, "systemctl", "restart", row.unit))
		try.Check(d.WaitShell(ctx, row.unit+" to be through", `[ "$(systemctl show -P ActiveState `+row.unit+`)" != active ]`))
		if out, err := d.Must(ctx, "ota-guardian", "verify"); err != nil || strings.Count(out, "intact") != 3 {
			try.Failf("after %s the versions are %s (%v), want three that are intact", row.unit, out, err)
		}
		// The journal says what was repaired.
		try.Check(d.WaitShell(ctx, "the entry of the repair",
			`journalctl -o cat --no-pager MESSAGE_ID=8aa00be5ac0e7495d57822a858f03547 OTA_VERSION=`+row.version+` | grep device-api`))
	}
	// What no version has any more is a unit that failed.
	try.Get(d.Must(ctx, "bash", "-c", "echo x >>"+machine.Store+"/previous/etc/device-api.json; systemctl restart ota-verify.service"))
	try.Check(d.WaitShell(ctx, "ota-verify.service to fail", `[ "$(systemctl show -P Result,ExecMainStatus ota-verify.service | tr '\n' ' ')" = "exit-code 5 " ]`))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	factoryIs(ctx, d, factory)
	// A last fallback that is lost is said by every look at the device.
	try.Get(d.Must(ctx, "bash", "-c", "echo x >>"+machine.Store+"/factory/etc/device-api.json; systemctl restart ota-factory.service"))
	try.Check(d.Wait(ctx, "status to say that factory is damaged", func(s *bootcheck.Status) bool {
		return strings.Contains(string(s.Damage), "factory version 1.0.0 is damaged")
	}))
}
