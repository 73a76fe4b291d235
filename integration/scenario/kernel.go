package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/try"
)

// wrapped makes a version whose program is started by a shell script, which may
// do something to the machine first or beside it.
func wrapped(name string, release int64, before string) machine.Version {
	return machine.Version{Name: name, Release: release, Spoil: func(dir string) error {
		bin := filepath.Join(dir, program)
		if err := os.Rename(bin, bin+".real"); err != nil {
			return err
		}
		return os.WriteFile(bin, []byte("#!/bin/bash\n"+before+"\nexec "+machine.Store+"/current/"+program+".real\n"), 0o755)
	}}
}

// The ways of a version to take the kernel with it.
var (
	Reboots     = wrapped("1.2.0", 3, "(sleep 1.5; systemctl reboot) &")
	PanicsEarly = wrapped("1.2.0", 3, "echo c >/proc/sysrq-trigger")
	PanicsLate  = wrapped("1.2.0", 3, "(sleep 2; echo c >/proc/sysrq-trigger) &")
)

// Boots installs bad, which ends each boot before it is confirmed, and expects
// the device to come back to 1.1.0 by itself when limit, of the class that is
// named so in the configuration, is used up. evidence is in what the record says
// about it.
func Boots(ctx context.Context, d *machine.Device, bad machine.Version, class string, evidence string) {
	start(ctx, d, v11)
	bootLoop(ctx, d, bad, class)
	try.Check(d.Reach(ctx, machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"}))
	if l := blames(ctx, d, bootcheck.Rollback{From: bad.Name, To: "1.1.0", Level: "previous", Cause: bootcheck.CauseBoots}); !strings.Contains(l.Output, evidence) || len(l.BootIDs) < 3 {
		try.Failf("the rollback recorded is %+v, want one that says %q", l, evidence)
	}
}

// BootsToFactory is Boots with a previous version that is no better.
func BootsToFactory(ctx context.Context, d *machine.Device, class string) {
	panics := "[ ! -e " + sick + " ] || echo c >/proc/sysrq-trigger"
	start(ctx, d, wrapped("1.1.0", 2, panics))
	// From now on both do: 1.2.0 as soon as it starts.
	bad := wrapped("1.2.0", 3, "touch "+sick+"; sync "+sick+"; echo c >/proc/sysrq-trigger")
	bootLoop(ctx, d, bad, class)
	try.Check(d.Reach(ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_FACTORY"}))
	blames(ctx, d, bootcheck.Rollback{From: "1.1.0", To: "1.0.0", Level: "factory", Cause: bootcheck.CauseBoots})
}

// bootLoop installs bad, with a limit of three for class and all the time that
// the health checks may want. It returns when the first boot has ended.
func bootLoop(ctx context.Context, d *machine.Device, bad machine.Version, class string) {
	try.Check(d.Configure(ctx, 4*d.Limits.Stable, 10*d.Limits.Wait, class+" = 3"))
	boot := try.Get(d.BootID(ctx))
	d.Begin(ctx, bad)
	try.Check(d.WaitReboot(ctx, boot))
}

// WithoutClock lets the clock jump by decades while a good version is installed,
// and a bad one: nothing is decided otherwise because of it.
func WithoutClock(ctx context.Context, d *machine.Device) {
	start(ctx, d, v11)
	jumps := func(v machine.Version, code bootcheck.ExitCode) {
		stop := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				date := []string{"2036-02-03", "1980-05-06", "2026-01-01"}[i%3]
				if _, err := d.Must(ctx, "date", "-s", date); err != nil {
					ended <- err
					return
				}
				select {
				case <-stop:
					ended <- nil
					return
				case <-time.After(200 * time.Millisecond):
				}
			}
		}()
		err := d.Installs(ctx, v, code)
		close(stop)
		try.Check(errors.Join(err, <-ended))
	}
	jumps(v12, bootcheck.ExitDone)
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	jumps(v12Exits.As("1.3.0", 4), bootcheck.ExitRolledBack)
	try.Check(d.Reach(ctx, machine.Want{Current: "1.2.0", Previous: "1.1.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
}

// Histories lets people do to a good version what they do: they switch the device
// off or reboot it at any moment, up to three times, while it is installed, on
// trial and after. It is never rolled back. It says how often a trial was met.
func Histories(ctx context.Context, d *machine.Device, n int, seed uint64) (trials int) {
	start(ctx, d, v11)
	random := rand.New(rand.NewPCG(seed, 0))
	before := "1.1.0"
	history := func(i int) {
		defer try.Say("history %d", i)
		v := machine.Version{Name: fmt.Sprintf("1.2.%d", i), Release: int64(3 + i)}
		install, cancel := context.WithCancel(ctx)
		defer cancel()
		d.Begin(install, v)
		for range 1 + random.IntN(3) {
			moment := time.Duration(random.Int64N(int64(2 * d.Limits.Stable)))
			select {
			case <-ctx.Done():
			case <-time.After(moment):
			}
			if s, err := d.Status(ctx); err == nil && s.Phase == bootcheck.PhaseTrial {
				trials++
			}
			if random.IntN(3) == 0 {
				try.Check(d.Reboot(ctx))
			} else {
				try.Check(d.PowerCut(ctx))
			}
		}
		before = oneOf(ctx, d, before, v.Name)
	}
	for i := range n {
		history(i)
	}
	return trials
}
