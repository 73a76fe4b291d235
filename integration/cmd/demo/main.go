// Command demo tells the story of one device in a virtual machine: it takes a
// good update, survives a bad one, survives power cuts, and survives two bad
// versions. `make demo` runs it. Everything in it is real but the disk: kernel,
// systemd, programs, units. Nothing of the host is touched.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/deviceapi"
	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// story prints one line an event, with the seconds since the beginning.
type story struct {
	begun time.Time
	d     *machine.Device
}

func (s *story) tell(format string, args ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
}

func chapter(title string) { fmt.Printf("\n          %s\n", title) }

func run(ctx context.Context) error {
	if missing := vm.Missing(); len(missing) > 0 {
		return fmt.Errorf("missing: apt-get install %s", strings.Join(missing, " "))
	}
	s := &story{begun: time.Now()}
	fmt.Println("One device, in a virtual machine: a real kernel, a real systemd, a disk that loses what was not synced.")
	s.tell("building the programs and a Debian 12 machine (the first time: about a minute)")
	overlay, err := machine.DeviceOverlay(ctx)
	if err != nil {
		return err
	}
	m, err := vm.Start(ctx, vm.Options{Overlay: overlay})
	if err != nil {
		return err
	}
	defer m.Stop()
	if s.d, err = machine.NewDevice(ctx, m, machine.Slow); err != nil {
		return err
	}
	s.tell("the device runs; no version is installed yet")
	for _, chapter := range []func(context.Context) error{s.goodUpdate, s.badUpdate, s.powerCuts, s.bothBad} {
		if err := chapter(ctx); err != nil {
			return fmt.Errorf("%w\n\nthe end of the machine's log:\n%s", err, tail(m.Log(), 40))
		}
	}
	fmt.Println()
	s.tell("done: nobody touched the device, and it always came up with a whole version")
	return nil
}

func (s *story) goodUpdate(ctx context.Context) error {
	chapter("A good update")
	if err := s.d.Factory(ctx, machine.Version{Name: "1.0.0", Release: 1}); err != nil {
		return err
	}
	s.tell("1.0.0 installed, proved itself, is the factory version (read-only) from now on")
	if err := s.install(ctx, machine.Version{Name: "1.1.0", Release: 2, Behave: deviceapi.Config{BadIfExists: sick, BadBehave: deviceapi.Health500}}, bootcheck.ExitDone); err != nil {
		return err
	}
	if err := s.d.Reboot(ctx); err != nil {
		return err
	}
	return s.reach(ctx, "after a reboot", machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed})
}

const sick = "/data/sick"

func (s *story) badUpdate(ctx context.Context) error {
	chapter("A bad update: 1.2.0 exits at start")
	bad := machine.Version{Name: "1.2.0", Release: 3, Behave: deviceapi.Config{Behave: deviceapi.Exit}}
	if err := s.install(ctx, bad, bootcheck.ExitRolledBack); err != nil {
		return err
	}
	if err := s.reach(ctx, "in the same boot", machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_PREVIOUS"}); err != nil {
		return err
	}
	s.tell("device-api was told: ROLLED_BACK_TO_PREVIOUS")
	return s.install(ctx, bad, bootcheck.ExitRefused)
}

