package systemdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
	"github.com/tope-ota/ota/bootcheck/systemd"
	"github.com/tope-ota/ota/integration/try"
)

// guest connects to systemd; it skips the test unless this is the guest.
func guest(t *testing.T) (context.Context, *systemd.Manager) {
	t.Helper()
	if os.Getenv(guestMark) == "" {
		t.Skip("runs in the guest: see TestInContainer")
	}
	defer try.Fatal(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx, try.Get(systemd.Dial(ctx))
}

func state(t *testing.T, c *systemd.Manager, name string) systemd.Unit {
	t.Helper()
	defer try.Fatal(t)
	return try.Get(c.Unit(t.Context(), name))
}

// eventually waits until the state of a unit is as wanted.
func eventually(t *testing.T, c *systemd.Manager, name, what string, ok func(systemd.Unit) bool) systemd.Unit {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		u := state(t, c, name)
		if ok(u) {
			return u
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %s, waited for: %s", name, u, what)
		}
	}
}

func TestGuestUnit(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	if !systemd.Running() {
		t.Error("Running() = false")
	}
	if u := state(t, c, "t-none.service"); u.Load != "not-found" || u.Active != "inactive" || u.Loaded() || u.String() != "not-found" {
		t.Errorf("a unit that does not exist: %+v", u)
	}
	if u := state(t, c, "t-good.service"); !u.Loaded() || u.Active != "inactive" || u.Sub != "dead" || u.ActiveEnter != 0 || u.MainPID != 0 || u.Up() {
		t.Errorf("a unit that was never started: %+v", u)
	}
	if u := eventually(t, c, "sysinit.target", "active", systemd.Unit.Up); !u.Loaded() || u.ActiveEnter == 0 || u.Result != "" {
		t.Errorf("a target: %+v", u)
	}
	if _, err := c.Unit(ctx, "no unit name"); err == nil {
		t.Error("a name that is none: no error")
	}

	try.Check(os.Symlink("/dev/null", "/run/systemd/system/t-masked.service"))
	try.Run(exec.CommandContext(ctx, "systemctl", "daemon-reload"))
	if u := state(t, c, "t-masked.service"); u.Load != "masked" {
		t.Errorf("a masked unit: %+v", u)
	}
	if err := c.Start(ctx, "t-masked.service"); err == nil || !strings.Contains(err.Error(), "masked") {
		t.Errorf("start of a masked unit: %v", err)
	}
}

func TestGuestStartRestartStop(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const name = "t-good.service"
	try.Check(c.Start(ctx, name))
	first := state(t, c, name)
	if first.Active != "active" || first.Sub != "running" || first.Result != "success" || len(first.InvocationID) != 32 || first.Job != 0 {
		t.Errorf("after Start: %+v", first)
	}
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", first.MainPID)); err != nil || !strings.HasPrefix(string(comm), "sleep") && !strings.HasPrefix(string(comm), "(sleep") {
		t.Errorf("MainPID %d is %q, %v", first.MainPID, comm, err)
	}
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	if up := time.Duration(ts.Nano()) - first.ActiveEnter; up < 0 || up > 10*time.Second {
		t.Errorf("active for %s by CLOCK_MONOTONIC, just started", up)
	}
	if err := c.Start(ctx, name); err != nil || state(t, c, name).InvocationID != first.InvocationID {
		t.Errorf("Start of a unit that runs: %v; it must be left alone", err)
	}

	try.Check(c.Restart(ctx, name))
	second := state(t, c, name)
	if second.InvocationID == first.InvocationID || second.MainPID == first.MainPID || second.ActiveEnter <= first.ActiveEnter || second.NRestarts != 0 {
		t.Errorf("after Restart: %+v, before %+v", second, first)
	}
	try.Check(c.Stop(ctx, name))
	if u := state(t, c, name); u.Active != "inactive" || u.MainPID != 0 {
		t.Errorf("after Stop: %+v", u)
	}
	if err := c.Stop(ctx, name); err != nil {
		t.Errorf("Stop of a unit that does not run: %v", err)
	}
	try.Check(c.StartNoWait(ctx, name))
	eventually(t, c, name, "active", systemd.Unit.Up)
	try.Check(c.Stop(ctx, name))
	for _, name := range []string{"t-once.service", "t-stays.service"} {
		if err := c.Start(ctx, name); err != nil {
			t.Errorf("Start of a oneshot: %v", err)
		}
	}
	if u := state(t, c, "t-stays.service"); !u.Up() || u.Sub != "exited" {
		t.Errorf("a oneshot that stays: %+v", u)
	}
}

