// Command demo tells the story of one device in a virtual machine: it takes a
// good update, survives a bad one, survives power cuts, and survives two bad
// versions. `make demo` runs it. Everything in it is real but the disk: kernel,
// systemd, programs, units. Nothing of the host is touched.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/try"
)

// out is where the story goes: the terminal, and the recording, if one is made.
var out io.Writer = os.Stdout

func main() {
	file := flag.String("cast", "", "record the story as an animated picture, `FILE.svg`")
	flag.Parse()
	var recording cast
	if *file != "" {
		out = io.MultiWriter(os.Stdout, &recording)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	err := run(ctx)
	if err == nil && *file != "" {
		err = recording.save(*file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// story prints one line an event, with the seconds since the beginning, and each
// command with what it printed.
type story struct {
	begun time.Time
	d     *machine.Device

	mu      sync.Mutex
	printed time.Time // the last line
	doing   string    // what is waited for
}

func (s *story) print(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.printed = time.Now()
	fmt.Fprintf(out, format, args...)
}

func (s *story) tell(format string, args ...any) {
	s.print("%6.1f s  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) chapter(title string) { s.print("\n          %s\n", title) }

// beat says what is waited for whenever nothing was printed for a while, until stopped.
func (s *story) beat() (stop func()) {
	const quiet = 8 * time.Second
	ticker, done := time.NewTicker(time.Second), make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			s.mu.Lock()
			if time.Since(s.printed) >= quiet {
				fmt.Fprintf(out, "%6.1f s  … %s\n", time.Since(s.begun).Seconds(), s.doing)
				s.printed = time.Now()
			}
			s.mu.Unlock()
		}
	}()
	return func() { ticker.Stop(); close(done) }
}

// waitsFor names what is waited for from now on.
func (s *story) waitsFor(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doing = fmt.Sprintf(format, args...)
}

// sh runs a command on the device and shows it with what it printed: its end, if that
// is long.
func (s *story) sh(ctx context.Context, argv ...string) machine.Result {
	s.waitsFor("%s runs", argv[0])
	r := try.Get(s.d.Exec(ctx, argv...))
	const lines, width = 16, 110
	all := strings.Split(strings.TrimRight(r.Stdout+r.Stderr, "\n"), "\n")
	s.print("          $ %s\n", strings.Join(argv, " "))
	if len(all) > lines {
		s.print("            … %d lines more\n", len(all)-lines)
		all = all[len(all)-lines:]
	}
	for _, line := range all {
		if line = strings.TrimRight(line, " \r"); len([]rune(line)) > width {
			line = string([]rune(line)[:width-1]) + "…"
		}
		if line != "" {
			s.print("            %s\n", line)
		}
	}
	return r
}

// must is sh of a command that has to succeed.
func (s *story) must(ctx context.Context, argv ...string) {
	if r := s.sh(ctx, argv...); r.Code != 0 {
		try.Failf("%s: %s", strings.Join(argv, " "), r)
	}
}

func run(ctx context.Context) (err error) {
	defer try.End(&err)
	if missing := vm.Missing(debian.AMD64); len(missing) > 0 {
		return fmt.Errorf("missing: apt-get install %s", strings.Join(missing, " "))
	}
	s := &story{begun: time.Now(), printed: time.Now()}
	defer s.beat()()
	fmt.Fprintln(out, "One device, in a virtual machine: a real kernel, a real systemd, a disk that loses what was not synced.")
	s.tell("building the programs and a Debian 12 machine (the first time: about a minute)")
	s.waitsFor("Debian's packages are fetched and unpacked, the programs are compiled")
	overlay := try.Get(machine.DeviceOverlay())
	s.tell("the machine starts")
	s.waitsFor("the machine boots; its processor is emulated")
	m := try.Get(vm.Start(ctx, vm.Options{Overlay: overlay}))
	defer m.Stop()
	s.d = try.Get(machine.NewDevice(ctx, m, machine.Slow))
	s.tell("the device runs; no version is installed yet")
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n\nthe end of the machine's log:\n%s", err, tail(m.Log(), 40))
		}
	}()
	defer try.End(&err)
	s.goodUpdate(ctx)
	s.badUpdate(ctx)
	s.powerCuts(ctx)
	s.bothBad(ctx)
	s.chapter("What the device says of all this")
	s.must(ctx, "ota-guardian", "status")
	s.must(ctx, "ota-guardian", "history")
	s.print("\n")
	s.tell("done: the device always came up with an intact version, without help")
	s.print(`
Next:  docs/DEPLOYMENT.md   puts this on a device of yours, command by command
       make shell           gives a prompt on such a device, to try more of it
       docs/ROLLBACK.md     says when a device rolls back, and what happens then
       make check           runs the tests, in 12 minutes
`)
	return nil
}

func (s *story) goodUpdate(ctx context.Context) {
	s.chapter("A good update")
	s.install(ctx, machine.Version{Name: "1.0.0", Release: 1}, bootcheck.ExitDone)
	s.must(ctx, "ota-guardian", "factory", "create")
	s.tell("1.0.0 was confirmed, and is the factory version (read-only) from now on")
	s.install(ctx, machine.Version{Name: "1.1.0", Release: 2, Behave: deviceapi.Config{BadIfExists: sick, BadBehave: deviceapi.Health500}}, bootcheck.ExitDone)
	s.waitsFor("the machine reboots")
	try.Check(s.d.Reboot(ctx))
	s.reach(ctx, "after a reboot", machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed})
}

const sick = "/data/sick"

func (s *story) badUpdate(ctx context.Context) {
	s.chapter("A bad update: 1.2.0 exits at start")
	bad := machine.Version{Name: "1.2.0", Release: 3, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
	s.install(ctx, bad, bootcheck.ExitRolledBack)
	s.reach(ctx, "in the same boot", machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"})
	s.tell("device-api was told: ROLLED_BACK_TO_PREVIOUS")
	s.install(ctx, bad, bootcheck.ExitRefused)
}

func (s *story) powerCuts(ctx context.Context) {
	s.chapter("A bad update and a bad day: 1.3.0 answers 500, and the power fails before it is confirmed")
	// A device allows six.
	s.tell("a device rolls back at the sixth power cut; this one is set to the third (unclean = 3), as you wait")
	try.Check(s.d.Configure(ctx, s.d.Limits.Stable, time.Hour, "unclean = 3"))
	s.d.Begin(ctx, machine.Version{Name: "1.3.0", Release: 4, Behave: deviceapi.Config{Behave: deviceapi.Health500}}) // dies with the power
	s.wait(ctx, "1.3.0 to be current", func(st *bootcheck.Status) bool { return st.Current == "1.3.0" && st.Operation.Stage == "rebooting" })
	s.tell("1.3.0 is current, on trial: the power is cut")
	for boot := 1; boot <= 2; boot++ {
		s.waitsFor("the machine boots after the power cut")
		try.Check(s.d.PowerCut(ctx))
		s.wait(ctx, "the boot to be counted", func(st *bootcheck.Status) bool { return st.Trial.Attempts() == boot })
		s.tell("boot %d: counted before 1.3.0 starts; unconfirmed: the power is cut", boot)
	}
	try.Check(s.d.PowerCut(ctx))
	s.reach(ctx, "boot 3: power cut 3 of 3", machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed})
	s.must(ctx, "ota-guardian", "status")
}

func (s *story) bothBad(ctx context.Context) {
	s.chapter("Two bad versions: 1.4.0 exits at start, and 1.1.0 no longer works either")
	const deadline = 20 * time.Second // 6 to 7 times what a good version takes to be confirmed here
	s.tell("a device gives a version 10 minutes to be healthy; this one is set to %v (deadline), as you wait", deadline)
	try.Check(s.d.Configure(ctx, s.d.Limits.Stable, deadline))
	install := s.d.Begin(ctx, machine.Version{Name: "1.4.0", Release: 5, Behave: deviceapi.Config{Behave: deviceapi.Exit}})
	s.wait(ctx, "1.4.0 to be current", func(st *bootcheck.Status) bool { return st.Current == "1.4.0" })
	s.tell("1.4.0 is current, on trial")
	try.Check(s.d.WriteFile(ctx, sick, 0o644, nil))
	s.wait(ctx, "1.1.0 to run again", func(st *bootcheck.Status) bool { return st.Current == "1.1.0" })
	s.tell("1.4.0 crash-looped: back to 1.1.0, which is on trial itself")
	s.reach(ctx, "1.1.0 fails another check", machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_FACTORY"})
	s.tell("device-api was told: ROLLED_BACK_TO_FACTORY")
	s.must(ctx, "ota-guardian", "factory", "verify")
	<-install.Ended
	try.Check(install.Err)
}

// install installs v, which must end with code.
func (s *story) install(ctx context.Context, v machine.Version, code bootcheck.ExitCode) {
	r := s.sh(ctx, "ota-apply", "install", try.Get(s.d.Offer(ctx, v)))
	if r.Code != int(code) {
		try.Failf("ota-apply install %s: %s; want exit %d", v.Name, r, code)
	}
	s.tell("exit %d", r.Code)
}

// reach waits until the device is as want says and tells it.
func (s *story) reach(ctx context.Context, when string, want machine.Want) {
	s.waitsFor("%s: waiting until %s runs", when, want.Current)
	try.Check(s.d.Reach(ctx, want))
	s.tell("%s: %s runs, %s", when, want.Current, want.Phase)
}

func (s *story) wait(ctx context.Context, what string, yes func(*bootcheck.Status) bool) {
	s.waitsFor("waiting for %s", what)
	try.Check(s.d.Wait(ctx, what, yes))
}

func tail(log string, lines int) string {
	all := strings.Split(strings.TrimRight(log, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
