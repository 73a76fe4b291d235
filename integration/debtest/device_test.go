package debtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// taker is a Debian that takes packages.
func taker(s debian.Suite) debian.Variant { return debian.Variant{Suite: s, Dpkg: true} }

// service is all that the device has before the package comes.
func service() debian.Overlay {
	o := debian.Overlay{"/etc/systemd/system/device-api.service": debian.Unit(deviceapi.Unit)}
	o.Enable("device-api.service", "multi-user.target")
	return o
}

var (
	v10 = machine.Version{Name: "1.0.0", Release: 1}
	v11 = machine.Version{Name: "1.1.0", Release: 2}
)

// story is one device. Its steps come one after the other.
type story struct {
	*machine.Device
	t   *testing.T
	ctx context.Context
}

func (s *story) step(what string, do func(t *testing.T)) {
	s.t.Helper()
	before := s.t
	ok := s.t.Run(what, func(t *testing.T) { s.t = t; do(t) })
	if s.t = before; !ok {
		s.t.FailNow()
	}
}

// must runs a command line of the device that has to succeed, and returns what
// it printed.
func (s *story) must(command string) string {
	s.t.Helper()
	out, err := s.Must(s.ctx, "sh", "-ec", command)
	if err != nil {
		s.t.Fatalf("%s: %v", command, err)
	}
	return strings.TrimSpace(out)
}

// says runs a command line, with any exit code, and wants this output.
func (s *story) says(command, want string) {
	s.t.Helper()
	r, err := s.Exec(s.ctx, "sh", "-c", command)
	if err != nil {
		s.t.Fatal(err)
	}
	if got := strings.TrimSpace(r.Stdout); got != want {
		s.t.Errorf("%s: %q, want %q (%s)", command, got, want, r)
	}
}

func (s *story) reach(w machine.Want) {
	s.t.Helper()
	if err := s.Reach(s.ctx, w); err != nil {
		s.t.Fatal(err)
	}
}

