package systemdtest

import (
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// How an install runs in ota-install.service, and what the command that follows it
// says and ends with.
func TestInstallUnit(t *testing.T) { onDevices(t, nil, installUnit) }

func installUnit(s *served, _ debian.Suite) {
	d, ctx := s.Device, s.Ctx
	const unit, dropIn = "ota-install.service", "/run/systemd/system/ota-install.service.d/99-test.conf"
	good := func(name string, release int64) string {
		return try.Get(d.Offer(ctx, machine.Version{Name: name, Release: release}))
	}

	s.Run("the request is for root alone, and nothing of it is left", func(t *testing.T) {
		try.Check(d.WriteFile(ctx, dropIn, 0o644, []byte("[Service]\nExecStartPre=/bin/sh -c '(stat -c \"%%a %%U\" /run/ota/install-request.json; grep Seccomp: /proc/self/status) >/run/ota/seen'\n")))
		s.Out("systemctl", "daemon-reload")
		if out := s.Out("ota-apply", "install", good("1.0.0", 1)+"?sig=s3cret"); out != "version 1.0.0 is current and confirmed\n" {
			t.Errorf("stdout is %q", out)
		}
		if got := s.Out("sh", "-c", "cat /run/ota/seen; ls /run/ota"); !strings.HasPrefix(got, "600 root\nSeccomp:\t2\n") || strings.Contains(got, "install") {
			t.Errorf("the request and what is left:\n%s", got)
		}
		if got := s.Out("cat", "/run/ota/progress.json"); !strings.Contains(got, `"exit":0`) {
			t.Errorf("progress.json says %s", got)
		}
		if out := s.Out("sh", "-c", "journalctl -b --no-pager -u "+unit+" | cat"); !strings.Contains(out, "1.0.0.ota?… ends: version 1.0.0, success") || strings.Contains(out, "s3cret") {
			t.Errorf("the journal says\n%s", out)
		}
		s.Out("sh", "-c", "rm "+dropIn+"; systemctl daemon-reload; ! systemctl start "+unit)
		if got := s.Show(unit, "ExecMainStatus"); got != "2" {
			t.Errorf("without a request it ends with %s, want 2", got)
		}
	})

	s.Run("a bundle where the sandbox does not see it", func(t *testing.T) {
		s.Out("mount", "-t", "tmpfs", "tmpfs", "/home")
		good("1.1.0", 2)
		good("1.2.0", 3)
		for _, row := range []struct{ name, dir string }{{"1.1.0", "/tmp"}, {"1.2.0", "/home"}} {
			s.Out("mv", machine.Bundles+"/"+row.name+".ota", row.dir+"/x.ota")
			if out := s.Out("sh", "-c", "cd "+row.dir+" && ota-apply install x.ota"); out != "version "+row.name+" is current and confirmed\n" {
				t.Errorf("stdout is %q", out)
			}
		}
		if got := s.Show(unit, "Result") + s.Show(unit, "ActiveState"); got != "successinactive" {
			t.Errorf("the unit is %s", got)
		}
	})

	// It waits for an end that never comes.
	try.Check(d.Configure(ctx, d.Limits.Stable, 10*d.Limits.Wait))
	begin := func(name string, release int64) *machine.Install {
		v := machine.Version{Name: name, Release: release, Behave: deviceapi.Config{Behave: deviceapi.Health500}}
		install := d.BeginBy(ctx, v, "sh", "-c", `echo $$ >/run/pid; exec ota-apply install "$0"`, try.Get(d.Offer(ctx, v)))
		s.wait("the restart", func(op bootcheck.Operation) bool { return op.Stage == "rebooting" })
		return install
	}

	s.Run("the command is ended", func(t *testing.T) {
		install := begin("1.3.0", 4)
		r, err := d.Exec(ctx, "ota-apply", "install", good("1.4.0", 5))
		if err != nil || r.Code != int(bootcheck.ExitBusy) || !strings.Contains(r.Stderr, "busy") {
			t.Errorf("a second install: %v, %s", err, r)
		}
		s.Out("sh", "-c", "kill -TERM $(cat /run/pid)")
		install.Ends(bootcheck.ExitUnknown)
		if !strings.Contains(install.Stderr, "the install continues in ota-install.service") {
			t.Errorf("the command ended with %s", install.Result)
		}
		if got := s.Show(unit, "ActiveState"); got != "activating" {
			t.Errorf("the unit is %s, want activating", got)
		}
		r, err = d.Exec(ctx, "ota-apply", "install", good("1.4.0", 5))
		if err != nil || r.Code != int(bootcheck.ExitBusy) || !strings.Contains(r.Stderr, "busy") {
			t.Errorf("a second install: %v, %s", err, r)
		}
		s.Out("systemctl", "stop", unit)
		s.Out("ota-guardian", "rollback")
	})

	s.Run("Ctrl-C stops it", func(t *testing.T) {
		install := begin("1.5.0", 6)
		s.Out("sh", "-c", "kill -INT $(cat /run/pid)")
		install.Ends(bootcheck.ExitUnknown)
		if !strings.Contains(install.Stderr, "is current, unconfirmed") {
			t.Errorf("the command ended with %s", install.Result)
		}
		if got := s.Show(unit, "ActiveState"); got != "inactive" {
			t.Errorf("the unit is %s, want inactive", got)
		}
		s.Out("ota-guardian", "rollback")
	})

	s.Run("another store, and no unit", func(t *testing.T) {
		url := good("1.6.0", 7)
		r, err := d.Exec(ctx, "ota-apply", "install", "--root", "/data/versions", "--no-activate", url)
		if err != nil || r.Code != 0 || !strings.Contains(r.Stderr, "ota-install.service cannot write /data/versions") {
			t.Errorf("into another store: %v, %s", err, r)
		}
		s.Out("sh", "-c", "systemctl mask --runtime "+unit+" || ln -s /dev/null /run/systemd/system.control/"+unit+"; systemctl daemon-reload")
		r, err = d.Exec(ctx, "ota-apply", "install", "--no-activate", url)
		if err != nil || r.Code != 0 || !strings.Contains(r.Stderr, "the install runs in this process") {
			t.Errorf("without the unit: %v, %s", err, r)
		}
	})
}
