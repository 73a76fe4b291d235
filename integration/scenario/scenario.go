// Package scenario is what a device must come through: each scenario is written
// once and runs on every machine, a container and a virtual machine.
package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Scenario is one story. Run begins with a device on which nothing is installed, or
// where Start has been.
type Scenario struct {
	Name string
	Run  func(ctx context.Context, d *machine.Device)
	Core bool // what the product is for: shown on each processor, not only on amd64
	// VM are the processors on which CI has a virtual machine for it. Nightly there is
	// one on each, and CI always has a container.
	VM []debian.Arch
}

// All are the scenarios, each of which runs in a container and in QEMU. CI has a
// machine with a kernel for the last fallback, and for what power cuts show.
var All = []Scenario{
	{Name: "a good version is confirmed and still there after a reboot", Run: good, Core: true},
	{Name: "a version that exits at start is rolled back in the same boot", Run: exitsAtStart, Core: true},
	{Name: "a version that answers 500 is rolled back in the same boot", Run: answers500},
	{Name: "power cuts before it is confirmed: previous at the third boot", Run: powerCuts, Core: true, VM: []debian.Arch{debian.AMD64}},
	{Name: "the new version and previous are both bad: factory", Run: bothBad, Core: true, VM: []debian.Arch{debian.AMD64}},
	{Name: "an install survives the restart of the service that asked for it", Run: callerDies},
	{Name: "an operator rolls back", Run: operator},
	{Name: "no other user sees the secret in an address", Run: secretAddress},
	{Name: "power cuts at any moment of an install", Run: cutsAnywhere, VM: []debian.Arch{debian.AMD64}},
}

// The versions. 1.0.0 becomes factory.
var (
	v10 = machine.Version{Name: "1.0.0", Release: 1}
	// Good until the file is made.
	v11      = machine.Version{Name: "1.1.0", Release: 2, Behave: deviceapi.Config{BadIfExists: sick, BadBehave: deviceapi.Health500}}
	v12      = machine.Version{Name: "1.2.0", Release: 3}
	v12Exits = machine.Version{Name: "1.2.0", Release: 3, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
	v12Fails = machine.Version{Name: "1.2.0", Release: 3, Behave: deviceapi.Config{Behave: deviceapi.Health500}}
)

const sick = "/data/sick"

// Start brings a device to 1.0.0 as factory and 1.1.0 as the current version, with
// which the stories begin. It is good, and turns bad where a story wants it.
func Start(ctx context.Context, d *machine.Device) { start(ctx, d, v11) }

// start brings the device to 1.0.0 as factory and v as the current version, or looks
// whether one that was saved is that already.
func start(ctx context.Context, d *machine.Device, v machine.Version) {
	switch {
	case d.Runs == "":
		try.Check(d.Factory(ctx, v10))
		try.Check(d.Reach(ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}))
		try.Check(d.Installs(ctx, v, bootcheck.ExitDone))
	case v.Name != d.Runs || v.Behave != v11.Behave || v.Script != "" || v.Spoil != nil:
		try.Failf("the story begins with another %s than the device that was saved, it needs a new one", v.Name)
	}
	try.Check(d.Reach(ctx, machine.Want{Current: v.Name, Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}))
}

func good(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	factory := try.Get(d.Tree(ctx, "1.0.0"))
	try.Check(d.Reboot(ctx))
	want := machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
	try.Check(d.Reach(ctx, want))
	try.Check(d.PowerCut(ctx))
	try.Check(d.Reach(ctx, want))
	reports := try.Get(d.Reports(ctx))
	// Everything of it was told, in order.
	stages := []string{"downloading", "verifying", "toInstall", "installing", "rebooting", "success"}
	for _, r := range reports {
		if len(stages) > 0 && r.Stage == stages[0] {
			stages = stages[1:]
		}
	}
	// device-api restarts itself in this install, and may miss what is said then.
	if len(stages) > 0 && stages[0] != "rebooting" {
		try.Failf("device-api was never told %q; it got %+v", stages[0], reports)
	}
	factoryIs(ctx, d, factory)
}

