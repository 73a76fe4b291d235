package health

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// unit is good when the unit is active, and, if it was restarted, has been up
// for stable since. A service that dies every second is "active" in 8 of 10
// looks at it; only its count of restarts and the time since the last tell.
//
// The restarts that count are those by Restart= since a job last started the
// unit. So a look at a unit that restarted once, last week, is good; a unit that
// is young because a job restarted it is good; one that is young because it
// died is not.
//
// How long the unit has been up is its own record, so that a restart between two
// looks of a Watch is not missed.
func unit(units Units, name string, stable time.Duration) func(context.Context) finding {
	return func(ctx context.Context) finding {
		u, err := units.Unit(ctx, name)
		if err != nil {
			return finding{err: err}
		}
		// A job means that it is being started right now.
		over := u.Job == 0 && (u.Active == "failed" || u.Load == "masked" && !u.Up())
		if !u.Up() {
			err := fmt.Errorf("%s is %s", name, u)
			if u.NRestarts > 0 {
				err = fmt.Errorf("%s crashed %d times: %s", name, u.NRestarts, u)
			}
			return finding{err: err, final: over}
		}
		// A unit that became active after the clock was read is up for 0.
		up := max(monotonic()-u.ActiveEnter, 0)
		if u.NRestarts > 0 && up < stable {
			return finding{err: fmt.Errorf("%s was restarted %d times, the last time %s ago", name, u.NRestarts, up.Round(100*time.Millisecond))}
		}
		return finding{up: up}
	}
}

// monotonic is the clock of systemd's time stamps.
var monotonic = func() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(ts.Nano())
}
