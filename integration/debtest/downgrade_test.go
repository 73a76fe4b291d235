package debtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

// build01 makes the package of 0.1.
func build01(t *testing.T) (deb string) {
	defer try.Fatal(t)
	dir := t.TempDir()
	cmd := exec.Command("scripts/deb.sh", "amd64")
	cmd.Dir = debian.Sources01(t)
	cmd.Env = append(os.Environ(), "OUT="+dir, "BIN="+dir+"/bin", "VERSION=0.1.0", "SOURCE_DATE_EPOCH=1700000000", "CGO_ENABLED=0")
	try.Run(cmd)
	return filepath.Join(dir, "ota_0.1.0_amd64.deb")
}

// TestDowngrade is a device whose package goes back to 0.1: the same version runs, a trial
// continues and comes to its end, and 0.2 continues from there. In a container, and nightly
// in a virtual machine, too.
func TestDowngrade(t *testing.T) {
	old := build01(t)
	t.Run("container", func(t *testing.T) {
		machine.RequireContainer(t)
		m := machine.StartContainer(t, container.Options{Overlay: machine.ServiceOverlay(), Variant: taker(debian.Bookworm), Writable: true})
		downgrade(begin(t, m, machine.Quick), old)
	})
	if tier.Nightly {
		t.Run("vm", func(t *testing.T) {
			machine.RequireVM(t, debian.AMD64)
			m := machine.StartVM(t, vm.Options{Overlay: machine.ServiceOverlay(), Variant: taker(debian.Bookworm), Writable: true, Cold: true})
			downgrade(begin(t, m, machine.Slow), old)
		})
	}
}

// downgrade has old, the package of 0.1, and that of this checkout take turns.
func downgrade(s *machine.Story, old string) {
	now, with01 := s.Ctx, agent.WithOlder(s.Ctx)
	runs := machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
	s.Step("a version is on trial after a power cut", func(t *testing.T) {
		try.Check(s.WriteFile(s.Ctx, "/data/0.1.deb", 0o644, try.Get(os.ReadFile(old))))
		try.Check(s.Configure(s.Ctx, 10*s.Limits.Wait, 20*s.Limits.Wait)) // this boot does not see the end
		url := try.Get(s.Offer(s.Ctx, v11))
		s.Sh("ota-apply install --at-reboot " + url)
		try.Check(s.PowerCut(s.Ctx))
		try.Check(s.Wait(s.Ctx, "1.1.0 to be on trial", func(st *bootcheck.Status) bool {
			return st.Current == "1.1.0" && st.Phase == bootcheck.PhaseTrial
		}))
	})
	s.Step("0.1 confirms it", func(t *testing.T) {
		s.Ctx = with01
		s.Sh("dpkg -i /data/0.1.deb")
		s.Says("ota-guardian --version", "ota-guardian 0.1.0")
		try.Check(s.Wait(s.Ctx, "the trial to continue", func(st *bootcheck.Status) bool {
			return st.Current == "1.1.0" && st.Phase == bootcheck.PhaseTrial
		}))
		try.Check(s.Configure(s.Ctx, s.Limits.Stable, s.Limits.Deadline))
		try.Check(s.Reboot(s.Ctx))
		try.Check(s.Reach(s.Ctx, runs))
	})
	s.Step("0.2 continues from there", func(t *testing.T) {
		s.Ctx = now
		s.Sh("dpkg -i /data/older.deb")
		try.Check(s.Reboot(s.Ctx))
		try.Check(s.Reach(s.Ctx, runs))
		s.Sh("ota-guardian verify")
	})
	s.Step("0.1 over a confirmed version: the same one runs", func(t *testing.T) {
		s.Ctx = with01
		s.Sh("dpkg -i /data/0.1.deb")
		try.Check(s.Reboot(s.Ctx))
		try.Check(s.Reach(s.Ctx, runs))
		s.Sh("ota-guardian verify && ota-guardian factory verify")
	})
}
