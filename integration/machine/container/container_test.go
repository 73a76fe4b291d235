package container_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// The machine is a booted Debian, and alone.
func TestBoot(t *testing.T) {
	defer try.Fatal(t)
	c := machine.StartContainer(t, container.Options{Overlay: debian.Overlay{
		"/etc/from-files":        {Data: []byte("hello\n"), Mode: 0o600},
		"/etc/systemd/from-link": {Link: "../from-files"},
	}})
	if got := machine.Sh(t, c, "systemctl is-system-running --wait; systemctl --failed --no-legend"); got != "running" {
		t.Errorf("the system is %s, want running", got)
	}
	for command, want := range map[string]string{
		"cat /proc/1/comm":            "systemd",
		"cat /etc/systemd/from-link":  "hello",
		"stat -c %a /etc/from-files":  "600",
		"systemd-detect-virt -c":      "container-other",
		"hostname":                    "device",
		"ls /sys/class/net":           "lo",
		"cat /sys/class/net/lo/flags": "0x9",
		"stat -fc %T /sys/fs/cgroup":  "cgroup2fs",
		"mount | grep -c ' on / '":    "1",
		"ls /proc/1/root/work /proc/1/root/mnt 2>/dev/null | grep -v ^/ | wc -l": "0",
		"cat /proc/sys/kernel/random/boot_id":                                    try.Get(c.BootID(testContext(t))),
		// Nothing reaches the host's kernel.
		"echo 1 2>/dev/null > /etc/x || echo no":                                        "no",
		"echo h 2>/dev/null > /proc/sysrq-trigger || echo no":                           "no",
		"echo 1 2>/dev/null > /proc/sys/kernel/panic || echo no":                        "no",
		"echo 1 2>/dev/null > /sys/kernel/mm/ksm/run || echo no":                        "no",
		"date -s 2000-01-01 >/dev/null 2>&1 && date +%Y || echo no":                     "no",
		"cd /opt/tope && touch x && ls /data/opt-tope":                                  "x",
		"cd /etc/ota && touch x && ls /data/etc-ota":                                    "x",
		"cd /var/lib/ota && touch x && ls /data/var-lib-ota":                            "x",
		"for d in /var/log /var/tmp /tmp /run /dev/shm; do touch $d/x; done && echo ok": "ok",
	} {
		if got := machine.Sh(t, c, command+" || true"); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(c.Data(), "opt-tope", "x")); err != nil {
		t.Errorf("the guest's /data is not at Data(): %v", err)
	}
	for _, want := range []string{"-- boot 1, ID ", "-- the agent said hello", "systemd[1]: Reached target multi-user.target"} {
		if !strings.Contains(c.Log(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(c.Log(), "\x1b") {
		t.Error("the log has control sequences")
	}
}

// A sandboxed unit of the updater sees the boot's ID, also while the machine shuts
// down.
func TestBootIDInSandbox(t *testing.T) {
	defer try.Fatal(t)
	unit := debian.Unit(`[Unit]
DefaultDependencies=no
RequiresMountsFor=/data
Conflicts=shutdown.target
Before=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'cat /proc/sys/kernel/random/boot_id > /data/%p-%i.start'
ExecStop=/bin/sh -c 'cat /proc/sys/kernel/random/boot_id > /data/%p-%i.stop'
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
ProtectSystem=strict
ReadWritePaths=/data
PrivateTmp=yes
PrivateDevices=yes
[Install]
WantedBy=sysinit.target
`)
	o := debian.Overlay{"/etc/systemd/system/ota-one.service": unit, "/etc/systemd/system/ota-many@.service": unit}
	o.Enable("ota-one.service", "sysinit.target")
	o["/etc/systemd/system/sysinit.target.wants/ota-many@2.service"] = debian.File{Link: "../ota-many@.service"}
	c := machine.StartContainer(t, container.Options{Overlay: o})
	id := try.Get(c.BootID(testContext(t)))
	machine.Sh(t, c, "systemctl is-system-running --wait")
	try.Check(c.Reboot(testContext(t)))
	for _, name := range []string{"ota-one-.stop", "ota-many-2.stop"} {
		if got := machine.Sh(t, c, "cat /data/"+name); got != id {
			t.Errorf("%s saw the boot %q, want %q", name, got, id)
		}
	}
	machine.Sh(t, c, "systemctl is-system-running --wait")
	id = try.Get(c.BootID(testContext(t)))
	for _, name := range []string{"ota-one-.start", "ota-many-2.start"} {
		if got := machine.Sh(t, c, "cat /data/"+name); got != id {
			t.Errorf("%s saw the boot %q, want %q", name, got, id)
		}
	}
}

// With any end of a boot, /data survives it and nothing else does.
func TestWhatSurvives(t *testing.T) {
	defer try.Fatal(t)
	c := machine.StartContainer(t, container.Options{})
	ctx := testContext(t)
	seen := map[string]bool{try.Get(c.BootID(testContext(t))): true}
	for _, end := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"Reboot", c.Reboot},
		{"PowerCut", c.PowerCut},
		{"PowerCut again", c.PowerCut},
		{"PowerOff and PowerOn", func(ctx context.Context) (err error) {
			defer try.End(&err)
			try.Check(c.PowerOff())
			if err := c.PowerOff(); err == nil {
				t.Error("a machine without power could be switched off")
			}
			if err := c.PowerCut(ctx); err == nil {
				t.Error("a machine without power could lose it")
			}
			try.Check(c.PowerOn(ctx))
			if err := c.PowerOn(ctx); err == nil {
				t.Error("a machine with power could be switched on")
			}
			return nil
		}},
		{"systemctl poweroff and PowerOn", func(ctx context.Context) error {
			last := try.Get(c.BootID(testContext(t)))
			machine.Sh(t, c, "systemctl poweroff --no-wall")
			if err := c.WaitReboot(ctx, last); err == nil || !strings.Contains(err.Error(), "switched off from inside") {
				t.Errorf("WaitReboot after a poweroff = %v", err)
			}
			if _, err := c.Exec(ctx, "true"); err == nil {
				t.Error("Exec in a machine that is off succeeded")
			}
			return c.PowerOn(ctx)
		}},
		{"reboot by itself", func(ctx context.Context) error {
			last := try.Get(c.BootID(testContext(t)))
			machine.Sh(t, c, "systemctl --no-block reboot")
			return c.WaitReboot(ctx, last)
		}},
		{"reboot -f", func(ctx context.Context) error {
			last := try.Get(c.BootID(testContext(t)))
			c.Exec(ctx, "reboot", "-ff")
			return c.WaitReboot(ctx, last)
		}},
	} {
		data := []byte("written before " + end.name)
		try.Check(c.WriteFile(ctx, "/data/deep/file", 0o640, data))
		try.Check(c.WriteFile(ctx, "/opt/tope/file", 0o640, data))
		try.Check(c.WriteFile(ctx, "/var/lib/forgotten", 0o640, data))
		start := time.Now()
		if err := end.do(ctx); err != nil {
			t.Fatalf("%s: %v", end.name, err)
		}
		t.Logf("%s took %s", end.name, time.Since(start).Round(time.Millisecond))
		id := try.Get(c.BootID(testContext(t)))
		if seen[id] {
			t.Errorf("%s: boot ID %s was there before", end.name, id)
		}
		seen[id] = true
		for _, path := range []string{"/data/deep/file", "/opt/tope/file", "/data/opt-tope/file"} {
			if got, err := c.ReadFile(ctx, path); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %s is %q, %v, want %q", end.name, path, got, err, data)
			}
		}
		if _, err := c.ReadFile(ctx, "/var/lib/forgotten"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a file in /var: %v, want fs.ErrNotExist", end.name, err)
		}
	}
}

// A clean reboot stops services; a power cut does not.
func TestServicesAndTheEnd(t *testing.T) {
	defer try.Fatal(t)
	o := debian.Overlay{
		"/etc/systemd/system/witness.service": debian.Unit(`[Unit]
RequiresMountsFor=/data
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo start >> /data/witness'
ExecStop=/bin/sh -c 'echo stop >> /data/witness'
[Install]
WantedBy=multi-user.target
`)}
	o.Enable("witness.service", "multi-user.target")
	c := machine.StartContainer(t, container.Options{Overlay: o})
	ctx := testContext(t)
	machine.Sh(t, c, "systemctl is-system-running --wait")
	try.Check(c.Reboot(ctx))
	machine.Sh(t, c, "systemctl is-system-running --wait")
	try.Check(c.PowerCut(ctx))
	machine.Sh(t, c, "systemctl is-system-running --wait")
	if got := machine.Sh(t, c, "cat /data/witness"); got != "start\nstop\nstart\nstart" {
		t.Errorf("the service saw %q, want start, stop, start, start", got)
	}
}
