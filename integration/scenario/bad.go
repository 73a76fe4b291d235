package scenario

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Bad is a way in which a version can be bad without taking the kernel with it.
type Bad struct {
	Name   string
	Behave deviceapi.Config
	Script string                 // in the place of the program; empty: the program
	Spoil  func(dir string) error // of the version's tree; nil: nothing
	Causes []bootcheck.Cause      // that may be blamed; nil: either of the two that can be
	// Stable is how long the version must be well, if not as long as the limits
	// say: what goes wrong late has to go wrong before that.
	Stable time.Duration
	// PreviousToo lets previous turn bad as well: the device must end on factory.
	PreviousToo bool
}

var (
	crashes   = []bootcheck.Cause{bootcheck.CauseCrash}
	unhealthy = []bootcheck.Cause{bootcheck.CauseHealth}
	either    = []bootcheck.Cause{bootcheck.CauseCrash, bootcheck.CauseHealth}
)

const program = "bin/device-api"

func spoil(f func(name string) error) func(dir string) error {
	return func(dir string) error { return f(filepath.Join(dir, program)) }
}

func exitAfter(seconds float64) deviceapi.Config {
	return deviceapi.Config{Behave: deviceapi.ExitAfter, After: seconds}
}

// AllBad are the ways to be bad. "After" is to the second what the version's time
// to be confirmed is to a minute.
var AllBad = []Bad{
	{Name: "exits at its start", Behave: deviceapi.Config{Behave: deviceapi.Exit}, Causes: crashes, PreviousToo: true},
	{Name: "exits well at its start", Script: "#!/bin/bash\nexit 0\n", Causes: crashes},
	{Name: "exits soon after it is ready", Behave: exitAfter(0.1), Causes: either},
	{Name: "exits after a third of its trial", Behave: exitAfter(1), Stable: 3 * time.Second, Causes: either},
	{Name: "exits after two thirds of its trial", Behave: exitAfter(2), Stable: 3 * time.Second, Causes: either},
	{Name: "dies each second", Behave: exitAfter(0.9), Stable: 4 * time.Second, Causes: either},
	{Name: "is never ready", Behave: deviceapi.Config{Behave: deviceapi.NeverReady}, Causes: either},
	{Name: "hangs and pings no watchdog", Behave: deviceapi.Config{Behave: deviceapi.Hang}, Stable: 14 * time.Second, Causes: either},
	{Name: "answers 500", Behave: deviceapi.Config{Behave: deviceapi.Health500}, Causes: unhealthy, PreviousToo: true},
	{Name: "closes without an answer", Behave: deviceapi.Config{Behave: deviceapi.HealthEmpty}, Causes: unhealthy, PreviousToo: true},
	{Name: "answers 1 GB", Behave: deviceapi.Config{Behave: deviceapi.HealthHuge}, Causes: unhealthy},
	{Name: "never answers", Behave: deviceapi.Config{Behave: deviceapi.NeverAnswers}, Causes: unhealthy, PreviousToo: true},
	{Name: "answers with the old version", Behave: deviceapi.Config{Behave: deviceapi.HealthOld, OldVersion: "1.1.0"}, Causes: unhealthy, PreviousToo: true},
	{Name: "answers with what is no HTTP", Behave: deviceapi.Config{Behave: deviceapi.NotHTTP}, Causes: unhealthy},
	{Name: "sends to another address", Behave: deviceapi.Config{Behave: deviceapi.Redirects}, Causes: unhealthy},
	{Name: "answers on the wrong port", Behave: deviceapi.Config{Behave: deviceapi.WrongPort}, Causes: unhealthy},
	{Name: "dies when it is asked a second time", Behave: deviceapi.Config{Behave: deviceapi.DiesAsked}, Causes: either},
	{Name: "has no program", Spoil: spoil(os.Remove), Causes: crashes, PreviousToo: true},
	{Name: "has an empty program", Spoil: spoil(func(name string) error { return os.Truncate(name, 0) }), Causes: crashes, PreviousToo: true},
	{Name: "has a program that may not be executed", Spoil: spoil(func(name string) error { return os.Chmod(name, 0o644) }), Causes: crashes},
	{Name: "has a program for another processor", Spoil: spoil(foreign), Causes: crashes, PreviousToo: true},
	{Name: "has half a program", Spoil: spoil(func(name string) error { return os.Truncate(name, 3<<20) }), Causes: crashes, PreviousToo: true},
	{Name: "has a program without its interpreter", Script: "#!/opt/nothing/bin/sh\n", Causes: crashes},
	{Name: "lacks a library", Spoil: withoutLibrary, Causes: crashes},
	{Name: "lacks its configuration", Spoil: func(dir string) error { return os.Remove(filepath.Join(dir, "etc/device-api.json")) }, Causes: crashes, PreviousToo: true},
	{Name: "has garbage for a configuration", Spoil: func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "etc/device-api.json"), []byte("\x00\xff{"), 0o644)
	}, Causes: crashes},
	{Name: "crashes with a signal", Script: "#!/bin/bash\nkill -SEGV $$\n", Causes: crashes},
	{Name: "is killed, as for want of memory", Script: "#!/bin/bash\nkill -KILL $$\n", Causes: crashes},
	{Name: "eats the memory that it may have", Script: "#!/bin/bash\nulimit -v 300000\nx=$(head -c 600000000 /dev/zero | tr '\\0' x)\nexit 3\n", Causes: either},
	{Name: "starts two hundred processes and hangs", Script: "#!/bin/bash\nfor i in {1..200}; do sleep 1000 & done\nwait\n", Causes: either},
	// As a user other than root, whom RLIMIT_NPROC binds: 64 processes.
	{Name: "is a fork bomb within its limit", Script: "#!/bin/bash\nulimit -u 64\nexec setpriv --reuid 54321 --regid 54321 --clear-groups bash -c 'bomb() { bomb | bomb & }; bomb; sleep 1000'\n", Causes: either},
	{Name: "masks its own unit", Script: "#!/bin/bash\nsystemctl mask --now --runtime device-api.service\nsystemctl mask device-api.service\nexit 1\n", Causes: either},
	{Name: "fills the journal", Script: "#!/bin/bash\nexec yes 'the same line repeatedly, as fast as it can be written'\n", Causes: either},
	{Name: "does not stop when it is told to", Script: "#!/bin/bash\ntrap '' TERM\nwhile :; do sleep 1; done\n", Causes: either},
}

