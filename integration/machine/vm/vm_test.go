package vm_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/try"
)

// timed logs how long a step took: the limits of the waits are 5 to 10 times that.
func timed(t *testing.T, what string, f func() error) {
	t.Helper()
	defer try.Fatal(t)
	defer try.Say("%s", what)
	start := time.Now()
	try.Check(f())
	t.Logf("%s in %s", what, time.Since(start).Round(time.Millisecond))
}

func TestColdMachine(t *testing.T) {
	t.Parallel()
	defer try.Fatal(t)
	m := machine.StartVM(t, vm.Options{Cold: true})
	ctx := t.Context()

	timed(t, "boot to running", func() error {
		r, err := m.Exec(ctx, "systemctl", "is-system-running", "--wait")
		if err == nil && strings.TrimSpace(r.Stdout) != "running" {
			t.Errorf("systemctl is-system-running = %s; failed units: %s", r, machine.Sh(t, m, "systemctl --failed"))
		}
		return err
	})
	if r, err := m.Exec(ctx, "sh", "-c", "echo out; echo err >&2; exit 7"); err != nil || r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("Exec = %v, %v; want out, err, exit 7", r, err)
	}
	for _, f := range []struct{ path, want string }{
		{"/", "erofs ro"}, {"/data", "ext4 rw"}, {"/opt/tope", "ext4 rw"}, {"/etc/ota", "ext4 rw"}, {"/var/lib/ota", "ext4 rw"}, {"/var", "tmpfs rw"},
	} {
		if got := machine.Sh(t, m, "findmnt -rno FSTYPE,OPTIONS --mountpoint "+f.path); !strings.HasPrefix(got, f.want) {
			t.Errorf("%s is mounted as %q, want %q", f.path, got, f.want)
		}
	}

	// What one boot writes durably, the next one reads, after each kind of end.
	text := []byte("kept\n")
	try.Check(m.WriteFile(ctx, "/opt/tope/kept", 0o640, text))
	boots := map[string]bool{try.Get(m.BootID(t.Context())): true}
	for _, end := range []struct {
		name string
		f    func(context.Context) error
	}{{"clean reboot", m.Reboot}, {"power cut", m.PowerCut}, {"reset button", m.Reset}} {
		timed(t, end.name, func() error { return end.f(ctx) })
		id := try.Get(m.BootID(t.Context()))
		if boots[id] {
			t.Errorf("after a %s the boot ID is one that was there before: %s", end.name, id)
		}
		boots[id] = true
		if got, err := m.ReadFile(ctx, "/opt/tope/kept"); err != nil || !bytes.Equal(got, text) {
			t.Errorf("after a %s the durable file holds %q, %v; want %q", end.name, got, err, text)
		}
		if got := machine.Sh(t, m, "stat -c %a /opt/tope/kept; cat /data/opt-tope/kept"); got != "640\nkept" {
			t.Errorf("after a %s: %q, want mode 640 and the same file on /data", end.name, got)
		}
	}
	if got := machine.Sh(t, m, "stat -c %u:%g:%a /opt/tope /etc/ota /var/lib/ota | sort -u"); got != "0:0:755" {
		t.Errorf("the directories of the data disk are %q, want root:root 755", got)
	}
	if !strings.Contains(m.Log(), "systemd[1]") {
		t.Error("the log has no line of systemd's")
	}
}

// The machine is of use only if it loses what a real one would lose: a file that
// no program synced has to be gone, or torn, after the power was away.
func TestPowerCutLosesWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	defer try.Fatal(t)
	m := machine.StartVM(t, vm.Options{Cold: true})
	machine.Sh(t, m, `cd /data
		echo durable > synced; sync synced .
		dd if=/dev/urandom of=unsynced bs=64k count=16 status=none
		sha256sum unsynced > /dev/null`)
	timed(t, "power cut", func() error { return m.PowerCut(t.Context()) })
	if got := machine.Sh(t, m, "cat /data/synced"); got != "durable" {
		t.Errorf("the synced file holds %q", got)
	}
	// ext4 commits its names every 5 s, data later: a whole file would mean that
	// the page cache survived. On a very slow host the name may be there.
	r := try.Get(m.Exec(t.Context(), "stat", "-c", "%b", "/data/unsynced"))
	if blocks := strings.TrimSpace(r.Stdout); r.Code == 0 && blocks == "2048" {
		t.Errorf("all %s blocks of a file that was never synced survived a power cut", blocks)
	}
}

