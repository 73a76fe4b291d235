// Package container is a test machine without a virtual machine: a real systemd
// in namespaces of its own, on the same Debian root and with the same agent. A
// boot takes a third of a second instead of seconds, so that scenarios that need
// systemd but no kernel can be many.
//
//	/                     the Debian root with Options.Overlay over it; read-only
//	/data                 a directory of the host; all that survives a boot
//	/opt/tope             /data/opt-tope
//	/etc/ota              /data/etc-ota
//	/var/lib/ota          /data/var-lib-ota
//	/var /run /tmp /dev   in memory, new at each boot
//	/proc/…/boot_id       new at each boot; in a sandbox that mounts a /proc of its
//	                      own, only for units called ota-*.service
//
// What it cannot show, the virtual machine does: a power cut loses no write that
// a program has made, because the host's page cache survives; there is one kernel
// for all, so no panic, no watchdog and no modules; CLOCK_BOOTTIME and /proc/uptime
// are the host's and do not start again with a boot.
//
// It needs root and what Missing names. The machine dies with the process that
// started it, also when that is killed; a later Start removes what a killed
// process could not.
package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Options say what a Container is made of.
type Options struct {
	// Overlay is added to the Debian root; see debian.Overlay. The agent is added
	// by Start.
	Overlay debian.Overlay

	// Variant is the Debian root, if it is not the usual one.
	Variant debian.Variant

	// Writable makes the root, /var included, a disk that can be written and that
	// survives boots: a device that takes packages. Its changes are a layer over
	// the Debian root, which is shared.
	Writable bool
}

// Container is a running machine. It is a machine.Machine.
type Container struct {
	agent.Remote
	dir     *stateDir
	cgroup  string // directory of the host's cgroup2
	plan    Plan
	console *agent.Console
	agents  io.Closer // listens for the agents

	over    chan struct{} // closed when the machine is off for good
	removed sync.Once

	mu      sync.Mutex
	boot    *boot         // the boot that runs, or the last one
	off     error         // why the machine is off; nil: it is on
	stopped bool          // off for good
	changed chan struct{} // closed, and replaced, when one of the above changes
}

// boot is one boot. Its fields belong to Container.mu.
type boot struct {
	id     string
	init   *os.Process   // nil until it was started
	agent  *agent.Client // nil until it said hello
	number int
}

var (
	errStopped = errors.New("it was stopped")
	errPower   = errors.New("its power was cut")
)

// Start starts a machine and returns when its agent has said hello; services may
// still be starting. The end of ctx stops the machine, also much later. The
// caller calls Stop.
func Start(ctx context.Context, o Options) (_ *Container, err error) {
	defer try.End(&err)
	defer try.Say("cannot start a container")
	if missing := Missing(); len(missing) > 0 {
		try.Failf("missing on this host: %s", strings.Join(missing, "; "))
	}
	root := try.Get(o.Variant.Root(ctx))
	programs := try.Get(built())
	sweep()
	c := &Container{dir: try.Get(newStateDir()), console: agent.NewConsole(), over: make(chan struct{}), changed: make(chan struct{})}
	c.Remote = func(ctx context.Context, do func(*agent.Client) error) error {
		b, err := c.await(ctx, "the agent", (*boot).answers)
		if err != nil {
			return err
		}
		return do(b.agent)
	}
	if err := c.prepare(root, programs, o); err != nil {
		c.remove()
		try.Check(err)
	}
	go c.run()
	context.AfterFunc(ctx, c.Stop)
	if err := c.WaitReboot(ctx, ""); err != nil {
		c.Stop()
		try.Failf("%w; its log:\n%s", err, c.console.Tail(40))
	}
	return c, nil
}

// prepare makes the directories, the cgroup and the socket that all boots share.
func (c *Container) prepare(root string, p programs, o Options) (err error) {
	defer try.End(&err)
	in := c.dir.path
	for _, name := range []string{"lower", "root", "files", "data", "agent", "upper", "work"} {
		try.Check(os.Mkdir(filepath.Join(in, name), 0o755))
	}
	try.Check(os.WriteFile(filepath.Join(in, "init"), p.init, 0o700))
	all := debian.Overlay{
		agent.Path:                     {Mode: 0o755, Data: p.agent},
		agent.UnitPath:                 debian.Unit(agent.Unit),
		agent.UnitWants:                {Link: agent.UnitPath},
		filepath.Dir(agent.SocketPath): {Mode: os.ModeDir | 0o755},
		"/etc/systemd/journald.conf.d/90-console.conf": {Data: []byte("[Journal]\nForwardToConsole=yes\nMaxLevelConsole=info\n")},
		// For every ota-*.service; see BootIDFile.
		"/etc/systemd/system/ota-.service.d/90-boot-id.conf": debian.Unit("[Service]\nBindReadOnlyPaths=" + BootIDFile + ":/proc/sys/kernel/random/boot_id\n"),
		// But not for the agent: what a test mounts has to be mounted for all.
		agent.UnitPath + ".d/90-boot-id.conf": {Link: "/dev/null"},
	}
	all.Add(o.Overlay)
	try.Check(all.Install(filepath.Join(in, "files")))
	c.cgroup = try.Get(c.dir.makeCgroup())
	c.agents = try.Get(c.listen(filepath.Join(in, "agent")))
	c.plan = Plan{Dir: in, Root: root, Writable: o.Writable}
	return nil
}

