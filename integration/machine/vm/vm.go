// Package vm is a test machine with a real kernel: Debian 12 in QEMU, for amd64
// or arm64, emulated, so that it runs wherever Go runs. It is a machine.Machine;
// see there for what a scenario can ask of it.
//
//	host                              guest
//	VM ── agent.Client ── socket ── virtio-serial ── ota-test-agent.service
//	   ── qmp ─────────── socket ── QEMU (stop, reset, events)
//	   ── console ─────── socket ── ttyS0, ttyAMA0 (only ever read)
//	   data.img ─────────────────── /data, ext4, survives a power cut
//	   root.erofs ───────────────── /, read-only, shared by all machines
//
// Nothing of the host is touched and root is not needed. QEMU dies with the
// context that Start got, with Stop, and with this process, however it ends.
package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/try"
)

// bootLimit is how long a boot may take until the agent's hello. 4 to 7 s on a
// quiet machine of 2 cores; a loaded one was seen to take four times as long, and
// a CI may be ten times slower.
const bootLimit = 4 * time.Minute

// VM is a virtual machine that was started.
type VM struct {
	agent.Remote
	opts   Options
	assets *assets
	dir    string
	ownDir bool
	log    *agent.Console

	mu      sync.Mutex
	q       *qemu // nil after PowerOff
	client  *agent.Client
	stopped bool

	eventsMu sync.Mutex // not mu, which launch holds while QEMU may already send events
	events   []string
}

// Start starts a machine and returns when its agent has said hello (after a warm
// start, that is, Options.Cold false: when the whole boot is over). The end of
// ctx stops the machine, also much later. The caller calls Stop.
func Start(ctx context.Context, o Options) (_ *VM, err error) {
	defer try.End(&err)
	if missing := Missing(o.Variant.Arch); len(missing) > 0 {
		return nil, fmt.Errorf("cannot start a virtual machine: install %s", strings.Join(missing, " "))
	}
	a := try.Get(prepare(ctx, o))
	v := newVM(o, a, try.Get(os.MkdirTemp("", "ota-vm-")), agent.NewConsole())
	v.ownDir = true
	context.AfterFunc(ctx, func() { v.Stop() })
	if err := v.start(ctx); err != nil {
		v.Stop()
		return nil, err
	}
	return v, nil
}

func newVM(o Options, a *assets, dir string, log *agent.Console) *VM {
	v := &VM{opts: o, assets: a, dir: dir, log: log}
	v.Remote = func(_ context.Context, do func(*agent.Client) error) error {
		client, q, err := v.running()
		if err != nil {
			return err
		}
		return v.explain(q, do(client))
	}
	return v
}

func (v *VM) start(ctx context.Context) (err error) {
	defer try.End(&err)
	if v.opts.From != "" {
		return v.restore(ctx, v.opts.From)
	}
	if !v.opts.Cold {
		return v.startWarm(ctx)
	}
	try.Check(newDataDisk(ctx, v.Disk()))
	return v.PowerOn(ctx)
}

// Disk is the file of the data disk. Only while the machine is off or frozen it is
// one that it may be found with.
func (v *VM) Disk() string { return filepath.Join(v.dir, "data.img") }

// PowerOn boots a machine that is off, with the data disk as it is, and returns
// when its agent has said hello.
func (v *VM) PowerOn(ctx context.Context) (err error) {
	defer try.End(&err)
	try.Check(v.launch(ctx))
	return v.waitBoot(ctx, "", "the agent's hello after power on")
}

// launch starts QEMU, which has taken its control connection when this returns.
func (v *VM) launch(ctx context.Context, more ...string) (err error) {
	defer try.End(&err)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.stopped:
		return errors.New("the virtual machine was stopped")
	case v.q != nil && !v.q.gone():
		return errors.New("the virtual machine is already on")
	case v.q != nil: // it has switched itself off
		v.client.Close()
		v.q, v.client = nil, nil
	}
	args := append(v.opts.args(v.assets),
		"-drive", "if=none,id=root,format=raw,readonly=on,file="+escape(v.assets.root),
		"-device", "virtio-blk-pci,drive=root,serial="+agent.RootSerial,
		"-drive", "if=none,id=data,format=raw,discard=unmap,file="+escape(v.Disk()),
		"-device", "virtio-blk-pci,id=data-disk,drive=data,serial="+agent.DataSerial,
	)
	v.log.Note("power on")
	q := try.Get(startQEMU(v.opts.Variant.Arch.Facts().QEMU, append(args, more...), v.log, v.event))
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := q.qmp.call(ctx, "qmp_capabilities", nil, nil); err != nil {
		q.kill()
		return fmt.Errorf("%w\n%s", err, v.log.Tail(10))
	}
	v.q, v.client = q, agent.NewClient(q.agent)
	return nil
}

