package debtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// taker is a Debian that takes packages.
func taker(s debian.Suite) debian.Variant { return debian.Variant{Suite: s, Dpkg: true} }

var (
	v10 = machine.Version{Name: "1.0.0", Release: 1}
	v11 = machine.Version{Name: "1.1.0", Release: 2}
)

const enabled = "ota-guardian.service ota-confirm.service ota-factory.service ota-verify.timer ota-health.socket ota-progress.socket"

// begin brings the packages to the device and the older one onto it.
func begin(t *testing.T, m machine.Machine, limits machine.Limits) *machine.Story {
	defer try.Fatal(t)
	s := machine.NewStory(machine.Context(t), t, m, limits)
	for name, deb := range map[string]func() (string, error){"/data/older.deb": older, "/data/newer.deb": newer} {
		data := try.Get(os.ReadFile(try.Get(deb())))
		try.Check(m.WriteFile(s.Ctx, name, 0o644, data))
	}
	s.Step("the package is installed on a device that runs", func(t *testing.T) {
		config := s.Sh("cat /etc/ota/ota.toml")
		s.Sh("dpkg -i /data/older.deb")
		s.Says("dpkg --verify ota", "")
		s.Says("ota-apply --version", "ota-apply 1.0.0")
		s.Says("systemctl is-enabled "+enabled, "enabled\nenabled\nenabled\nenabled\nenabled\nenabled")
		s.Says("systemctl is-active ota-health.socket ota-progress.socket ota-verify.timer", "active\nactive\nactive")
		// It decides at the next boot, not in the middle of this one.
		s.Says("systemctl show -P ActiveEnterTimestampMonotonic ota-guardian.service", "0")
		s.Says("cat /etc/ota/ota.toml", config)
	})
	s.Step("the first versions, without a reboot", func(t *testing.T) {
		try.Check(s.Factory(s.Ctx, v10))
		try.Check(s.Reach(s.Ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
		// The guardian has decided since, and not after it waited (3) for the lock of
		// the install whose service waited for it.
		s.Says("systemctl is-active ota-guardian.service", "active")
		s.Says("systemctl show -P ExecMainStatus ota-guardian.service", "0")
	})
	return s
}

// upgrade upgrades the package in the middle of a trial and of the install that
// waits for its end, and takes the power afterwards. Before that it calls
// during, which may be nil.
func upgrade(s *machine.Story, during func(*machine.Story)) {
	defer try.Fatal(s.T)
	// A trial that this boot does not see the end of.
	try.Check(s.Configure(s.Ctx, 10*s.Limits.Wait, 20*s.Limits.Wait))
	ctx, cancel := context.WithCancel(s.Ctx)
	defer cancel()
	install := s.Begin(ctx, v11)
	s.Step("a version is on trial, and the install waits", func(t *testing.T) {
		try.Check(s.Wait(s.Ctx, "1.1.0 to be on trial", func(st *bootcheck.Status) bool {
			return st.Current == "1.1.0" && st.Phase == bootcheck.PhaseTrial
		}))
		try.Check(s.WaitShell(s.Ctx, "ota-confirm", `[ "$(systemctl is-active ota-confirm.service)" = activating ]`))
	})
	// What must be the same afterwards: the units that run, and since when.
	running := "for u in ota-guardian ota-confirm ota-apply device-api; do systemctl show -P InvocationID -P ActiveState -P MainPID $u.service; done"
	s.Step("the upgrade disturbs neither", func(t *testing.T) {
		s.Sh("systemctl --quiet disable ota-verify.timer")
		before, units, config := try.Get(s.Status(s.Ctx)), s.Sh(running), s.Sh("cat /etc/ota/ota.toml")
		s.Sh("dpkg -i /data/newer.deb")
		s.Says("dpkg --verify ota", "")
		s.Says("ota-guardian --version", "ota-guardian 1.1.0+4.g0123456789ab")
		s.Says(running, units)
		s.Says("cat /etc/ota/ota.toml", config)
		after := try.Get(s.Status(s.Ctx))
		if diff := cmp.Diff(before.Trial, after.Trial); diff != "" || after.Phase != bootcheck.PhaseTrial {
			t.Errorf("the trial is %s, changed (-before +after):\n%s", after.Phase, diff)
		}
		// What the administrator disabled stays so.
		s.Says("systemctl is-enabled ota-verify.timer", "disabled")
		s.Says("systemctl is-enabled ota-guardian.service", "enabled")
		select {
		case <-install.Ended:
			t.Errorf("the install did not survive: %s %v", install.Result, install.Err)
		default:
		}
	})
	if during != nil {
		during(s)
	}
	s.Step("a power cut after it counts as one", func(t *testing.T) {
		// The cut loses what is not synced, and dpkg syncs what it installs.
		try.Check(s.PowerCut(s.Ctx))
		s.Says("ota-guardian --version", "ota-guardian 1.1.0+4.g0123456789ab")
		try.Check(s.Wait(s.Ctx, "the boot to be counted", func(st *bootcheck.Status) bool {
			return st.Current == "1.1.0" && st.Phase == bootcheck.PhaseTrial && st.Trial != nil && st.Trial.Unclean == 1
		}))
		if trial := try.Get(s.Status(s.Ctx)).Trial; trial.Clean != 0 || trial.Hard != 0 {
			t.Errorf("the trial is %+v; the upgrade has left the mark of an orderly shutdown", trial)
		}
	})
	s.Step("the new package confirms or rolls back", func(t *testing.T) {
		try.Check(s.Configure(s.Ctx, s.Limits.Stable, s.Limits.Deadline))
		try.Check(s.Reboot(s.Ctx))
		try.Check(s.Reach(s.Ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	})
}

// isNotRemoved tries to remove the package under an install that runs.
func isNotRemoved(s *machine.Story) {
	s.Step("it is not removed while an install runs", func(t *testing.T) {
		r := try.Get(s.Exec(s.Ctx, "dpkg", "--remove", "ota"))
		if r.Code == 0 || !strings.Contains(r.Stderr, "ota: cannot be removed while ota-install.service installs") {
			t.Errorf("dpkg --remove: %s; want a refusal", r)
		}
		s.Says("dpkg-query -W -f '${db:Status-Status}' ota", "installed")
		s.Says("systemctl is-active ota-progress.socket", "active")
		s.Says("systemctl is-active ota-install.service", "activating")
	})
}

// TestDevice is the life of a package on a device: a container, and nightly a virtual
// machine, too. There power cuts lose what was not synced, and an installation takes
// minutes.
func TestDevice(t *testing.T) {
	t.Run("container", func(t *testing.T) { machine.EachSuite(t, inContainer) })
	if tier.Nightly {
		t.Run("vm", inVM)
	}
}

func inContainer(t *testing.T, suite debian.Suite) {
	s := begin(t, machine.StartContainer(t, container.Options{Overlay: machine.ServiceOverlay(), Variant: taker(suite), Writable: true}), machine.Quick)
	ctx := s.Ctx
	upgrade(s, isNotRemoved)

	s.Step("removed: the application continues", func(t *testing.T) {
		s.Sh("dpkg --remove ota")
		s.Says("dpkg-query -W -f '${db:Status-Status}' ota", "config-files")
		s.Says("ls -d /usr/bin/ota-* /usr/lib/systemd/system/ota-* 2>/dev/null", "")
		s.Sh("! test -e /run/ota/health.sock")
		s.Says("find /etc/systemd/system \\( -lname '*ota-*' -o -name 'ota-*' \\) ! -name 'ota-test-*' ! -name 'ota-.service.d'", "")
		s.Sh("test -s /etc/ota/ota.toml && test -s /etc/ota/keys/test.pub && test -d /opt/tope/versions/v1.1.0")
		for range 2 {
			try.Check(s.WaitRunning(ctx, "1.1.0"))
			// Something that requires ota-confirm would keep every boot from being complete.
			s.Sh("systemctl start boot-complete.target")
			try.Check(s.Reboot(ctx))
		}
	})
	s.Step("installed again: everything is as it was", func(t *testing.T) {
		s.Sh("dpkg -i /data/newer.deb")
		s.Says("systemctl is-enabled "+enabled, "enabled\nenabled\nenabled\nenabled\nenabled\nenabled")
		try.Check(s.Reboot(ctx))
		try.Check(s.Reach(s.Ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	})
	s.Step("purged: the versions stay", func(t *testing.T) {
		tree := try.Get(s.Tree(ctx, "1.1.0"))
		s.Sh("dpkg --purge ota")
		s.Says("ls -A /etc/ota", "")
		s.Says("dpkg-query -W -f '${db:Status-Status}' ota 2>/dev/null", "")
		s.Says("find / -xdev \\( -name '*ota-guardian*' -o -name 'ota.toml*' -o -name '50-ota*' \\) ! -path '/data/*' ! -path '/proc/*'", "")
		after := try.Get(s.Tree(ctx, "1.1.0"))
		if tree != after {
			t.Error("the versions are not what they were")
		}
	})
	s.Step("a new device gets the sample as its configuration", func(t *testing.T) {
		s.Sh("dpkg -i /data/newer.deb")
		s.Sh("cmp /etc/ota/ota.toml /usr/share/doc/ota/examples/ota.toml")
		s.Sh("rm /etc/ota/ota.toml && dpkg -i /data/newer.deb && test ! -e /etc/ota/ota.toml")
	})
}

func inVM(t *testing.T) {
	machine.RequireVM(t, debian.AMD64)
	overlay := machine.ServiceOverlay()
	// Ten starts of Perl are most of the time of an emulated installation; systemctl
	// stands in for it.
	overlay["/usr/bin/deb-systemd-helper"] = debian.File{Data: []byte("not a program\n")}
	overlay["/usr/bin/deb-systemd-invoke"] = overlay["/usr/bin/deb-systemd-helper"]
	m := machine.StartVM(t, vm.Options{Overlay: overlay, Variant: taker(debian.Bookworm), Writable: true, Cold: true})
	start := time.Now()
	upgrade(begin(t, m, machine.Slow), nil)
	t.Logf("%s", time.Since(start).Round(time.Second))
}

// TestImageBuild installs into a tree in which no systemd runs, with the host's
// dpkg, as debootstrap and its kind do.
func TestImageBuild(t *testing.T) {
	machine.RequireContainer(t)
	machine.EachSuite(t, imageBuild)
}

func imageBuild(t *testing.T, suite debian.Suite) {
	defer try.Fatal(t)
	ctx := machine.Context(t)
	from := try.Get(taker(suite).Root(ctx))
	root := filepath.Join(t.TempDir(), "root")
	run := func(name string, args ...string) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		try.Run(cmd)
	}
	run("cp", "-a", "--reflink=auto", from, root)
	for _, row := range []struct {
		what  string
		strip string // of the tree
	}{
		{"with deb-systemd-helper", ""},
		{"with systemctl", "/usr/bin/deb-systemd-helper"},
	} {
		if row.strip != "" {
			try.Check(os.Remove(root + row.strip))
		}
		run("dpkg", "--root="+root, "-i", try.Get(older()))
		for _, link := range []string{"multi-user.target.wants/ota-guardian.service", "multi-user.target.wants/ota-confirm.service", "boot-complete.target.requires/ota-confirm.service",
			"sockets.target.wants/ota-progress.socket", "sockets.target.wants/ota-health.socket", "timers.target.wants/ota-verify.timer"} {
			if _, err := os.Readlink(root + "/etc/systemd/system/" + link); err != nil {
				t.Errorf("%s: %v", row.what, err)
			}
		}
		run("dpkg", "--root="+root, "-i", try.Get(newer()))
		run("systemctl", "--root="+root, "enable", "ota-follow.service") // as an operator does
		run("dpkg", "--root="+root, "--purge", "ota")
		links, _ := filepath.Glob(root + "/etc/systemd/system/*/ota-*")
		if len(links) > 0 {
			t.Errorf("%s: the purge leaves %q", row.what, links)
		}
		if _, err := os.Stat(root + "/opt/tope/versions"); err != nil {
			t.Errorf("%s: the purge takes the store: %v", row.what, err)
		}
	}
}