// withoutLibrary makes the program one that is linked with a library that is not
// there: true(1) of the machine, which names the C library otherwise than it is.
func withoutLibrary(dir string) (err error) {
	defer try.End(&err)
	root := try.Get(debian.Variant{}.Root(context.Background()))
	data := try.Get(os.ReadFile(filepath.Join(root, "usr/bin/true")))
	was, is := []byte("\x00libc.so.6\x00"), []byte("\x00gone.so.6\x00")
	if bytes.Count(data, was) != 1 {
		return errors.New("true(1) does not name the C library once")
	}
	return os.WriteFile(filepath.Join(dir, program), bytes.Replace(data, was, is, 1), 0o755)
}

// EatsMemory installs a version that eats all the memory that its unit may have,
// for which a real kernel is needed: it is killed for that, repeatedly, and
// rolled back. The device runs 1.0.0, its factory version.
func EatsMemory(ctx context.Context, d *machine.Device) {
	try.Check(d.WriteFile(ctx, "/run/systemd/system/device-api.service.d/99-limit.conf", 0o644, []byte("[Service]\nMemoryMax=48M\n")))
	try.Get(d.Must(ctx, "systemctl", "daemon-reload"))
	eats := machine.Version{Name: "1.1.0", Release: 2, Script: "#!/bin/bash\nexec tail /dev/zero\n"}
	try.Check(d.Installs(ctx, eats, bootcheck.ExitRolledBack))
	try.Check(d.Reach(ctx, machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}))
	s := try.Get(d.Status(ctx))
	l := s.LastRollback
	if l == nil || l.From != "1.1.0" || !slices.Contains(either, l.Cause) || !isBlocked(s, "1.1.0") {
		try.Failf("the rollback recorded is %+v, want one from 1.1.0, which is blocked", l)
	}
	// Where it takes long to be killed, the deadline comes before the start limit.
	if text := l.Output + strings.Join(l.Journal, "\n"); !strings.Contains(text, "oom-kill") {
		try.Failf("the evidence does not say that it was killed for want of memory:\n%s", text)
	}
}