func (s *story) powerCuts(ctx context.Context) error {
	chapter("A bad update and a bad day: 1.3.0 answers 500, and the power fails before anybody can judge it")
	if err := s.d.Configure(ctx, s.d.Limits.Stable, time.Hour); err != nil {
		return err
	}
	// Three power cuts are enough to show it: a device allows six.
	if _, err := s.d.Must(ctx, "sed", "-i", `s/^\[trial\]$/&\nunclean = 3/`, machine.Etc+"/ota.toml"); err != nil {
		return err
	}
	url, err := s.d.Offer(ctx, machine.Version{Name: "1.3.0", Release: 4, Behave: deviceapi.Config{Behave: deviceapi.Health500}})
	if err != nil {
		return err
	}
	go s.d.Exec(ctx, "ota-apply", "install", url) // dies with the power
	if err := s.wait(ctx, "1.3.0 to be current", func(st *bootcheck.Status) bool { return st.Current == "1.3.0" && st.Operation.Stage == "rebooting" }); err != nil {
		return err
	}
	s.tell("1.3.0 is current, on trial: the power is cut")
	for boot := 1; boot <= 2; boot++ {
		if err := s.d.PowerCut(ctx); err != nil {
			return err
		}
		if err := s.wait(ctx, "the boot to be counted", func(st *bootcheck.Status) bool { return st.Trial.Attempts() == boot }); err != nil {
			return err
		}
		s.tell("boot %d: counted before it starts 1.3.0; no verdict: the power is cut", boot)
	}
	if err := s.d.PowerCut(ctx); err != nil {
		return err
	}
	if err := s.reach(ctx, "boot 3: the third strike", machine.Want{Current: "1.1.0", Previous: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed}); err != nil {
		return err
	}
	return s.d.Configure(ctx, s.d.Limits.Stable, s.d.Limits.Deadline)
}

func (s *story) bothBad(ctx context.Context) error {
	chapter("Two bad versions: 1.4.0 exits at start, and 1.1.0 no longer works either")
	url, err := s.d.Offer(ctx, machine.Version{Name: "1.4.0", Release: 5, Behave: deviceapi.Config{Behave: deviceapi.Exit}})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := s.d.Exec(ctx, "ota-apply", "install", url)
		ended <- err
	}()
	if err := s.wait(ctx, "1.4.0 to be current", func(st *bootcheck.Status) bool { return st.Current == "1.4.0" }); err != nil {
		return err
	}
	s.tell("1.4.0 is current, on trial")
	if err := s.d.WriteFile(ctx, sick, 0o644, nil); err != nil {
		return err
	}
	if err := s.wait(ctx, "1.1.0 to run again", func(st *bootcheck.Status) bool { return st.Current == "1.1.0" }); err != nil {
		return err
	}
	s.tell("1.4.0 crashed again and again: back to 1.1.0, which is on trial itself")
	if err := s.reach(ctx, "1.1.0 fails another check", machine.Want{Current: "1.0.0", Factory: "1.0.0", Phase: bootcheck.PhaseConfirmed, Told: "ROLLED_BACK_TO_FACTORY"}); err != nil {
		return err
	}
	s.tell("device-api was told: ROLLED_BACK_TO_FACTORY")
	if _, err := s.d.Must(ctx, "ota-guardian", "factory", "verify"); err != nil {
		return err
	}
	s.tell("every byte of the factory version is what it was")
	return <-ended
}

// install installs v and tells how it ended, which must be with code.
func (s *story) install(ctx context.Context, v machine.Version, code bootcheck.ExitCode) error {
	r, err := s.d.Install(ctx, v)
	if err != nil {
		return err
	}
	if r.Code != int(code) {
		return fmt.Errorf("ota-apply install %s: %s; want exit %d", v.Name, r, code)
	}
	said := strings.TrimSpace(r.Stdout)
	for line := range strings.Lines(r.Stderr) {
		if text, ok := strings.CutPrefix(line, "ota-apply: "); ok && strings.HasPrefix(text, "version ") {
			said = strings.TrimSpace(text)
		}
	}
	s.tell("ota-apply install %s → exit %d: %s", v.Name, r.Code, said)
	return nil
}

// reach waits until the device is as want says and tells it.
func (s *story) reach(ctx context.Context, when string, want machine.Want) error {
	if err := s.d.Reach(ctx, want); err != nil {
		return err
	}
	s.tell("%s: %s runs, %s", when, want.Current, want.Phase)
	return nil
}

func (s *story) wait(ctx context.Context, what string, yes func(*bootcheck.Status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.d.Limits.Wait)
	defer cancel()
	return machine.Poll(ctx, what, func(ctx context.Context) (bool, error) {
		st, err := s.d.Status(ctx)
		return err == nil && yes(st), err
	})
}

func tail(log string, lines int) string {
	all := strings.Split(strings.TrimRight(log, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
