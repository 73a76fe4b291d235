package scenario

import (
	"context"
	"fmt"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
)

// BitRot lets a byte of versions change that do not run, and the units that look
// for that find it and put it right, in their sandboxes.
func BitRot(ctx context.Context, d *machine.Device) error {
	if err := start(ctx, d, v11); err != nil {
		return err
	}
	if err := installs(ctx, d, v12, bootcheck.ExitDone); err != nil {
		return err
	}
	factory, err := d.Tree(ctx, "1.0.0")
	if err != nil {
		return err
	}
	if _, err := d.Must(ctx, "systemctl", "is-active", "ota-verify.timer"); err != nil {
		return err
	}
	for _, row := range []struct{ version, unit string }{
		{"1.1.0", "ota-verify.service"}, // previous
		{"1.0.0", "ota-verify.service"}, // factory
		{"1.0.0", "ota-factory.service"},
	} {
		// Of the version's own: the same file may have a name in another one that runs.
		rot := func(version, program string) string {
			return fmt.Sprintf("cd %s/v%s; cp -p %[3]s x; mv x %[3]s; printf X | dd of=%[3]s bs=1 seek=1000000 conv=notrunc", machine.Store, version, program)
		}
		if _, err := d.Must(ctx, "bash", "-c", rot(row.version, program)); err != nil {
			return err
		}
		if r, err := d.Exec(ctx, "ota-guardian", "verify"); err != nil || r.Code != int(bootcheck.ExitDamaged) || !strings.Contains(r.Stdout, row.version+"            damaged: ") {
			return fmt.Errorf("verify of a version %s with a wrong byte: %s (%v)", row.version, r, err)
		}
		if _, err := d.Must(ctx, "systemctl", "restart", row.unit); err != nil {
			return err
		}
		if err := waitShell(ctx, d, row.unit+" to be through", `[ "$(systemctl show -P ActiveState `+row.unit+`)" != active ]`); err != nil {
			return err
		}
		if out, err := d.Must(ctx, "ota-guardian", "verify"); err != nil || strings.Count(out, "whole") != 3 {
			return fmt.Errorf("after %s the versions are %s (%v), want three that are whole", row.unit, out, err)
		}
		// Whoever looks for it in the journal finds what was repaired.
		if err := waitShell(ctx, d, "the entry of the repair",
			`journalctl -o cat --no-pager MESSAGE_ID=8aa00be5ac0e7495d57822a858f03547 OTA_VERSION=`+row.version+` | grep device-api`); err != nil {
			return err
		}
	}
	// What nobody has any more is a unit that failed.
	if _, err := d.Must(ctx, "bash", "-c", "echo x >>"+machine.Store+"/v1.1.0/etc/device-api.json; systemctl restart ota-verify.service"); err != nil {
		return err
	}
	if err := waitShell(ctx, d, "ota-verify.service to fail", `[ "$(systemctl show -P Result,ExecMainStatus ota-verify.service | tr '\n' ' ')" = "exit-code 5 " ]`); err != nil {
		return err
	}
	if err := d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}); err != nil {
		return err
	}
	if err := factoryIs(ctx, d, factory); err != nil {
		return err
	}
	// A last resort that is lost is said by whoever looks at the device.
	if _, err := d.Must(ctx, "bash", "-c", "echo x >>"+machine.Store+"/v1.0.0/etc/device-api.json; systemctl restart ota-factory.service"); err != nil {
		return err
	}
	return waitFor(ctx, d, "status to say that factory is damaged", func(s *bootcheck.Status) bool {
		return strings.Contains(s.Damage, "factory version 1.0.0 is damaged")
	})
}
