// Package systemd is the few calls to PID 1 that the programs need, over
// systemd's private socket: that works early in boot, before a D-Bus daemon
// runs, and when the daemon is broken.
//
// Every call ends with its context, whatever state PID 1 is in, except that a
// job which systemd has accepted goes on without us. When PID 1 re-executes
// itself (daemon-reexec, an update of systemd) every connection breaks; a Conn
// then connects again by itself.
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
	"sync"
	"syscall"
	"time"

	bus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Running reports whether systemd is PID 1, as sd_booted(3) does. Where it is
// not (a container, a chroot, a test) nothing of this package works and nothing
// needs to be restarted.
func Running() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// A Conn is a connection to systemd. Its methods may be called at the same time.
type Conn struct {
	dial func(context.Context) (*bus.Conn, error)

	mu     sync.Mutex // guards what follows; held while connecting
	live   *bus.Conn
	cancel context.CancelFunc // ends live
	closed bool
}

// Dial connects to systemd. ctx bounds the connecting only; the connection lasts
// until Close. As root it uses the private socket, and the system bus where that
// is not allowed or as another user.
func Dial(ctx context.Context) (*Conn, error) {
	c := &Conn{dial: dial}
	if _, err := c.connected(ctx); err != nil {
		return nil, fmt.Errorf("cannot reach systemd: %w", err)
	}
	return c, nil
}

// Close ends the connection. Calls in progress fail.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.drop()
}

func (c *Conn) drop() {
	if c.live != nil {
		c.live.Close()
		c.cancel()
		c.live, c.cancel = nil, nil
	}
}

var errClosed = errors.New("the connection to systemd was closed")

// patience is how long PID 1 may be gone while it re-executes itself. It takes
// well under a second; on a slow, loaded device some.
const patience = 15 * time.Second

// connected returns a connection that was alive a moment ago.
func (c *Conn) connected(ctx context.Context) (*bus.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if c.live != nil && c.live.Connected() {
		return c.live, nil
	}
	c.drop()
	for start := time.Now(); ; {
		err := c.connect(ctx)
		if err == nil {
			return c.live, nil
		}
		if !restarting(err) || time.Since(start) > patience {
			return nil, err
		}
		if ctxErr := pause(ctx, 50*time.Millisecond); ctxErr != nil {
			return nil, fmt.Errorf("%w (%w)", ctxErr, err)
		}
	}
}

// restarting reports whether err is what connecting meets while PID 1
// re-executes itself: it has closed the socket and not yet bound it again, or
// it closes what it had just accepted.
func restarting(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, dbus.ErrClosed) ||
		errors.Is(err, syscall.ENOENT) && Running()
}

// connect makes c.live. The context that go-systemd takes is the connection's
// lifetime, and it authenticates without looking at any: a PID 1 that accepts
// and then says nothing would hold it for ever. So that context is one of our
// own, and ended when ctx ends first.
func (c *Conn) connect(ctx context.Context) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	type dialled struct {
		conn *bus.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		conn, err := c.dial(life)
		done <- dialled{conn, err}
	}()
	select {
	case d := <-done:
		if d.err != nil {
			cancel()
			return d.err
		}
		c.live, c.cancel = d.conn, cancel
		return nil
	case <-ctx.Done():
		cancel()
		go func() {
			if d := <-done; d.conn != nil {
				d.conn.Close()
			}
		}()
		return ctx.Err()
	}
}

func dial(life context.Context) (*bus.Conn, error) {
	if os.Geteuid() != 0 {
		return bus.NewSystemConnectionContext(life)
	}
	conn, err := bus.NewSystemdConnectionContext(life)
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) { // a sandbox
		if conn, err := bus.NewSystemConnectionContext(life); err == nil {
			return conn, nil
		}
	}
	return conn, err
}

// call lets f talk to systemd, again if the connection broke: what f asks for must
// be right to ask for twice. A PID 1 that re-executes itself may still take a
// connection and then drop it, so once more is not always enough.
func (c *Conn) call(ctx context.Context, f func(*bus.Conn) error) error {
	for start, try := time.Now(), 1; ; try++ {
		b, err := c.connected(ctx)
		if err != nil {
			return err
		}
		err = f(b)
		if err == nil || ctx.Err() != nil || !broken(b, err) || try > 1 && time.Since(start) > patience {
			return err
		}
		c.forget(b)
		if try > 1 && pause(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

// forget drops b, which may not know yet that it is broken.
func (c *Conn) forget(b *bus.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == b {
		c.drop()
	}
}

func broken(b *bus.Conn, err error) bool {
	return !b.Connected() || errors.Is(err, dbus.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
