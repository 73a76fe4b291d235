// Package setuptest sets devices up with the scripts that scripts/install.sh brings,
// under a real systemd: a device of another updater is adopted while it works, and
// what is wrong with a setup is found and repaired by the hint that is named.
package setuptest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/try"
)

const scripts = "/usr/lib/ota/"

func start(t *testing.T) *machine.Story {
	t.Helper()
	defer try.Fatal(t)
	machine.RequireContainer(t)
	m := machine.StartContainer(t, container.Options{Overlay: try.Get(machine.DeviceOverlay())})
	return machine.NewStory(machine.Context(t), t, m, machine.Quick)
}

// TestAdopt brings a device of another updater over while its service runs: that is
// not disturbed, a bad version goes back to what was adopted, and a good one stays.
func TestAdopt(t *testing.T) {
	defer try.Fatal(t)
	d := start(t)
	program := try.Get(debian.Program(d.Ctx, deviceapi.Package))
	for _, version := range []string{"0.9.0", "1.0.0"} {
		dir := t.TempDir()
		try.Check(deviceapi.Tree(dir, version, program, deviceapi.Config{}, 0))
		for _, name := range []string{"bin/device-api", "etc/device-api.json"} {
			data := try.Get(os.ReadFile(filepath.Join(dir, name)))
			try.Check(d.WriteFile(d.Ctx, machine.Store+"/v"+version+"/"+name, 0o755, data))
		}
	}
	d.Ends(0, `cd `+machine.Store+` && ln -s v1.0.0 current && ln -s v0.9.0 previous && ln -s v0.9.0 factory && sync
		systemctl reset-failed device-api; systemctl restart device-api`)
	pid := d.Ends(0, "systemctl show -P MainPID device-api")

	// Both updaters are there: a boot and the services continue with the plain links.
	if f := find(t, findings(d), "links"); f.State != "fail" || !strings.Contains(f.Cure, scripts+"setup_symlinks.sh") {
		t.Errorf("before the adoption: %+v", f)
	}
	line := "sh " + scripts + "setup_symlinks.sh --bin-dir /opt/tope/bin --bin device-api"
	before := d.Ends(0, "find /opt/tope -printf '%p %y %m %T@ %l\\n' | sort")
	d.Ends(0, line+" --dry-run")
	if after := d.Ends(0, "find /opt/tope -printf '%p %y %m %T@ %l\\n' | sort"); after != before {
		t.Errorf("a dry run changed\n%s\nto\n%s", before, after)
	}
	d.Ends(0, line)
	d.Ends(0, line)
	if now := d.Ends(0, "systemctl show -P MainPID device-api"); now != pid {
		t.Errorf("the service was restarted: %s, was %s", now, pid)
	}
	adopted := machine.Want{Current: "1.0.0", Previous: "0.9.0", Factory: "0.9.0", Phase: bootcheck.PhaseConfirmed}
	try.Check(d.Reach(d.Ctx, adopted))
	try.Check(d.Reboot(d.Ctx))
	try.Check(d.Reach(d.Ctx, adopted))
	d.Ends(0, "test -x /opt/tope/bin/device-api")

	bad := machine.Version{Name: "1.1.0", Release: 1, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
	try.Check(d.Installs(d.Ctx, bad, bootcheck.ExitRolledBack))
	try.Check(d.Reach(d.Ctx, machine.Want{Current: "1.0.0", Previous: "0.9.0", Factory: "0.9.0", Phase: bootcheck.PhaseConfirmed}))
	try.Check(d.Installs(d.Ctx, machine.Version{Name: "1.2.0", Release: 2}, bootcheck.ExitDone))
	try.Check(d.Reach(d.Ctx, machine.Want{Current: "1.2.0", Previous: "1.0.0", Factory: "0.9.0", Phase: bootcheck.PhaseConfirmed}))
	d.Ends(4, "sh "+scripts+"create_factory_version.sh")
	d.Ends(0, "sh "+scripts+"create_factory_version.sh --replace")
	try.Check(d.Reach(d.Ctx, machine.Want{Current: "1.2.0", Previous: "1.0.0", Factory: "1.2.0", Phase: bootcheck.PhaseConfirmed}))
	d.Ends(0, "sh "+scripts+"test_symlink_switch.sh --rounds 50")
}

// finding is one of verify_setup.sh --json.
type finding struct{ Check, State, Found, Cure string }

func findings(d *machine.Story) []finding {
	d.T.Helper()
	defer try.Fatal(d.T)
	r := try.Get(d.Exec(d.Ctx, "sh", scripts+"verify_setup.sh", "--json"))
	var said struct {
		Fail     int
		Findings []finding
	}
	if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil {
		d.T.Fatalf("%v: %s", err, r)
	}
	if want := min(said.Fail, 1); r.Code != want {
		d.T.Errorf("verify_setup.sh: %s; want exit %d", r, want)
	}
	return said.Findings
}

// find is the finding of check, the worst first; its State is empty if there is none.
func find(t *testing.T, all []finding, check string) finding {
	t.Helper()
	for _, state := range []string{"fail", "warn", "ok"} {
		for _, f := range all {
			if f.Check == check && f.State == state {
				return f
			}
		}
	}
	return finding{}
}

// failing are the checks that fail.
func failing(all []finding) []string {
	var names []string
	for _, f := range all {
		if f.State == "fail" {
			names = append(names, f.Check)
		}
	}
	return names
}

// TestVerifySetup breaks a device that runs, finds that, does what the hint says, and
// finds nothing any more.
func TestVerifySetup(t *testing.T) {
	defer try.Fatal(t)
	d := start(t)
	try.Check(d.Factory(d.Ctx, machine.Version{Name: "1.0.0", Release: 1}))
	try.Check(d.Reboot(d.Ctx))
	try.Check(d.Reach(d.Ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	// A container has no watchdog, and the kernel and the disk of its host.
	host := []string{"watchdog", "kernel.panic", "file system", "free space", "inodes"}
	sound := findings(d)
	for _, f := range sound {
		if f.State == "fail" && !slices.Contains(host, f.Check) {
			t.Errorf("a setup that is right: %+v", f)
		}
	}
	if t.Failed() {
		return
	}
	for _, row := range []struct{ name, harm, check, state, found, hint, repair string }{
		{"the guardian is not enabled", "mount -t tmpfs none /etc/systemd/system/multi-user.target.wants && systemctl daemon-reload", "unit ota-guardian.service", "fail", "it is disabled", "systemctl enable ota-guardian.service", "umount /etc/systemd/system/multi-user.target.wants && systemctl daemon-reload"}, // the root is read-only
		{"the confirmation is masked", "systemctl mask --runtime ota-confirm.service", "unit ota-confirm.service", "fail", "masked", "systemctl unmask ota-confirm.service", "systemctl unmask --runtime ota-confirm.service"},
		{"a file that systemd has not read", "mkdir -p /run/systemd/system/ota-guardian.service.d && echo '[Unit]' >/run/systemd/system/ota-guardian.service.d/x.conf && systemctl daemon-reload && touch -d 2040-01-01 /run/systemd/system/ota-guardian.service.d/x.conf", "unit ota-guardian.service", "warn", "changed after systemd read it", "systemctl daemon-reload", "rm -r /run/systemd/system/ota-guardian.service.d; systemctl daemon-reload"},
		{"a drop-in that is hidden", "mkdir -p /run/systemd/system/device-api.service.d && touch /run/systemd/system/device-api.service.d/50-ota.conf && systemctl daemon-reload", "service device-api.service", "fail", "OnFailure=", "50-ota.conf", "rm -r /run/systemd/system/device-api.service.d; systemctl daemon-reload"},
		{"a crash loop that never ends", "mkdir -p /run/systemd/system/device-api.service.d && printf '[Service]\\nRestartSec=20\\n' >/run/systemd/system/device-api.service.d/90-slow.conf && systemctl daemon-reload", "service device-api.service", "fail", "a crash loop never ends", "50-ota.conf", "rm -r /run/systemd/system/device-api.service.d; systemctl daemon-reload"},
		{"a service that waits for another store", "mkdir -p /run/systemd/system/device-api.service.d && printf '[Unit]\\nConditionPathExists=/srv/current\\n' >/run/systemd/system/device-api.service.d/90-store.conf && systemctl daemon-reload", "service device-api.service", "fail", "not started without /srv/current", "ConditionPathExists=", "rm -r /run/systemd/system/device-api.service.d; systemctl daemon-reload"},
		{"a service that starts from one version", "mkdir -p /run/systemd/system/device-api.service.d && printf '[Service]\\nExecStart=\\nExecStart=/opt/tope/versions/v1.0.0/bin/device-api\\n' >/run/systemd/system/device-api.service.d/90-old.conf && systemctl daemon-reload", "service device-api.service", "fail", "which no update changes", "/opt/tope/versions/current", "rm -r /run/systemd/system/device-api.service.d; systemctl daemon-reload"},
		{"no program to report to", "systemctl stop device-api.service", "report", "warn", "nothing listens", "start the service", "systemctl start device-api.service; until systemctl -q is-active device-api.service; do sleep 0.1; done"},
		{"a store that is read-only", "mount -o remount,bind,ro /opt/tope", "mount option ro", "fail", "nothing can be installed", "/etc/fstab", "mount -o remount,bind,rw /opt/tope"},
		{"a store from which nothing starts", "mount -o remount,bind,noexec /opt/tope", "mount option noexec", "fail", "no service can start", "/etc/fstab", "mount -o remount,bind,exec /opt/tope"},
		{"a factory version that is writable", "chmod u+w /opt/tope/versions/v1.0.0", "factory", "fail", "is writable", "ota-guardian factory repair", "ota-guardian factory repair"},
		{"a link that is gone", "rm /opt/tope/versions/previous", "record", "fail", "previous is not the link", "ota-guardian adopt", "ota-guardian adopt"},
		{"no key", "mv /etc/ota/keys/test.pub /etc/ota/", "keys", "fail", "every install is refused", "copy NAME.pub", "mv /etc/ota/test.pub /etc/ota/keys/"},
	} {
		d.Run(row.name, func(t *testing.T) {
			d.Ends(0, row.harm)
			f := find(t, findings(d), row.check)
			if f.State != row.state || !strings.Contains(f.Found, row.found) || !strings.Contains(f.Cure, row.hint) {
				t.Errorf("found %+v, want %s %q and the hint %q", f, row.state, row.found, row.hint)
			}
			d.Ends(0, row.repair)
			if now, want := failing(findings(d)), failing(sound); !slices.Equal(now, want) {
				t.Errorf("after the hint there fail %q, want %q", now, want)
			}
		})
	}

	// Programs that do not run cannot say so.
	d.Ends(0, "mkdir /data/bin && cp /usr/bin/ota-* /data/bin/ && printf '\\177ELF of another machine' >/data/bin/ota-apply")
	if out := d.Ends(1, "sh "+scripts+"verify_setup.sh --programs /data/bin"); !strings.Contains(out, "ota-apply cannot be run") || !strings.Contains(out, "install.sh --bin") {
		t.Errorf("a program for another machine: %s", out)
	}
	d.Ends(0, "rm /data/bin/ota-bundle")
	out := d.Ends(1, "rm -f /data/bin/ota-apply; sh "+scripts+"verify_setup.sh --json --programs /data/bin")
	var said struct{ Findings []finding }
	if err := json.Unmarshal([]byte(out), &said); err != nil || len(said.Findings) != 1 || !strings.Contains(said.Findings[0].Found, "ota-apply is not there") {
		t.Errorf("no program: %v %s", err, out)
	}
	d.Ends(2, "sh "+scripts+"verify_setup.sh --fly")
	if out := d.Ends(0, "sh "+scripts+"verify_setup.sh --help"); !strings.Contains(out, "Exit codes:") {
		t.Errorf("--help: %s", out)
	}
}

// TestWatchdog looks at a real watchdog: the one that PID 1 holds, with the time-out
// that it really has, and one that cannot do what systemd is asked for.
func TestWatchdog(t *testing.T) {
	defer try.Fatal(t)
	machine.RequireVM(t, debian.AMD64)
	m := machine.StartVM(t, vm.Options{Overlay: try.Get(machine.DeviceOverlay()), Watchdog: true})
	d := machine.NewStory(machine.Context(t), t, m, machine.Slow)
	f := find(t, findings(d), "watchdog")
	if f.State != "ok" || !strings.Contains(f.Found, "30 s, held by PID 1 (asked: 30s)") {
		t.Errorf("a watchdog that is armed: %+v", f)
	}
	if f := find(t, findings(d), "file system"); f.State != "ok" || !strings.Contains(f.Found, "ext4") {
		t.Errorf("the file system: %+v", f)
	}
	d.Ends(0, "mkdir -p /run/systemd/system.conf.d && printf '[Manager]\\nRuntimeWatchdogSec=0\\n' >/run/systemd/system.conf.d/99-off.conf && systemctl daemon-reexec")
	f = find(t, findings(d), "watchdog")
	if f.State != "fail" || !strings.Contains(f.Found, "was not asked") || !strings.Contains(f.Cure, "RuntimeWatchdogSec=30s") {
		t.Errorf("a watchdog that is not fed: %+v", f)
	}
}