func TestGuestJobsThatFail(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	for _, tt := range []struct{ unit, result string }{
		{"t-exits.service", "exit-code"},
		{"t-silent.service", "timeout"},
	} {
		err := c.Start(ctx, tt.unit)
		var je *systemd.JobError
		if !errors.As(err, &je) || je.Unit != tt.unit || je.Result != "the unit failed" {
			t.Errorf("Start(%s) = %v, want a JobError", tt.unit, err)
		}
		u := state(t, c, tt.unit)
		if u.Active != "failed" || u.Result != tt.result {
			t.Errorf("%s: %+v, want result %s", tt.unit, u, tt.result)
		}
		try.Check(c.ResetFailed(ctx, tt.unit))
		if u := state(t, c, tt.unit); u.Active != "inactive" {
			t.Errorf("%s after ResetFailed: %+v", tt.unit, u)
		}
	}
	for name, f := range map[string]func(context.Context, string) error{"start": c.Start, "restart": c.Restart, "start without waiting": c.StartNoWait} {
		if err := f(ctx, "t-none.service"); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%s of a unit that does not exist: %v", name, err)
		}
	}
	for _, unit := range []string{"t-none.service", "t-good.service"} {
		if err := c.ResetFailed(ctx, unit); err != nil {
			t.Errorf("ResetFailed of %s, which did not fail: %v", unit, err)
		}
	}
}

func TestGuestContextEndsTheWaitAndNotTheJob(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const name = "t-slow.service"
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := c.Start(short, name); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 1500*time.Millisecond {
		t.Errorf("Start = %v after %s, want %v", err, time.Since(start), context.DeadlineExceeded)
	}
	if u := state(t, c, name); u.Job == 0 || u.Active != "activating" {
		t.Errorf("the job is gone: %+v", u)
	}
	eventually(t, c, name, "active", systemd.Unit.Up)
	try.Check(c.Stop(ctx, name))
}

// A job that cannot be stopped, as those of a shutdown, is why others are refused.
func TestGuestLeaving(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const name = "t-stubborn.service" // takes 2 s to stop
	try.Check(c.Start(ctx, name))
	try.Run(exec.CommandContext(ctx, "systemctl", "stop", "--no-block", "--job-mode=replace-irreversibly", name))
	if err := c.StartNoWait(ctx, name); err == nil || !systemd.Leaving(err) {
		t.Errorf("start while it is stopped for good: %v, want an error that says so", err)
	}
	eventually(t, c, name, "down", func(u systemd.Unit) bool { return u.Job == 0 && !u.Up() })
	try.Check(c.ResetFailed(ctx, name))
	if err := c.StartNoWait(ctx, "t-none.service"); err == nil || systemd.Leaving(err) {
		t.Errorf("start of a unit that does not exist: %v, want an error that is none of a shutdown", err)
	}
}

// TestGuestReexec: PID 1 replaces itself while a job, a unit and a connection are in use.
func TestGuestReexec(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const name = "t-slow.service"
	try.Check(os.WriteFile("/run/t-run", []byte("sleep 3; exit 9"), 0o600))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Restart(ctx, name); err != nil {
			t.Errorf("Restart across a daemon-reexec: %v", err)
		}
	})
	wg.Go(func() {
		if code, err := c.Run(ctx, "t-run.service"); code != 9 || err != nil {
			t.Errorf("Run across a daemon-reexec = %d, %v, want 9", code, err)
		}
	})
	eventually(t, c, "t-run.service", "running", func(u systemd.Unit) bool { return u.MainPID != 0 })
	eventually(t, c, name, "starting", func(u systemd.Unit) bool { return u.Active == "activating" })
	try.Run(exec.CommandContext(ctx, "systemctl", "daemon-reexec"))
	for range 20 {
		if u := state(t, c, name); !u.Loaded() {
			t.Errorf("after daemon-reexec: %+v", u)
		}
	}
	wg.Wait()
	if u := state(t, c, name); !u.Up() {
		t.Errorf("the restarted unit: %+v", u)
	}
	try.Check(c.Stop(ctx, name))
}

