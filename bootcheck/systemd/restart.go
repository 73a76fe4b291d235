package systemd

import (
	"context"
	"time"
)

// RestartLimit is how long one service may take to stop and start: systemd's
// own limits are 90 s each (DefaultTimeoutStopSec=, DefaultTimeoutStartSec=).
const RestartLimit = 3 * time.Minute

// RestartAll starts units anew, one after the other in their order, so that
// they run what current is now. Each gets a start limit of its own: the version
// that is left may have used it up. Every unit is tried; the error is the last.
func (c *Conn) RestartAll(ctx context.Context, units []string, log func(format string, args ...any)) error {
	var last error
	for _, unit := range units {
		if err := c.restartOne(ctx, unit); err != nil {
			log("cannot restart %s: %v", unit, err)
			last = err
		}
	}
	return last
}

func (c *Conn) restartOne(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, RestartLimit)
	defer cancel()
	if err := c.ResetFailed(ctx, unit); err != nil {
		return err
	}
	return c.Restart(ctx, unit)
}