// wait waits until the status of the device is as yes wants it.
func (s *story) wait(what string, yes func(*bootcheck.Status) bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, s.Limits.Wait)
	defer cancel()
	err := machine.Poll(ctx, what, func(ctx context.Context) (bool, error) {
		status, err := s.Status(ctx)
		if err == nil && !yes(status) {
			err = fmt.Errorf("%s is %s, trial %+v", status.Current, status.Phase, status.Trial)
		}
		return err == nil, err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *story) status() *bootcheck.Status {
	s.t.Helper()
	status, err := s.Status(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return status
}

const enabled = "ota-guardian.service ota-confirm.service ota-factory.service ota-verify.timer ota-health.socket ota-progress.socket"

// begin brings the packages to the device and the older one onto it.
func begin(t *testing.T, ctx context.Context, m machine.Machine, limits machine.Limits) *story {
	defer try.Fatal(t)
	d := try.Get(machine.NewDevice(ctx, m, limits))
	s := &story{d, t, ctx}
	for name, deb := range map[string]func() (string, error){"/data/older.deb": older, "/data/newer.deb": newer} {
		data := try.Get(os.ReadFile(get(t, deb)))
		try.Check(m.WriteFile(ctx, name, 0o644, data))
	}
	s.step("the package is installed on a device that runs", func(t *testing.T) {
		config := s.must("cat /etc/ota/ota.toml")
		s.must("dpkg -i /data/older.deb")
		s.says("dpkg --verify ota", "")
		s.says("ota-apply --version", "ota-apply 1.0.0")
		s.says("systemctl is-enabled "+enabled, "enabled\nenabled\nenabled\nenabled\nenabled\nenabled")
		s.says("systemctl is-active ota-health.socket ota-progress.socket ota-verify.timer", "active\nactive\nactive")
		// It decides at the next boot, not in the middle of this one.
		s.says("systemctl show -P ActiveEnterTimestampMonotonic ota-guardian.service", "0")
		s.says("cat /etc/ota/ota.toml", config)
	})
	s.step("the first versions, without a reboot", func(t *testing.T) {
		if err := s.Factory(ctx, v10); err != nil {
			t.Fatal(err)
		}
		s.reach(machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed})
		// The guardian has decided since, and not after it waited (3) for the lock of
		// the install whose service waited for it.
		s.says("systemctl is-active ota-guardian.service", "active")
		s.says("systemctl show -P ExecMainStatus ota-guardian.service", "0")
	})
	return s
}

// upgrade upgrades the package in the middle of a trial and of the install that
// waits for its end, and takes the power afterwards. Before that it calls
// during, which may be nil.
func upgrade(s *story, during func(*story)) {
	defer try.Fatal(s.t)
	// A trial that this boot does not see the end of.
	try.Check(s.Configure(s.ctx, 10*s.Limits.Wait, 20*s.Limits.Wait))
	url := try.Get(s.Offer(s.ctx, v11))
	install, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		r, err := s.Exec(install, "ota-apply", "install", url)
		ended <- fmt.Errorf("ota-apply ended: %v %v", r, err)
	}()
	s.step("a version is on trial, and the install waits", func(t *testing.T) {
		s.wait("1.1.0 to be on trial", func(st *bootcheck.Status) bool {
			return st.Current == "1.1.0" && st.Phase == bootcheck.PhaseTrial
		})
		s.wait("ota-confirm", func(*bootcheck.Status) bool {
			r, err := s.Exec(s.ctx, "systemctl", "is-active", "ota-confirm.service")
			return err == nil && strings.TrimSpace(r.Stdout) == "activating"
		})
	})
	// What must be the same afterwards: the units that run, and since when.
	running := "for u in ota-guardian ota-confirm ota-apply device-api; do systemctl show -P InvocationID -P ActiveState -P MainPID $u.service; done"
	s.step("the upgrade disturbs neither", func(t *testing.T) {
		s.must("systemctl --quiet disable ota-verify.timer")
		before, units, config := s.status(), s.must(running), s.must("cat /etc/ota/ota.toml")
		s.must("dpkg -i /data/newer.deb")
		s.says("dpkg --verify ota", "")
		s.says("ota-guardian --version", "ota-guardian 1.1.0+4.g0123456789ab")
		s.says(running, units)
		s.says("cat /etc/ota/ota.toml", config)
		after := s.status()
		if diff := cmp.Diff(before.Trial, after.Trial); diff != "" || after.Phase != bootcheck.PhaseTrial {
			t.Errorf("the trial is %s, changed (-before +after):\n%s", after.Phase, diff)
		}
		// What the administrator disabled stays so.
		s.says("systemctl is-enabled ota-verify.timer", "disabled")
		s.says("systemctl is-enabled ota-guardian.service", "enabled")
		select {
		case err := <-ended:
			t.Errorf("the install did not survive: %v", err)
		default:
		}
	})
	if during != nil {
		during(s)
	}
	s.step("a power cut after it counts as one", func(t *testing.T) {
		// The cut loses what is not synced, and dpkg syncs what it installs.
		if err := s.PowerCut(s.ctx); err != nil {
			t.Fatal(err)
		}
		s.says("ota-guardian --version", "ota-guardian 1.1.0+4.g0123456789ab")
		s.wait("the boot to be counted", func(st *bootcheck.Status) bool {
			return st.Current == "1.1.0" && st.Phase == bootcheck.PhaseTrial && st.Trial != nil && st.Trial.Unclean == 1
		})
		if trial := s.status().Trial; trial.Clean != 0 || trial.Hard != 0 {
			t.Errorf("the trial is %+v; the upgrade has left the mark of an orderly shutdown", trial)
		}
	})
	s.step("the new package confirms or rolls back", func(t *testing.T) {
		defer try.Fatal(t)
		try.Check(s.Configure(s.ctx, s.Limits.Stable, s.Limits.Deadline))
		try.Check(s.Reboot(s.ctx))
		s.reach(machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed})
	})
}

