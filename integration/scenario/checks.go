package scenario

import (
	"context"
	"slices"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// BaselineCounts shows which scripts of a device roll back a version: not one that is only
// wanted, and not one that failed already under the version before; one that
// fails since the switch does, and is what is blamed.
func BaselineCounts(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	const asked = "/run/asked"
	fails := "#!/bin/sh\necho \"$0 $OTA_VERSION\" >>" + asked + "\necho 'the camera is not there'\nexit 1\n"
	for _, name := range []string{"wanted/camera", "required/lamp"} {
		try.Check(d.WriteFile(ctx, machine.Etc+"/checks.d/"+name, 0o755, []byte(fails)))
	}
	try.Check(d.Installs(ctx, v12, bootcheck.ExitDone))
	confirmed := machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
	try.Check(d.Reach(ctx, confirmed))
	s := try.Get(d.Status(ctx))
	if s.LastRollback != nil || len(s.Blocked) > 0 {
		try.Failf("a rollback is recorded (%+v) or a version blocked (%v), want neither", s.LastRollback, s.Blocked)
	}
	ran := try.Get(d.ReadFile(ctx, asked))
	for _, name := range []string{"wanted/camera", "required/lamp"} {
		if want := machine.Etc + "/checks.d/" + name + " 1.2.0\n"; !strings.Contains(string(ran), want) {
			try.Failf("the scripts that ran are\n%swant %q among them", ran, want)
		}
	}

	try.Check(d.WriteFile(ctx, machine.Etc+"/checks.d/required/door", 0o755,
		[]byte("#!/bin/sh\n[ \"$OTA_VERSION\" = 1.2.0 ] || { echo 'the door is open'; exit 1; }\n")))
	try.Check(d.Installs(ctx, machine.Version{Name: "1.3.0", Release: 4}, bootcheck.ExitRolledBack))
	try.Check(d.Reach(ctx, confirmed))
	l := blames(ctx, d, bootcheck.Rollback{From: "1.3.0", To: "1.2.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseHealth, Check: "door"})
	if !strings.Contains(l.Output, "the door is open") {
		try.Failf("the evidence is %q, want what the script printed", l.Output)
	}
}

// FillsTheDisk lets a bad version write until the disk of the store is full to
// its last byte, and stay so: the device leaves it all the same, and can be
// updated again when there is room. The store is on a small disk of its own.
func FillsTheDisk(ctx context.Context, d *machine.Device) {
	const disk = "/opt/tope"
	try.Get(d.Must(ctx, "bash", "-e", "-c", `mount -t tmpfs -o size=128m,mode=755 tmpfs `+disk+`; mkdir `+machine.Store))
	start(ctx, d, v11)
	factory := try.Get(d.Tree(ctx, "1.0.0"))
	fills := machine.Version{Name: "1.2.0", Release: 3, Script: "#!/bin/bash\ncat /dev/zero >>" + disk + "/full\nexit 1\n"}
	try.Check(d.Installs(ctx, fills, bootcheck.ExitRolledBack))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	l := blames(ctx, d, bootcheck.Rollback{From: "1.2.0", To: "1.1.0", Level: bootcheck.LevelPrevious, Cause: bootcheck.CauseCrash, Check: "device-api runs"})
	if !slices.ContainsFunc(l.Journal, func(line string) bool { return strings.Contains(line, "No space left on device") }) {
		try.Failf("the journal in the evidence does not say that the disk was full: %q", l.Journal)
	}
	factoryIs(ctx, d, factory)
	try.Get(d.Must(ctx, "rm", disk+"/full"))
	try.Check(d.Installs(ctx, machine.Version{Name: "1.3.0", Release: 4}, bootcheck.ExitDone))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.3.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
}