// foreign makes the ELF file name one for a processor of which there is no test
// machine: e_machine, elf(5).
func foreign(name string) (err error) {
	defer try.End(&err)
	data := try.Get(os.ReadFile(name))
	data[18], data[19] = byte(elf.EM_RISCV), 0
	return os.WriteFile(name, data, 0o755)
}

// RollsBack installs a version that is bad in the way of b, the n-th on this
// device, on which Start has been: it runs 1.1.0 or, after a rollback to factory,
// 1.0.0. It gets no help. It says what was blamed.
func RollsBack(ctx context.Context, d *machine.Device, n int, b Bad) (blamed string) {
	defer try.Say("a version that %s (previous too: %v)", b.Name, b.PreviousToo)
	stable := max(b.Stable, d.Limits.Stable)
	try.Check(d.Configure(ctx, stable, max(d.Limits.Deadline, stable+10*time.Second)))
	before := try.Get(d.Status(ctx))
	factory := try.Get(d.Tree(ctx, "1.0.0"))
	want := machine.Want{Current: before.Current, Previous: before.Previous, Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
	bad := machine.Version{Name: fmt.Sprintf("2.0.%d", n), Release: int64(10 + n), Behave: b.Behave, Script: b.Script, Spoil: b.Spoil}
	if b.PreviousToo {
		previous := previousFails
		if slices.Equal(b.Causes, unhealthy) {
			previous = previousExits
		}
		worsen(ctx, d, bad, previous)
		want = machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}
		if previous.Name != "1.1.0" && !isBlocked(before, "1.1.0") {
			want.Previous = "1.1.0" // it was confirmed, and nothing is known against it
		}
	} else {
		try.Check(d.Installs(ctx, bad, bootcheck.ExitRolledBack))
	}
	try.Check(d.Reach(ctx, want))
	now := try.Get(d.Status(ctx))
	l := now.LastRollback
	if !b.PreviousToo {
		if l == nil || l.From != bad.Name || l.To != before.Current || !slices.Contains(b.Causes, l.Cause) || l.Check == "" {
			try.Failf("the rollback recorded is %+v, want one from %s for one of %v", l, bad.Name, b.Causes)
		}
	} else if l == nil || l.To != "1.0.0" || l.Level != bootcheck.LevelFactory {
		try.Failf("the rollback recorded is %+v, want one to factory", l)
	}
	if !isBlocked(now, bad.Name) {
		try.Failf("%s is not blocked", bad.Name)
	}
	factoryIs(ctx, d, factory)
	first, _, _ := strings.Cut(l.Output, "\n")
	return fmt.Sprintf("%s, %s: %s (%d lines of the journal)", l.Cause, l.Check, first, len(l.Journal))
}

func isBlocked(s *bootcheck.Status, version string) bool {
	return slices.ContainsFunc(s.Blocked, func(b bootcheck.Blocked) bool { return b.Version == version })
}

// What previous is when it turns bad, too: not in the way of the new version, or
// it would be the environment.
var (
	previousFails = v11
	previousExits = machine.Version{Name: "1.1.1", Release: 3, Behave: deviceapi.Config{BadIfExists: sick, BadBehave: deviceapi.Exit}}
)

// worsen lets previous run, installs bad over it and lets previous turn bad while
// bad is current.
func worsen(ctx context.Context, d *machine.Device, bad, previous machine.Version) {
	try.Get(d.Must(ctx, "rm", "-f", sick))
	s := try.Get(d.Status(ctx))
	if s.Current != previous.Name {
		// It may have been left here before.
		try.Check(d.Installs(ctx, previous, bootcheck.ExitDone, "--force", "--allow-downgrade"))
	}
	install := d.Begin(ctx, bad)
	try.Check(d.Wait(ctx, bad.Name+" to be current", func(s *bootcheck.Status) bool {
		return s.Current == bad.Name || s.LastRollback != nil && s.LastRollback.From == bad.Name
	}))
	try.Check(d.WriteFile(ctx, sick, 0o644, nil))
	<-install.Ended
	try.Check(install.Err)
}
