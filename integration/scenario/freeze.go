package scenario

import (
	"context"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// Freezes lets PID 1 stop answering while a bad version is on trial: nothing can
// be restarted any more, so the device has to reset itself to come back to the
// version before. freeze stops PID 1 until the next boot.
func Freezes(ctx context.Context, d *machine.Device, freeze func() error) {
	start(ctx, d, v11)
	boot := try.Get(d.BootID(ctx))
	d.Begin(ctx, v12Fails).Switched(ctx)
	// It is watched when ota-confirm has seen what is bad about it.
	try.Get(d.Must(ctx, "bash", "-c", `until journalctl -b -u ota-confirm.service --no-pager | grep -q 'device-api answers" bad: .*500'; do sleep 0.1; done`))
	try.Check(freeze())
	if err := d.WaitReboot(ctx, boot); err != nil {
		try.Failf("PID 1 was stopped, and the device did not reset itself: %w", err)
	}
	try.Check(d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"}))
	blames(ctx, d, bootcheck.Rollback{From: "1.2.0", To: "1.1.0", Level: "previous", Cause: bootcheck.CauseHealth, Check: "device-api answers"})
}