// isNotRemoved tries to remove the package under an install that runs.
func isNotRemoved(s *story) {
	s.step("it is not removed while an install runs", func(t *testing.T) {
		r, err := s.Exec(s.ctx, "dpkg", "--remove", "ota")
		if err != nil {
			t.Fatal(err)
		}
		if r.Code == 0 || !strings.Contains(r.Stderr, "ota: cannot be removed while ota-install.service installs") {
			t.Errorf("dpkg --remove: %s; want a refusal", r)
		}
		s.says("dpkg-query -W -f '${db:Status-Status}' ota", "installed")
		s.says("systemctl is-active ota-progress.socket", "active")
		s.says("systemctl is-active ota-install.service", "activating")
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
	machine.RequireContainer(t)
	ctx := machine.Context(t)
	m := machine.StartContainer(t, container.Options{Overlay: service(), Variant: taker(suite), Writable: true})
	s := begin(t, ctx, m, machine.Quick)
	upgrade(s, isNotRemoved)

	s.step("removed: the application continues", func(t *testing.T) {
		defer try.Fatal(t)
		s.must("dpkg --remove ota")
		s.says("dpkg-query -W -f '${db:Status-Status}' ota", "config-files")
		s.says("ls -d /usr/bin/ota-* /usr/lib/systemd/system/ota-* 2>/dev/null", "")
		s.must("! test -e /run/ota/health.sock")
		s.says("find /etc/systemd/system \\( -lname '*ota-*' -o -name 'ota-*' \\) ! -name 'ota-test-*' ! -name 'ota-.service.d'", "")
		s.must("test -s /etc/ota/ota.toml && test -s /etc/ota/keys/test.pub && test -d /opt/tope/versions/v1.1.0")
		for range 2 {
			try.Check(machine.Poll(ctx, "device-api", func(ctx context.Context) (bool, error) {
				v, err := s.Running(ctx)
				return v == "1.1.0", err
			}))
			// Something that requires ota-confirm would keep every boot from being complete.
			s.must("systemctl start boot-complete.target")
			try.Check(s.Reboot(ctx))
		}
	})
	s.step("installed again: everything is as it was", func(t *testing.T) {
		s.must("dpkg -i /data/newer.deb")
		s.says("systemctl is-enabled "+enabled, "enabled\nenabled\nenabled\nenabled\nenabled\nenabled")
		if err := s.Reboot(ctx); err != nil {
			t.Fatal(err)
		}
		s.reach(machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed})
	})
	s.step("purged: the versions stay", func(t *testing.T) {
		defer try.Fatal(t)
		tree := try.Get(s.Tree(ctx, "1.1.0"))
		s.must("dpkg --purge ota")
		s.says("ls -A /etc/ota", "")
		s.says("dpkg-query -W -f '${db:Status-Status}' ota 2>/dev/null", "")
		s.says("find / -xdev \\( -name '*ota-guardian*' -o -name 'ota.toml*' -o -name '50-ota*' \\) ! -path '/data/*' ! -path '/proc/*'", "")
		after := try.Get(s.Tree(ctx, "1.1.0"))
		if tree != after {
			t.Error("the versions are not what they were")
		}
	})
	s.step("a new device gets the sample as its configuration", func(t *testing.T) {
		s.must("dpkg -i /data/newer.deb")
		s.must("cmp /etc/ota/ota.toml /usr/share/doc/ota/examples/ota.toml")
		s.must("rm /etc/ota/ota.toml && dpkg -i /data/newer.deb && test ! -e /etc/ota/ota.toml")
	})
}

func inVM(t *testing.T) {
	machine.RequireVM(t, debian.AMD64)
	overlay := service()
	// Ten starts of Perl are most of the time of an emulated installation; systemctl
	// stands in for it.
	overlay["/usr/bin/deb-systemd-helper"] = debian.File{Data: []byte("not a program\n")}
	overlay["/usr/bin/deb-systemd-invoke"] = overlay["/usr/bin/deb-systemd-helper"]
	m := machine.StartVM(t, vm.Options{Overlay: overlay, Variant: taker(debian.Bookworm), Writable: true, Cold: true})
	start := time.Now()
	upgrade(begin(t, machine.Context(t), m, machine.Slow), nil)
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
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
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
		run("dpkg", "--root="+root, "-i", get(t, older))
		for _, link := range []string{"multi-user.target.wants/ota-guardian.service", "multi-user.target.wants/ota-confirm.service", "boot-complete.target.requires/ota-confirm.service",
			"sockets.target.wants/ota-progress.socket", "sockets.target.wants/ota-health.socket", "timers.target.wants/ota-verify.timer"} {
			if _, err := os.Readlink(root + "/etc/systemd/system/" + link); err != nil {
				t.Errorf("%s: %v", row.what, err)
			}
		}
		run("dpkg", "--root="+root, "-i", get(t, newer))
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
