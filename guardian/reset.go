package guardian

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck/systemd"
)

// answerLimit is how long PID 1 may be silent before the machine is reset: twice
// the time-out of the hardware watchdog that it feeds (units/system.conf.d). That
// comes first; this is for a device without one, or for a systemd that feeds it
// and does nothing else.
const answerLimit = time.Minute

// dialLimit bounds the connecting: a PID 1 that hangs accepts, and says nothing.
const dialLimit = 30 * time.Second

// dial connects to systemd.
func dial(ctx context.Context) (*systemd.Manager, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	return systemd.Dial(ctx)
}

// resetMachine ends this boot without PID 1. A variable for the tests.
var resetMachine = func() error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// answers asks systemd a question until it answers (nil), or answerLimit has
// passed.
func answers(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	for {
		err := ask(ctx, unit)
		if err == nil {
			return nil
		}
		if systemd.Pause(ctx, time.Second) != nil {
			return err
		}
	}
}

func ask(ctx context.Context, unit string) error {
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	_, err = conn.Unit(ctx, unit)
	return err
}

// resetIfSilent resets the machine if systemd does not answer any more: then
// nothing can be restarted and nothing can be decided in this boot. mark is what
// it leaves for the next boot to count. It returns when systemd answers, ctx
// ended, or the machine could not be reset.
func (g *guardian) resetIfSilent(ctx context.Context, mark, why string) {
	err := answers(ctx, first(g.cfg.Services))
	if err == nil || ctx.Err() != nil {
		return
	}
	if err := g.leaveMark(mark); err != nil {
		g.logf("%v", err)
	}
	g.announce(eventReset, nil, "systemd did not answer for %s (%v); %s: resetting the machine", answerLimit, err, why)
	if err := resetMachine(); err != nil {
		g.logf("cannot reset the machine: %v", err)
	}
}
