package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// JobError says that systemd took a job and it did not end well.
type JobError struct {
	Verb   string // "start", "restart", "stop"
	Unit   string
	Result string // "failed", "timeout", "canceled", "dependency", "skipped" …; or the state the unit was found in
}

func (e *JobError) Error() string {
	return fmt.Sprintf("cannot %s %s: %s", e.Verb, e.Unit, e.Result)
}

// Restart restarts the unit, or starts it if it does not run, and waits for the
// job: for Type=notify that means ready, for Type=simple only that fork worked.
// Like Start and Stop it replaces a job that waits for the unit. When the job
// does not end well the error is a *JobError; when ctx ends the job continues.
func (m *Manager) Restart(ctx context.Context, name string) error {
	return m.job(ctx, "restart", name)
}

// Start starts the unit and waits for the job. One that runs is left alone.
func (m *Manager) Start(ctx context.Context, name string) error {
	return m.job(ctx, "start", name)
}

// Stop stops the unit and waits until it has ended. One that does not run is
// left alone.
func (m *Manager) Stop(ctx context.Context, name string) error {
	return m.job(ctx, "stop", name)
}

// Run starts a service of Type=oneshot, waits until it has ended, and returns its
// exit code; 128+n if signal n ended it. When its program did not run, or another job
// stopped it before it ended, the error is a *JobError. A failed unit is reset: how
// it ended has been read. When ctx ends, the service continues.
func (m *Manager) Run(ctx context.Context, name string) (code int, err error) {
	err = m.Start(ctx, name)
	if _, ok := errors.AsType[*JobError](err); !ok {
		return 0, err
	}
	for { // a job that was canceled ends before its service does
		u, unitErr := m.Unit(ctx, name)
		switch {
		case unitErr != nil:
			return 0, unitErr
		case u.Job != 0 || u.Active == "activating" || u.Active == "deactivating":
		case u.Active != "failed":
			return 0, err
		default:
			code, ok := u.exitCode()
			if resetErr := m.ResetFailed(ctx, name); resetErr != nil {
				return 0, resetErr
			}
			if !ok || u.ExecMainCode == cldExited && 200 <= code && code <= 245 {
				return code, &JobError{"run", name, "systemd could not execute it: " + u.String() + statusName(code)}
			}
			return code, nil
		}
		if err := Pause(ctx, 50*time.Millisecond); err != nil {
			return 0, fmt.Errorf("cannot wait for %s: %w", name, err)
		}
	}
}

// StartNoWait asks for the unit to be started and does not wait for anything. It
// is the way to start a unit that is ordered after the caller's own.
func (m *Manager) StartNoWait(ctx context.Context, name string) error {
	return m.enqueue(ctx, name, "replace")
}

// Reboot starts a clean reboot and does not wait for it: every service is
// stopped, ExecStop= of the guardian leaves its mark, file systems are
// unmounted. Nothing that is queued later can stop it.
func (m *Manager) Reboot(ctx context.Context) error {
	return m.enqueue(ctx, "reboot.target", "replace-irreversibly")
}

// ResetFailed forgets that the unit failed, with its count of starts, so that it
// can be started again after the start limit was hit. A unit that did not fail,
// or is not loaded, is left alone.
func (m *Manager) ResetFailed(ctx context.Context, name string) error {
	err := m.call(ctx, func(b *bus) error {
		_, err := b.call(objectPath, manager, "ResetFailedUnit", name)
		return err
	})
	if err != nil && !isError(err, errNoSuchUnit) {
		return fmt.Errorf("cannot reset the failure of %s: %w", name, err)
	}
	return nil
}

func (m *Manager) enqueue(ctx context.Context, name, mode string) error {
	err := m.call(ctx, func(b *bus) error {
		_, err := b.call(objectPath, manager, "StartUnit", name, mode)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", name, err)
	}
	return nil
}

// results are the common ends of a job that is not "done".
var results = map[string]string{"failed": "the unit failed", "timeout": "it took too long", "dependency": "a unit that it needs failed", "canceled": "another request replaced this one"}

var methods = map[string]string{"start": "StartUnit", "restart": "RestartUnit", "stop": "StopUnit"}

// job enqueues a job and waits for its end. systemd tells of the end by a
// signal; if the connection breaks meanwhile, the signal is lost and the unit
// itself is looked at instead.
func (m *Manager) job(ctx context.Context, verb, name string) error {
	taken, result := false, ""
	err := m.call(ctx, func(b *bus) error {
		answer, err := b.call(objectPath, manager, methods[verb], name, "replace")
		if err != nil {
			return err
		}
		taken = true
		if result, err = b.result(str(answer, 0)); gone(err) {
			return nil
		}
		return err
	})
	switch {
	case err != nil && taken:
		return fmt.Errorf("cannot wait for the %s of %s: %w", verb, name, err)
	case err != nil:
		return fmt.Errorf("cannot %s %s: %w", verb, name, err)
	case result == "":
		return m.settled(ctx, verb, name)
	case result != "done":
		if text := results[result]; text != "" {
			result = text
		}
		return &JobError{verb, name, result}
	}
	return nil
}

// settled waits until no job is left for the unit and decides by its state.
func (m *Manager) settled(ctx context.Context, verb, name string) error {
	for {
		u, err := m.Unit(ctx, name)
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
		if err := Pause(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("cannot wait for the %s of %s: %w", verb, name, err)
		}
	}
}

// statusName says what systemd means by the exit codes 200 to 245 that it makes
// itself between fork and exec, systemd.exec(5); the likely ones.
func statusName(code int) string {
	names := map[int]string{
		200: "its working directory", 203: "no program, or no permission", 208: "standard input", 209: "standard output",
		217: "no such user", 218: "capabilities", 226: "its namespace", 228: "its filter of system calls", 238: "a directory of its state",
	}
	if n, ok := names[code]; ok {
		return fmt.Sprintf(" (%d: %s)", code, n)
	}
	return fmt.Sprintf(" (%d)", code)
}

// Pause waits for d, or for the end of ctx, which it returns.
func Pause(ctx context.Context, d time.Duration) error {
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
// begun and that cannot be stopped: it shuts down, or reboots.
func Leaving(err error) bool { return isError(err, errIsLeaving) }

func isError(err error, name string) bool {
	e, ok := errors.AsType[*callError](err)
	return ok && e.name == name
}
