package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	bus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// JobError says that systemd took a job and it did not end well.
type JobError struct {
	Verb   string // "start", "restart", "stop"
	Unit   string
	Result string // "failed", "timeout", "canceled", "dependency", "skipped" …; or the state the unit was found in
}

func (e *JobError) Error() string {
	return fmt.Sprintf("cannot %s %q: %s", e.Verb, e.Unit, e.Result)
}

// Restart restarts the unit, or starts it if it does not run, and waits for the
// job: for Type=notify that means ready, for Type=simple only that fork worked.
// Like Start and Stop it replaces a job that waits for the unit. When the job
// does not end well the error is a *JobError; when ctx ends the job goes on.
func (c *Conn) Restart(ctx context.Context, name string) error {
	return c.job(ctx, "restart", name, func(b *bus.Conn, ch chan<- string) (int, error) {
		return b.RestartUnitContext(ctx, name, "replace", ch)
	})
}

// Start starts the unit and waits for the job. One that runs is left alone.
func (c *Conn) Start(ctx context.Context, name string) error {
	return c.job(ctx, "start", name, func(b *bus.Conn, ch chan<- string) (int, error) {
		return b.StartUnitContext(ctx, name, "replace", ch)
	})
}

// Stop stops the unit and waits until it has ended. One that does not run is
// left alone.
func (c *Conn) Stop(ctx context.Context, name string) error {
	return c.job(ctx, "stop", name, func(b *bus.Conn, ch chan<- string) (int, error) {
		return b.StopUnitContext(ctx, name, "replace", ch)
	})
}

// Run starts a service of Type=oneshot, waits until it has ended, and returns its
// exit code; 128+n if signal n ended it. When its program did not run, or somebody
// stopped it before it ended, the error is a *JobError. A failed unit is reset: how
// it ended has been read. When ctx ends, the service goes on.
func (c *Conn) Run(ctx context.Context, name string) (code int, err error) {
	err = c.Start(ctx, name)
	if _, ok := errors.AsType[*JobError](err); !ok {
		return 0, err
	}
	for { // a job that was canceled ends before its service does
		u, unitErr := c.Unit(ctx, name)
		switch {
		case unitErr != nil:
			return 0, unitErr
		case u.Job != 0 || u.Active == "activating" || u.Active == "deactivating":
		case u.Active != "failed":
			return 0, err
		default:
			code, ok := u.exitCode()
			if resetErr := c.ResetFailed(ctx, name); resetErr != nil {
				return 0, resetErr
			}
			if !ok || u.ExecMainCode == cldExited && 200 <= code && code <= 245 {
				return code, &JobError{"run", name, "systemd could not execute it: " + u.String() + statusName(code)}
			}
			return code, nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, fmt.Errorf("cannot wait for %q: %w", name, err)
		}
	}
}

// StartNoWait asks for the unit to be started and does not wait for anything. It
// is the way to start a unit that is ordered after the caller's own.
func (c *Conn) StartNoWait(ctx context.Context, name string) error {
	return c.enqueue(ctx, "start", name, func(b *bus.Conn) (int, error) {
		return b.StartUnitContext(ctx, name, "replace", nil)
	})
}

// Reboot starts a clean reboot and does not wait for it: every service is
// stopped, ExecStop= of the guardian leaves its mark, file systems are
// unmounted. Nothing that is queued later can stop it.
func (c *Conn) Reboot(ctx context.Context) error {
	const name = "reboot.target"
	return c.enqueue(ctx, "start", name, func(b *bus.Conn) (int, error) {
		return b.StartUnitContext(ctx, name, "replace-irreversibly", nil)
	})
}

// ResetFailed forgets that the unit failed, with its count of starts, so that it
// can be started again after the start limit was hit. A unit that did not fail,
// or is not loaded, is left alone.
func (c *Conn) ResetFailed(ctx context.Context, name string) error {
	err := c.call(ctx, func(b *bus.Conn) error { return b.ResetFailedUnitContext(ctx, name) })
	if err != nil && !isError(err, errNoSuchUnit) {
		return fmt.Errorf("cannot reset the failure of %q: %w", name, err)
	}
	return nil
}

func (c *Conn) enqueue(ctx context.Context, verb, name string, f func(*bus.Conn) (int, error)) error {
	err := c.call(ctx, func(b *bus.Conn) error {
		_, err := f(b)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot %s %q: %w", verb, name, err)
	}
	return nil
}

// job enqueues a job and waits for its end. systemd tells of the end by a
// signal; if the connection breaks meanwhile, the signal is lost and the unit
// itself is looked at instead.
func (c *Conn) job(ctx context.Context, verb, name string, f func(*bus.Conn, chan<- string) (int, error)) error {
	ended := make(chan string, 1) // an unbuffered one would stop go-systemd when we no longer listen
	var at *bus.Conn
	if err := c.enqueue(ctx, verb, name, func(b *bus.Conn) (int, error) {
		at = b
		return f(b, ended)
	}); err != nil {
		return err
	}
	alive := time.NewTicker(200 * time.Millisecond)
	defer alive.Stop()
	for {
		select {
		case result := <-ended:
			if result != "done" {
				return &JobError{verb, name, fmt.Sprintf("the job ended with %q", result)}
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for the %s of %q: %w", verb, name, ctx.Err())
		case <-alive.C:
			if !at.Connected() {
				return c.settled(ctx, verb, name)
			}
		}
	}
}

// settled waits until no job is left for the unit and judges by its state.
func (c *Conn) settled(ctx context.Context, verb, name string) error {
	for {
		u, err := c.Unit(ctx, name)
		switch {
		case err != nil:
			return err
		case u.Job != 0:
		case u.Up() == (verb != "stop"):
			return nil
		case verb == "start" && u.Result == "success" && u.Active == "inactive":
			return nil // a oneshot that is through
		default:
			return &JobError{verb, name, "the unit is " + u.String()}
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("cannot wait for the %s of %q: %w", verb, name, err)
		}
	}
}

// statusName says what systemd means by the exit codes 200 to 245 that it makes
// itself between fork and exec, systemd.exec(5); the likely ones.
func statusName(code int) string {
	names := map[int]string{
		200: "its working directory", 203: "no program, or no permission", 208: "standard input", 209: "standard output",
		217: "no such user", 218: "capabilities", 226: "its namespace", 228: "its filter of system calls", 238: "a folder of its state",
	}
	if n, ok := names[code]; ok {
		return fmt.Sprintf(" (%d: %s)", code, n)
	}
	return fmt.Sprintf(" (%d)", code)
}

// pause waits for d, or for the end of ctx, which it returns.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Names of errors on D-Bus, systemd:src/libsystemd/sd-bus/bus-common-errors.h.
const (
	errNoSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
	errIsLeaving  = "org.freedesktop.systemd1.TransactionIsDestructive"
)

// Leaving reports whether err is that of a job which systemd refuses for one that it has
// begun and that cannot be taken back: it shuts down, or reboots.
func Leaving(err error) bool { return isError(err, errIsLeaving) }

func isError(err error, name string) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && e.Name == name
}