// Stop switches the machine off and removes everything of it from the host. It
// may be called more than once.
func (c *Container) Stop() {
	c.mu.Lock()
	c.stopped = true
	c.notify()
	c.kill()
	c.mu.Unlock()
	<-c.over
	c.remove()
}

// remove takes what is left of a machine without processes from the host. What
// it cannot, the next Start tries again.
func (c *Container) remove() {
	c.removed.Do(func() {
		if c.agents != nil {
			c.agents.Close()
		}
		if err := c.dir.remove(); err != nil {
			c.console.Note("cannot be removed from the host: %v", err)
		}
	})
}

// notify wakes all that wait for the machine. c.mu is held.
func (c *Container) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// kill ends the boot that runs, if one does. c.mu is held.
func (c *Container) kill() {
	if c.boot != nil && c.boot.init != nil {
		c.boot.init.Kill() // only the namespace's init; the kernel kills the rest
	}
}

// Freeze stops the machine's PID 1, which then answers no call, until the next
// boot. Everything else continues.
func (c *Container) Freeze() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boot == nil || c.boot.init == nil {
		return errors.New("no boot is running")
	}
	return c.boot.init.Signal(syscall.SIGSTOP)
}

// Name is "container".
func (c *Container) Name() string { return "container" }

// Dir is where the host has the machine. Stop removes it.
func (c *Container) Dir() string { return c.dir.path }

// Data is the host's path of the guest's /data.
func (c *Container) Data() string { return c.plan.data() }

// Log implements machine.Machine: systemd's output and the journal, and behind
// dashes what the harness did.
func (c *Container) Log() string { return c.console.String() }

// await returns the boot that runs as soon as ok likes it. A machine that is off
// does not come back by itself: that is an error.
func (c *Container) await(ctx context.Context, what string, ok func(*boot) bool) (boot, error) {
	start := time.Now()
	for {
		c.mu.Lock()
		var now boot
		if c.boot != nil {
			now = *c.boot
		}
		off, changed := c.off, c.changed
		if c.stopped {
			off = errStopped
		}
		c.mu.Unlock()
		if off != nil {
			return boot{}, fmt.Errorf("waited for %s, but the machine is off: %w", what, off)
		}
		if ok(&now) {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return boot{}, fmt.Errorf("waited %s for %s: %w; the last lines of its log:\n%s",
				time.Since(start).Round(time.Millisecond), what, ctx.Err(), c.console.Tail(20))
		}
	}
}

func (b *boot) answers() bool {
	if b.agent == nil {
		return false
	}
	select {
	case <-b.agent.Closed():
		return false
	default:
		return true
	}
}

// Reboot implements machine.Machine.
func (c *Container) Reboot(ctx context.Context) (err error) {
	defer try.End(&err)
	return c.WaitReboot(ctx, try.Get(c.AskReboot(ctx)))
}

// PowerCut implements machine.Machine. No write is lost: the host's kernel has
// them all.
func (c *Container) PowerCut(ctx context.Context) (err error) {
	defer try.End(&err)
	try.Check(c.PowerOff())
	return c.PowerOn(ctx)
}

// PowerOff takes the power away. The machine is off when it returns.
func (c *Container) PowerOff() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.off != nil {
		return fmt.Errorf("the machine is already off: %w", c.off)
	}
	for c.off == nil && !c.stopped {
		// Again in each round: it may have been between two boots.
		c.kill()
		changed := c.changed
		c.mu.Unlock()
		<-changed
		c.mu.Lock()
	}
	return nil
}

// PowerOn boots a machine that is off, however it came to be, and returns when
// its agent has said hello.
func (c *Container) PowerOn(ctx context.Context) error {
	c.mu.Lock()
	if c.off == nil {
		c.mu.Unlock()
		return errors.New("the machine is already on")
	}
	last := c.boot
	c.off = nil
	c.notify()
	c.mu.Unlock()
	_, err := c.await(ctx, "the agent's hello after power on", func(b *boot) bool {
		return b.number != last.number && b.answers()
	})
	return err
}

// WaitReboot implements machine.Machine.
func (c *Container) WaitReboot(ctx context.Context, last string) error {
	_, err := c.await(ctx, fmt.Sprintf("the agent of a boot other than %q", last), func(b *boot) bool {
		return b.id != last && b.answers()
	})
	return err
}

// errorOfEnd says why the machine is off after its init ended like that; nil
// means that it asked to be started again.
func errorOfEnd(ws syscall.WaitStatus) error {
	switch {
	// reboot(2), "Behavior inside PID namespaces": restart and halt.
	case ws.Signaled() && ws.Signal() == syscall.SIGHUP:
		return nil
	case ws.Signaled() && ws.Signal() == syscall.SIGINT:
		return errors.New("it was switched off from inside")
	case ws.Signaled() && ws.Signal() == syscall.SIGKILL:
		return errPower
	case ws.Signaled():
		return fmt.Errorf("its systemd died by signal %d (%s)", ws.Signal(), ws.Signal())
	}
	return fmt.Errorf("its systemd exited with %d", ws.ExitStatus())
}