func TestWarmStart(t *testing.T) {
	t.Parallel()
	machine.StartVM(t, vm.Options{}).Stop() // makes the snapshot where there is none

	start := time.Now()
	m := machine.StartVM(t, vm.Options{})
	if took := time.Since(start); took > time.Minute {
		t.Errorf("a warm start took %s", took)
	}
	ctx := t.Context()
	if got := machine.Sh(t, m, "systemctl is-system-running"); got != "running" {
		t.Errorf("after a warm start systemd is %q, want the boot to be over", got)
	}
	// Two machines of one snapshot have disks of their own.
	machine.Sh(t, m, "echo mine > /data/mine; sync /data/mine /data")
	other := machine.StartVM(t, vm.Options{})
	if got := machine.Sh(t, other, "ls /data"); strings.Contains(got, "mine") {
		t.Errorf("a second machine sees the first one's disk: %s", got)
	}
	other.Stop()

	timed(t, "power cut after a warm start", func() error { return m.PowerCut(ctx) })
	if got := machine.Sh(t, m, "cat /data/mine"); got != "mine" {
		t.Errorf("after a power cut the synced file holds %q", got)
	}
	timed(t, "clean reboot", func() error { return m.Reboot(ctx) })
	if got := machine.Sh(t, m, "cat /data/mine"); got != "mine" {
		t.Errorf("after a reboot the file holds %q", got)
	}
}

// watchdogOverlay has PID 1 feed the watchdog. 4 s is short for a test; the
// kernel's driver takes 1 to 2046 s.
func watchdogOverlay() debian.Overlay {
	return debian.Overlay{"/etc/systemd/system.conf.d/watchdog.conf": debian.Unit("[Manager]\nRuntimeWatchdogSec=4\n")}
}

func TestWatchdogResetsAPanickedKernel(t *testing.T) {
	t.Parallel()
	defer try.Fatal(t)
	m := machine.StartVM(t, vm.Options{Cold: true, Watchdog: true, Overlay: watchdogOverlay()})
	ctx := t.Context()
	if got := machine.Sh(t, m, "cat /sys/class/watchdog/watchdog0/bootstatus"); got != "0" {
		t.Errorf("bootstatus = %s after power on, want 0", got)
	}
	d := &machine.Device{Machine: m, Limits: machine.Slow}
	try.Check(d.WaitShell(ctx, "systemd to arm the watchdog", "grep -q ^active /sys/class/watchdog/watchdog0/state"))
	last := try.Get(m.BootID(t.Context()))
	timed(t, "panic, watchdog, next boot", func() error {
		_, err := m.Exec(ctx, "sh", "-c", "echo c > /proc/sysrq-trigger")
		if !errors.Is(err, agent.ErrGone) {
			t.Errorf("the command that panics the kernel ended with %v, want %v", err, agent.ErrGone)
		}
		return m.WaitReboot(ctx, last)
	})
	if try.Get(m.BootID(t.Context())) == last {
		t.Error("the boot ID is still the old one")
	}
	if events := strings.Join(m.Events(), " "); !strings.Contains(events, "WATCHDOG") {
		t.Errorf("QEMU's events are %q, want a WATCHDOG among them", events)
	}
	// 32 is WDIOF_CARDRESET, linux/watchdog.h.
	if got := machine.Sh(t, m, "cat /sys/class/watchdog/watchdog0/bootstatus"); got != "32" {
		t.Errorf("bootstatus = %s after the watchdog's reset, want 32", got)
	}
}

// A wait must not outlive the machine it waits for.
func TestMachineThatSwitchesItselfOff(t *testing.T) {
	t.Parallel()
	defer try.Fatal(t)
	m := machine.StartVM(t, vm.Options{})
	last := try.Get(m.BootID(t.Context()))
	if _, err := m.Exec(t.Context(), "systemctl", "poweroff", "--force", "--force"); err != nil && !errors.Is(err, agent.ErrGone) {
		t.Fatal(err)
	}
	start := time.Now()
	err := m.WaitReboot(t.Context(), last)
	if err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("WaitReboot = %v, want an error that says the machine has ended", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %s to see that the machine is off", took)
	}
}
