package systemdtest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// How an install runs in ota-install.service, and what the command that follows it
// says and ends with.
func TestInstallUnit(t *testing.T) {
	if os.Getenv(guestMark) != "" {
		t.Skip("this is the guest")
	}
	machine.RequireContainer(t)
	overlay, err := machine.DeviceOverlay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	machine.EachSuite(t, func(t *testing.T, s debian.Suite) {
		installUnit(t, container.Options{Overlay: overlay, Variant: debian.Variant{Suite: s}})
	})
}

func installUnit(t *testing.T, o container.Options) {
	defer try.Fatal(t)
	ctx, cancel := context.WithTimeout(machine.Context(t), 5*time.Minute)
	defer cancel()
	d := try.Get(machine.NewDevice(ctx, machine.StartContainer(t, o), machine.Quick))
	const unit, dropIn = "ota-install.service", "/run/systemd/system/ota-install.service.d/99-test.conf"
	good := func(t *testing.T, name string, release int64) string {
		t.Helper()
		url, err := d.Offer(ctx, machine.Version{Name: name, Release: release})
		if err != nil {
			t.Fatal(err)
		}
		return url
	}

	t.Run("the request is for root alone, and nothing of it is left", func(t *testing.T) {
		s := &served{t, ctx, d}
		if err := d.WriteFile(ctx, dropIn, 0o644, []byte("[Service]\nExecStartPre=/bin/sh -c '(stat -c \"%%a %%U\" /run/ota/install-request.json; grep Seccomp: /proc/self/status) >/run/ota/seen'\n")); err != nil {
			t.Fatal(err)
		}
		s.must("systemctl", "daemon-reload")
		if out := s.must("ota-apply", "install", good(t, "1.0.0", 1)+"?sig=s3cret"); out != "version 1.0.0 is current and confirmed\n" {
			t.Errorf("stdout is %q", out)
		}
		if got := s.must("sh", "-c", "cat /run/ota/seen; ls /run/ota"); !strings.HasPrefix(got, "600 root\nSeccomp:\t2\n") || strings.Contains(got, "install") {
			t.Errorf("the request and what is left:\n%s", got)
		}
		if got := s.must("cat", "/run/ota/progress.json"); !strings.Contains(got, `"exit":0`) {
			t.Errorf("progress.json says %s", got)
		}
		if out := s.must("sh", "-c", "journalctl -b --no-pager -u "+unit+" | cat"); !strings.Contains(out, "1.0.0.ota?… ends: version 1.0.0, success") || strings.Contains(out, "s3cret") {
			t.Errorf("the journal says\n%s", out)
		}
		s.must("sh", "-c", "rm "+dropIn+"; systemctl daemon-reload; ! systemctl start "+unit)
		if got := s.show(unit, "ExecMainStatus"); got != "2" {
			t.Errorf("without a request it ends with %s, want 2", got)
		}
	})

	t.Run("a bundle where the sandbox does not see it", func(t *testing.T) {
		s := &served{t, ctx, d}
		s.must("mount", "-t", "tmpfs", "tmpfs", "/home")
		good(t, "1.1.0", 2)
		good(t, "1.2.0", 3)
		for _, row := range []struct{ name, dir string }{{"1.1.0", "/tmp"}, {"1.2.0", "/home"}} {
			s.must("mv", machine.Bundles+"/"+row.name+".ota", row.dir+"/x.ota")
			if out := s.must("sh", "-c", "cd "+row.dir+" && ota-apply install x.ota"); out != "version "+row.name+" is current and confirmed\n" {
				t.Errorf("stdout is %q", out)
			}
		}
		if got := s.show(unit, "Result") + s.show(unit, "ActiveState"); got != "successinactive" {
			t.Errorf("the unit is %s", got)
		}
	})

	// It waits for an end that never comes.
	try.Check(d.Configure(ctx, d.Limits.Stable, 10*d.Limits.Wait))
	begin := func(t *testing.T, name string, release int64) (*served, chan machine.Result) {
		t.Helper()
		s := &served{t, ctx, d}
		url, err := d.Offer(ctx, machine.Version{Name: name, Release: release, Behave: deviceapi.Config{Behave: deviceapi.Health500}})
		if err != nil {
			t.Fatal(err)
		}
		result := make(chan machine.Result, 1)
		go func() {
			r, err := d.Exec(ctx, "sh", "-c", `echo $$ >/run/pid; exec ota-apply install "$0"`, url)
			if err != nil {
				r.Stderr = err.Error()
			}
			result <- r
		}()
		s.wait("the restart", func(op bootcheck.Operation) bool { return op.Stage == "rebooting" })
		return s, result
	}

	t.Run("the command is ended", func(t *testing.T) {
		s, result := begin(t, "1.3.0", 4)
		r, err := d.Exec(ctx, "ota-apply", "install", good(t, "1.4.0", 5))
		if err != nil || r.Code != int(bootcheck.ExitBusy) || !strings.Contains(r.Stderr, "busy") {
			t.Errorf("a second install: %v, %s", err, r)
		}
		s.must("sh", "-c", "kill -TERM $(cat /run/pid)")
		if r := <-result; r.Code != int(bootcheck.ExitUnknown) || !strings.Contains(r.Stderr, "the install continues in ota-install.service") {
			t.Errorf("the command ended with %s", r)
		}
		if got := s.show(unit, "ActiveState"); got != "activating" {
			t.Errorf("the unit is %s, want activating", got)
		}
		r, err = d.Exec(ctx, "ota-apply", "install", good(t, "1.4.0", 5))
		if err != nil || r.Code != int(bootcheck.ExitBusy) || !strings.Contains(r.Stderr, "busy") {
			t.Errorf("a second install: %v, %s", err, r)
		}
		s.must("systemctl", "stop", unit)
		s.must("ota-guardian", "rollback")
	})

	t.Run("Ctrl-C stops it", func(t *testing.T) {
		s, result := begin(t, "1.5.0", 6)
		s.must("sh", "-c", "kill -INT $(cat /run/pid)")
		if r := <-result; r.Code != int(bootcheck.ExitUnknown) || !strings.Contains(r.Stderr, "is current, unconfirmed") {
			t.Errorf("the command ended with %s", r)
		}
		if got := s.show(unit, "ActiveState"); got != "inactive" {
			t.Errorf("the unit is %s, want inactive", got)
		}
		s.must("ota-guardian", "rollback")
	})

	t.Run("another store, and no unit", func(t *testing.T) {
		s := &served{t, ctx, d}
		url := good(t, "1.6.0", 7)
		r, err := d.Exec(ctx, "ota-apply", "install", "--root", "/data/versions", "--no-activate", url)
		if err != nil || r.Code != 0 || !strings.Contains(r.Stderr, "ota-install.service cannot write /data/versions") {
			t.Errorf("into another store: %v, %s", err, r)
		}
		s.must("sh", "-c", "systemctl mask --runtime "+unit+" || ln -s /dev/null /run/systemd/system.control/"+unit+"; systemctl daemon-reload")
		r, err = d.Exec(ctx, "ota-apply", "install", "--no-activate", url)
		if err != nil || r.Code != 0 || !strings.Contains(r.Stderr, "the install runs in this process") {
			t.Errorf("without the unit: %v, %s", err, r)
		}
	})
}
