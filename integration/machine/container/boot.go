package container

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/try"
)

// run boots the machine each time it asks for it or is switched on, until it is
// stopped. It never unlocks its thread: a child's death signal comes when the
// thread that made it ends, so that must live as long.
func (c *Container) run() {
	runtime.LockOSThread()
	defer close(c.over)
	for number := 1; ; number++ {
		err := c.bootOnce(number)
		c.mu.Lock()
		if err != nil {
			if c.stopped {
				err = errStopped
			}
			c.off = err
			c.console.Note("the machine is off: %v", err)
		}
		if c.boot != nil {
			c.boot.init = nil
		}
		c.notify()
		for c.off != nil && !c.stopped {
			changed := c.changed
			c.mu.Unlock()
			<-changed
			c.mu.Lock()
		}
		stopped := c.stopped
		c.mu.Unlock()
		if stopped {
			return
		}
	}
}

// bootOnce boots the machine and waits for its end. It returns nil when the
// machine wants to be started again, and otherwise why it is off.
func (c *Container) bootOnce(number int) (err error) {
	defer try.End(&err)
	id := newBootID()
	master, slave, err := openConsole()
	try.Check(err)
	defer master.Close()
	logged := make(chan struct{})
	go func() {
		c.console.Copy("", master)
		close(logged)
	}()
	defer func() { <-logged }()
	c.console.Note("boot %d, ID %s", number, id)

	// Held open until the end: a terminal that is closed for a moment reads
	// as ended.
	defer slave.Close()
	cmd, failure, err := c.spawn(id, slave)
	try.Check(err)
	c.mu.Lock()
	b := &boot{id: id, init: cmd.Process, number: number}
	c.boot, c.off = b, nil
	if c.stopped {
		c.kill()
	}
	c.notify()
	c.mu.Unlock()

	said, _ := io.ReadAll(failure)
	failure.Close()
	err = cmd.Wait()
	if cmd.ProcessState == nil {
		return err
	}
	if len(said) > 0 {
		return errors.New(string(said))
	}
	return errorOfEnd(cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// spawn starts ota-container-init in namespaces and in the machine's cgroup.
// From failure comes why it could not continue; nothing if systemd runs.
func (c *Container) spawn(bootID string, console *os.File) (cmd *exec.Cmd, failure *os.File, err error) {
	defer try.End(&err)
	plan := c.plan
	plan.BootID, plan.Console = bootID, console.Name()
	text := try.Get(json.Marshal(plan))
	planR, planW, err := os.Pipe()
	try.Check(err)
	defer planR.Close()
	defer planW.Close()
	// Less than a pipe holds, so there is no need for a reader yet.
	try.Get(planW.Write(text))
	cgroup := try.Get(os.Open(c.cgroup))
	defer cgroup.Close()
	failR, failW, err := os.Pipe()
	try.Check(err)
	defer failW.Close()

	cmd = &exec.Cmd{
		Path:       filepath.Join(c.dir.path, "init"),
		Args:       []string{"ota-container-init"},
		Env:        []string{},
		Stdout:     console,
		Stderr:     console,
		ExtraFiles: []*os.File{planR, failW},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC |
				syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET,
			UseCgroupFD: true,
			CgroupFD:    int(cgroup.Fd()),
			Setsid:      true, // ^C at the terminal is for the test, which then stops the machine
		},
	}
	if err := cmd.Start(); err != nil {
		failR.Close()
		return nil, nil, fmt.Errorf("cannot clone namespaces: %w", err)
	}
	return cmd, failR, nil
}

// newBootID is a random UUID as the kernel writes them (RFC 9562, version 4).
func newBootID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// helloLimit is how long an agent that has connected may take to say hello.
const helloLimit = 2 * time.Minute

// listen takes the calls of the agents of all boots on a socket in dir.
func (c *Container) listen(dir string) (_ io.Closer, err error) {
	defer try.End(&err)
	d := try.Get(os.Open(dir))
	defer d.Close()
	// By the descriptor, because a socket's path has at most 107 bytes.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(agent.SocketPath))
	l := try.Get(net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}))
	l.SetUnlinkOnClose(false)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.greet(conn)
		}
	}()
	return l, nil
}

// greet makes conn the channel of the boot that is at its other end.
func (c *Container) greet(conn net.Conn) {
	a := agent.NewClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), helloLimit)
	defer cancel()
	id, err := a.Hello(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || c.boot == nil || c.boot.id != id || c.stopped {
		a.Close()
		return
	}
	if c.boot.agent != nil {
		c.boot.agent.Close()
	} else {
		c.console.Note("the agent said hello")
	}
	c.boot.agent = a
	c.notify()
}