func (v *VM) event(name string, data json.RawMessage) {
	if name == "RTC_CHANGE" {
		return
	}
	v.log.Note("%s %s", name, data)
	v.eventsMu.Lock()
	v.events = append(v.events, name)
	v.eventsMu.Unlock()
}

// Events are the names of QEMU's events so far, in their order: RESET, SHUTDOWN,
// WATCHDOG, STOP, RESUME and so on (qemu-qmp-ref).
func (v *VM) Events() []string {
	v.eventsMu.Lock()
	defer v.eventsMu.Unlock()
	return slices.Clone(v.events)
}

// running is the machine's agent and QEMU, or why there is none.
func (v *VM) running() (*agent.Client, *qemu, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.q == nil {
		return nil, nil, errors.New("the virtual machine is off")
	}
	return v.client, v.q, nil
}

// explain adds to an error that QEMU has ended, if so: else it would only be
// seen that no answer comes.
func (v *VM) explain(q *qemu, err error) error {
	if !errors.Is(err, agent.ErrGone) && !errors.Is(err, errQMPClosed) {
		return err
	}
	select {
	case <-q.ended:
	case <-time.After(time.Second): // the connections end a moment before the process
		return err
	}
	return fmt.Errorf("%w\nthe virtual machine has ended; its last lines:\n%s", err, v.log.Tail(15))
}

// waitBoot returns when a boot other than last has said hello. It fails at once
// when QEMU ends, as a machine does that switches itself off.
func (v *VM) waitBoot(ctx context.Context, last, what string) error {
	client, q, err := v.running()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	id, err := client.WaitBoot(ctx, last)
	switch {
	case errors.Is(err, agent.ErrGone):
		return v.explain(q, fmt.Errorf("waited for %s: %w", what, err))
	case err != nil:
		return fmt.Errorf("waited for %s: %w\nthe console's last lines:\n%s", what, err, v.log.Tail(15))
	}
	v.log.Note("hello from boot %s", id)
	return nil
}

// Name is "vm".
func (v *VM) Name() string { return "vm" }

// Reboot implements machine.Machine. QEMU continues running; the guest resets it.
func (v *VM) Reboot(ctx context.Context) (err error) {
	defer try.End(&err)
	v.log.Note("systemctl reboot")
	return v.waitBoot(ctx, try.Get(v.AskReboot(ctx)), "the next boot after systemctl reboot")
}

// WaitReboot implements machine.Machine.
func (v *VM) WaitReboot(ctx context.Context, last string) error {
	return v.waitBoot(ctx, last, "a boot other than "+last)
}

// PowerCut implements machine.Machine: QEMU is killed and started again with the
// same disk. What the guest had not written to its disk is lost; what it had
// written is not, in any order, so that this finds a missing fsync and
// never a disk that lies.
func (v *VM) PowerCut(ctx context.Context) (err error) {
	defer try.End(&err)
	try.Check(v.PowerOff())
	return v.PowerOn(ctx)
}

// PowerOff takes the power away. The machine is off when it returns.
func (v *VM) PowerOff() error {
	v.mu.Lock()
	q, client := v.q, v.client
	v.q, v.client = nil, nil
	v.mu.Unlock()
	if q == nil {
		return errors.New("the virtual machine is already off")
	}
	v.log.Note("power off")
	q.kill()
	client.Close()
	return nil
}

// Reset presses the reset button and returns when the next boot's agent has said
// hello. Like a power cut, it loses what was not written.
func (v *VM) Reset(ctx context.Context) (err error) {
	defer try.End(&err)
	last := try.Get(v.BootID(ctx))
	v.log.Note("reset button")
	try.Check(v.control(func(q *qmp) { try.Check(q.call(ctx, "system_reset", nil, nil)) }))
	return v.waitBoot(ctx, last, "the next boot after a reset")
}

// Log implements machine.Machine: the serial console, and in brackets what the
// harness did (--) and what QEMU complained about ([qemu]).
func (v *VM) Log() string { return v.log.String() }

// Stop ends the machine for good and removes the disk, unless that is a snapshot's. It may be called more than once.
func (v *VM) Stop() {
	v.mu.Lock()
	v.stopped = true
	v.mu.Unlock()
	v.PowerOff() // an error says that it is off
	if v.ownDir {
		os.RemoveAll(v.dir)
	}
}