// rolledBack installs a bad 1.2.0 over 1.1.0 and expects it to be gone in the
// same boot, with cause and check as its reason.
func rolledBack(ctx context.Context, d *machine.Device, bad machine.Version, cause bootcheck.Cause, check string) {
	start(ctx, d, v11)
	factory := try.Get(d.Tree(ctx, "1.0.0"))
	boot := try.Get(d.BootID(ctx))
	try.Check(d.Installs(ctx, bad, bootcheck.ExitRolledBack))
	back := machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"}
	try.Check(d.Reach(ctx, back))
	if now := try.Get(d.BootID(ctx)); now != boot {
		try.Failf("the boot is %s, want %s: it rebooted", now, boot)
	}
	blames(ctx, d, bootcheck.Rollback{From: "1.2.0", To: "1.1.0", Level: "previous", Cause: cause, Check: check})

	// What just failed is not installed again, unless the operator insists.
	try.Check(d.Installs(ctx, bad, bootcheck.ExitRefused))
	try.Check(d.Reach(ctx, back))
	try.Check(d.Installs(ctx, bad, bootcheck.ExitRolledBack, "--force"))
	try.Check(d.Reach(ctx, back))
	factoryIs(ctx, d, factory)
}

func exitsAtStart(ctx context.Context, d *machine.Device) {
	rolledBack(ctx, d, v12Exits, bootcheck.CauseCrash, "device-api runs")
}

func answers500(ctx context.Context, d *machine.Device) {
	rolledBack(ctx, d, v12Fails, bootcheck.CauseHealth, "device-api answers")
}

func powerCuts(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	// 1.2.0 is never well, and no boot is long enough for the deadline.
	// Three power cuts are enough to show it: a device allows six.
	try.Check(d.Configure(ctx, d.Limits.Stable, 10*d.Limits.Wait, "unclean = 3"))
	cutAfterSwitch(ctx, d, v12Fails)
	for boot := 1; boot <= 2; boot++ {
		// Whether the switch was durable when the power went is not promised:
		// no program had been told that it was made. The current version must be intact.
		status := try.Get(d.Status(ctx))
		if status.Current == "1.1.0" {
			cutAfterSwitch(ctx, d, v12Fails)
			boot--
			continue
		}
		try.Check(d.Wait(ctx, fmt.Sprintf("boot %d to be counted", boot), func(s *bootcheck.Status) bool {
			return s.Phase == bootcheck.PhaseTrial && s.Trial.Attempts() == boot
		}))
		try.Check(d.PowerCut(ctx))
	}
	try.Check(d.Wait(ctx, "the third boot to run previous", func(s *bootcheck.Status) bool {
		return s.Current == "1.1.0"
	}))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"}))
	blames(ctx, d, bootcheck.Rollback{From: "1.2.0", To: "1.1.0", Level: "previous", Cause: bootcheck.CauseBoots, Attempts: 3})
}

// cutAfterSwitch installs v and takes the power as soon as it is current.
func cutAfterSwitch(ctx context.Context, d *machine.Device, v machine.Version) {
	d.Begin(ctx, v).Switched(ctx)
	try.Check(d.PowerCut(ctx))
}

func bothBad(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	factory := try.Get(d.Tree(ctx, "1.0.0"))
	bad := d.Begin(ctx, v12Exits)
	// 1.1.0 turns bad when it is not looked at any more: its health before the
	// switch is no reason to keep it.
	bad.Switched(ctx)
	try.Check(d.WriteFile(ctx, sick, 0o644, nil))
	bad.Ends(bootcheck.ExitRolledBack)
	want := machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_FACTORY"}
	try.Check(d.Reach(ctx, want))
	blames(ctx, d, bootcheck.Rollback{From: "1.1.0", To: "1.0.0", Level: "factory", Cause: bootcheck.CauseHealth, Check: "device-api answers"})
	// And there it stays.
	try.Check(d.PowerCut(ctx))
	try.Check(d.Reach(ctx, want))
	factoryIs(ctx, d, factory)
}