func TestGuestRun(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const name = "t-run.service"
	script := func(text string) { try.Check(os.WriteFile("/run/t-run", []byte(text), 0o600)) }
	for _, tt := range []struct {
		script string
		code   int
	}{
		{"exit 0", 0}, {"exit 1", 1}, {"exit 8", 8}, {"sleep 0.5; exit 3", 3}, {"sleep 0.5", 0},
		// Of most services these are a good end.
		{"kill -TERM $$", 143}, {"kill -INT $$", 130}, {"kill -HUP $$", 129},
		{"kill -KILL $$", 137}, {"kill -SEGV $$", 139},
	} {
		t.Run(tt.script, func(t *testing.T) {
			defer try.Fatal(t)
			script(tt.script)
			if code, err := c.Run(ctx, name); code != tt.code || err != nil {
				t.Errorf("Run = %d, %v, want %d", code, err, tt.code)
			}
			if u := state(t, c, name); u.Active != "inactive" {
				t.Errorf("the unit stays: %+v", u)
			}
		})
	}
	// One that is stopped says how it ended, if it says anything.
	for _, tt := range []struct {
		script string
		code   int
		failed bool
	}{
		{"trap 'exit 5' TERM; touch /run/t-ready; while :; do sleep 0.1; done", 5, false},
		{"trap 'exit 0' TERM; touch /run/t-ready; while :; do sleep 0.1; done", 0, true},
	} {
		script(tt.script)
		os.Remove("/run/t-ready")
		ended := make(chan error, 1)
		var code int
		go func() {
			var err error
			code, err = c.Run(ctx, name)
			ended <- err
		}()
		for {
			if _, err := os.Stat("/run/t-ready"); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		try.Check(c.Stop(ctx, name))
		err := <-ended
		if _, failed := errors.AsType[*systemd.JobError](err); failed != tt.failed || code != tt.code {
			t.Errorf("stopped while it runs %q: %d, %v, want %d", tt.script, code, err, tt.code)
		}
	}
	code, err := c.Run(ctx, "t-nothing.service")
	if _, ok := errors.AsType[*systemd.JobError](err); !ok || !strings.Contains(err.Error(), "no program") {
		t.Errorf("Run without a program = %d, %v", code, err)
	}
}

// defaults is a configuration with one service and no other check.
func defaults(stable time.Duration, service string) *config.Config {
	cfg := config.Default("/nonexistent/ota.toml")
	cfg.Checks, cfg.Services, cfg.Trial.Stable = nil, []string{service}, stable
	return cfg
}

func TestGuestHealth(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const deadline = 3 * time.Second
	watch := func(unit string, stable, deadline time.Duration) (health.Outcome, time.Duration) {
		checks := health.All(defaults(stable, unit), health.Env{Units: c})
		start := time.Now()
		v := try.Get(health.Watch{Checks: checks, Stable: stable, Deadline: deadline}.Run(ctx))
		return v, time.Since(start)
	}
	try.Check(c.Start(ctx, "t-good.service"))
	if v, took := watch("t-good.service", 2*time.Second, deadline); !v.Good || took < 2*time.Second {
		t.Errorf("a good unit: %+v after %s", v, took)
	}
	try.Check(c.Stop(ctx, "t-good.service"))
	if v, took := watch("t-good.service", time.Second, deadline); v.Good || took < deadline || v.Failing.Why != "t-good.service is inactive (dead)" {
		t.Errorf("a unit that was stopped: %+v after %s", v, took)
	}

	try.Check(c.Start(ctx, "t-flaps.service"))
	eventually(t, c, "t-flaps.service", "restarted", func(u systemd.Unit) bool { return u.NRestarts > 0 })
	up := 0
	for range 50 {
		if state(t, c, "t-flaps.service").Up() {
			up++
		}
		time.Sleep(10 * time.Millisecond)
	}
	if v, took := watch("t-flaps.service", 2*time.Second, deadline); v.Good || took < deadline || !strings.Contains(v.Failing.Why, "restarted") && !strings.Contains(v.Failing.Why, "crashed") {
		t.Errorf("a unit that flaps (active in %d of 50 looks): %+v after %s", up, v, took)
	}
	try.Check(c.Stop(ctx, "t-flaps.service"))

	// The test's own context ends long before this deadline.
	try.Check(c.StartNoWait(ctx, "t-limit.service"))
	if v, _ := watch("t-limit.service", time.Minute, time.Hour); v.Good || !v.Failing.Final ||
		!strings.Contains(v.Failing.Why, "failed (failed)") || v.Failing.Check != "t-limit runs" {
		t.Errorf("a unit that hits its start limit: %+v, want an end without the deadline", v)
	}
	try.Check(c.ResetFailed(ctx, "t-limit.service"))
}

// TestGuestAsNobody: without root there is only the system bus, which lets a user look and
// change nothing.
func TestGuestAsNobody(t *testing.T) {
	guest(t)
	cmd := exec.CommandContext(t.Context(), guestBinary, "-test.v", "-test.run", "^TestNobody$")
	cmd.Env = append(os.Environ(), guestMark+"=nobody")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNobody(t *testing.T) {
	if os.Getenv(guestMark) != "nobody" {
		t.Skip("run by TestGuestAsNobody")
	}
	ctx, c := guest(t)
	if u := state(t, c, "sysinit.target"); u.Active != "active" {
		t.Errorf("got %+v", u)
	}
	if err := c.Start(ctx, "t-once.service"); err == nil {
		t.Error("another user may start units")
	}
}

func TestReboot(t *testing.T) {
	if os.Getenv(guestMark) != "reboot" {
		t.Skip("run by TestInContainer")
	}
	ctx, c := guest(t)
	if err := c.Reboot(ctx); err != nil {
		t.Error(err)
	}
}
