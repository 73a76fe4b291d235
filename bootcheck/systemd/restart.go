package systemd

import (
	"context"
	"fmt"
	"time"
)

// RestartLimit is how long one service may take to stop and start: systemd's
// own limits are 90 s each (DefaultTimeoutStopSec=, DefaultTimeoutStartSec=).
const RestartLimit = 3 * time.Minute

// RestartAll restarts units, one after the other in their order, so that they run the
// current version. Each gets a start limit of its own: the version before may have used
// it up. Every unit is tried. The error is of all that did not restart.
func (m *Manager) RestartAll(ctx context.Context, units []string) error {
	var failed error
	for _, unit := range units {
		switch err := m.restartOne(ctx, unit); {
		case failed == nil:
			failed = err
		case err != nil:
			failed = fmt.Errorf("%w; %w", failed, err)
		}
	}
	return failed
}

func (m *Manager) restartOne(ctx context.Context, unit string) error {
	ctx, cancel := context.WithTimeout(ctx, RestartLimit)
	defer cancel()
	if err := m.ResetFailed(ctx, unit); err != nil {
		return err
	}
	return m.Restart(ctx, unit)
}

// FirstActive returns the first of units that is active; empty: none is, or no systemd
// runs here.
func FirstActive(ctx context.Context, units []string) (string, error) {
	if !Running() {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := Dial(ctx)
	if err != nil {
		return "", err
	}
	for _, name := range units {
		if unit, err := conn.Unit(ctx, name); err != nil || unit.Up() {
			return name, err
		}
	}
	return "", nil
}