func callerDies(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	url := try.Get(d.Offer(ctx, v12))
	// A child of device-api, as far as systemd can see: it is killed with it.
	r := try.Get(d.Exec(ctx, "bash", "-c", `
		group=$(systemctl show -P ControlGroup device-api.service)
		for root in /sys/fs/cgroup /sys/fs/cgroup/unified; do
			if [ -e "$root$group/cgroup.procs" ]; then echo $$ >"$root$group/cgroup.procs"; moved=1; fi
		done
		[ -n "$moved" ] || exit 99
		exec ota-apply install "$0"`, url))
	if r.Code == 99 {
		try.Failf("cannot enter device-api's control group: %s", r)
	}
	if r.Code == 0 {
		try.Failf("the caller was not killed with device-api, so this shows nothing: %s", r)
	}
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "success"}))
}

// cutsAnywhere takes the power at random moments of installs of good versions.
// At any moment the device runs the old version or the new one, intact,
// and the next install succeeds.
func cutsAnywhere(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	factory := try.Get(d.Tree(ctx, "1.0.0"))
	began := time.Now()
	try.Check(d.Installs(ctx, machine.Version{Name: "1.2.0", Release: 3}, bootcheck.ExitDone))
	took := time.Since(began)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	before := "1.2.0"
	defer try.Say("seed %d", seed)
	cut := func(round int) {
		moment := time.Duration(random.Int64N(int64(took)))
		defer try.Say("round %d, power cut after %s of %s", round, moment, took)
		v := machine.Version{Name: fmt.Sprintf("1.3.%d", round), Release: int64(4 + round)}
		install, cancel := context.WithCancel(ctx)
		defer cancel()
		d.Begin(install, v)
		select {
		case <-ctx.Done():
		case <-time.After(moment):
		}
		try.Check(d.PowerCut(ctx))
		before = oneOf(ctx, d, before, v.Name)
	}
	for round := range 4 {
		cut(round)
	}
	try.Check(d.Installs(ctx, machine.Version{Name: "1.4.0", Release: 99}, bootcheck.ExitDone))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.4.0", Previous: before, Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	factoryIs(ctx, d, factory)
}

// oneOf waits until one of the versions is confirmed and answers, and verifies
// every byte of it.
func oneOf(ctx context.Context, d *machine.Device, versions ...string) (current string) {
	try.Check(d.Wait(ctx, fmt.Sprintf("one of %v to be confirmed", versions), func(s *bootcheck.Status) bool {
		current = s.Current
		return s.Phase == bootcheck.PhaseConfirmed && slices.Contains(versions, current) && s.LastRollback == nil
	}))
	try.Get(d.Must(ctx, "ota-apply", "verify", "current"))
	try.Check(d.WaitRunning(ctx, current))
	return current
}

func operator(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	try.Check(d.Installs(ctx, v12, bootcheck.ExitDone))
	try.Get(d.Must(ctx, "ota-guardian", "rollback"))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"}))
	blames(ctx, d, bootcheck.Rollback{From: "1.2.0", To: "1.1.0", Level: "previous", Cause: bootcheck.CauseOperator})
}

// blames compares the evidence of the last rollback with want, as far as want
// says something, and returns it.
func blames(ctx context.Context, d *machine.Device, want bootcheck.Rollback) *bootcheck.Rollback {
	s := try.Get(d.Status(ctx))
	got := s.LastRollback
	if got == nil {
		try.Failf("no rollback is recorded, want %+v", want)
	}
	if got.From != want.From || got.To != want.To || got.Level != want.Level || got.Cause != want.Cause || got.Check != want.Check ||
		want.Attempts != 0 && got.Attempts != want.Attempts {
		try.Failf("the rollback recorded is %+v, want %+v", *got, want)
	}
	if !isBlocked(s, want.From) {
		try.Failf("%s is not blocked", want.From)
	}
	return got
}

// factoryIs compares factory with what it was, byte by byte and mode by mode.
func factoryIs(ctx context.Context, d *machine.Device, was string) {
	now := try.Get(d.Tree(ctx, "1.0.0"))
	if now != was {
		try.Failf("factory changed from\n%s\nto\n%s", was, now)
	}
	for line := range strings.Lines(now) {
		f := strings.Fields(line) // path, type, mode …; or hash, path
		if len(f) < 3 {
			continue
		}
		switch f[1] + f[2] {
		case "d555", "f555", "f444", "l777":
		default:
			try.Failf("factory is not read-only: %s", line)
		}
	}
	try.Get(d.Must(ctx, "ota-guardian", "factory", "verify"))
}
