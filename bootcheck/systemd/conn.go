// Package systemd is the few calls to PID 1 that the programs need, over
// systemd's private socket: that works early in boot, before a D-Bus daemon
// runs, and when the daemon is broken.
//
// Every call ends with its context, also if PID 1 hangs, except that a
// job which systemd has accepted continues without us. When PID 1 re-executes
// itself (daemon-reexec, an update of systemd) every connection breaks; then the
// call connects again by itself.
//
// Never wait for a unit that is ordered after the caller's own unit: its job
// does not begin before the caller ends.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// Running reports whether systemd is PID 1, as sd_booted(3) does. Where it is
// not (a container, a chroot, a test) nothing of this package works and nothing
// needs to be restarted.
func Running() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// A Manager is systemd. Each of its methods makes a connection of its own, so they may be
// called at the same time, and there is nothing to close.
type Manager struct {
	private, system string // sockets: of PID 1, for root alone, and of the D-Bus daemon
}

const systemBus = "/run/dbus/system_bus_socket"

// Dial returns systemd if it answers. As root it uses the private socket, and the system
// bus where that is not allowed or as another user.
func Dial(ctx context.Context) (*Manager, error) {
	m := &Manager{private: "/run/systemd/private", system: systemBus}
	if os.Geteuid() != 0 {
		m.private = ""
	}
	if err := m.call(ctx, func(*bus) error { return nil }); err != nil {
		return nil, fmt.Errorf("cannot reach systemd: %w", err)
	}
	return m, nil
}

// patience is how long PID 1 may be gone while it re-executes itself. It takes
// well under a second; on a slow, loaded device some.
const patience = 15 * time.Second

// call lets f talk to systemd, again if the connection broke: what f asks for must
// be right to ask for twice.
func (m *Manager) call(ctx context.Context, f func(*bus) error) error {
	for start := time.Now(); ; {
		err := m.once(ctx, f)
		if err == nil || !gone(err) || time.Since(start) > patience {
			return err
		}
		if ctxErr := Pause(ctx, 50*time.Millisecond); ctxErr != nil {
			return fmt.Errorf("%w (%w)", ctxErr, err)
		}
	}
}

func (m *Manager) once(ctx context.Context, f func(*bus) error) error {
	b, private, err := m.open()
	if err != nil {
		return err
	}
	defer b.file.Close()
	// A PID 1 that crashed still has its socket: the kernel accepts, and no answer comes.
	defer context.AfterFunc(ctx, func() { b.file.SetDeadline(time.Unix(1, 0)) })()
	err = b.greet()
	if err == nil && !private {
		err = b.join()
	}
	if err == nil {
		err = f(b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

func (m *Manager) open() (b *bus, private bool, err error) {
	if m.private != "" {
		b, err = openBus(m.private)
		if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) { // a sandbox
			return b, true, err
		}
	}
	b, err = openBus(m.system)
	return b, false, err
}

// gone reports whether err is what a call meets while PID 1 re-executes itself: it has
// closed the socket and not yet bound it again, or it closes what it had just accepted.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EAGAIN) ||
		errors.Is(err, syscall.ENOENT) && Running()
}
