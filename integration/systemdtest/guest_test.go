package systemdtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
func guest(t *testing.T) (context.Context, *systemd.Conn) {
	t.Helper()
	if os.Getenv(guestMark) == "" {
		t.Skip("runs in the guest: see TestInContainer")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c, err := systemd.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return ctx, c
}

func state(t *testing.T, c *systemd.Conn, name string) systemd.Unit {
	t.Helper()
	u, err := c.Unit(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// eventually waits until the state of a unit is as wanted.
func eventually(t *testing.T, c *systemd.Conn, name, what string, ok func(systemd.Unit) bool) systemd.Unit {
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
	try.Check(c.DaemonReload(ctx))
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
	try.Check(c.RestartNoWait(ctx, name))
	eventually(t, c, name, "another run", func(u systemd.Unit) bool { return u.Active == "active" && u.InvocationID != second.InvocationID })

	try.Check(c.Stop(ctx, name))
	if u := state(t, c, name); u.Active != "inactive" || u.MainPID != 0 {
		t.Errorf("after Stop: %+v", u)
	}
	if err := c.Stop(ctx, name); err != nil {
		t.Errorf("Stop of a unit that does not run: %v", err)
	}
	try.Check(c.StartNoWait(ctx, name))
	eventually(t, c, name, "active", systemd.Unit.Up)
	if err := c.Stop(ctx, name); err != nil {
		t.Error(err)
	}
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
	ctx, c := guest(t)
	for _, tt := range []struct{ unit, result string }{
		{"t-exits.service", "exit-code"},
		{"t-silent.service", "timeout"},
	} {
		err := c.Start(ctx, tt.unit)
		var je *systemd.JobError
		if !errors.As(err, &je) || je.Unit != tt.unit || !strings.Contains(err.Error(), `"failed"`) {
			t.Errorf("Start(%s) = %v, want a JobError", tt.unit, err)
		}
		u := state(t, c, tt.unit)
		if u.Active != "failed" || u.Result != tt.result {
			t.Errorf("%s: %+v, want result %s", tt.unit, u, tt.result)
		}
		if err := c.ResetFailed(ctx, tt.unit); err != nil {
			t.Error(err)
		}
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
	if err := c.Stop(ctx, name); err != nil {
		t.Error(err)
	}
}

// A job that cannot be taken back, as those of a shutdown, is why others are refused.
func TestGuestLeaving(t *testing.T) {
	ctx, c := guest(t)
	const name = "t-stubborn.service" // takes 2 s to stop
	if err := c.Start(ctx, name); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "stop", "--no-block", "--job-mode=replace-irreversibly", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := c.StartNoWait(ctx, name); err == nil || !systemd.Leaving(err) {
		t.Errorf("start while it is stopped for good: %v, want an error that says so", err)
	}
	eventually(t, c, name, "down", func(u systemd.Unit) bool { return u.Job == 0 && !u.Up() })
	if err := c.ResetFailed(ctx, name); err != nil {
		t.Error(err)
	}
	if err := c.StartNoWait(ctx, "t-none.service"); err == nil || systemd.Leaving(err) {
		t.Errorf("start of a unit that does not exist: %v, want an error that is none of a shutdown", err)
	}
}

// TestGuestReexec: PID 1 replaces itself while a job, a unit and a connection are in use.
func TestGuestReexec(t *testing.T) {
	ctx, c := guest(t)
	const name = "t-slow.service"
	if err := c.RunTransient(ctx, "t-reexec.service", []string{"/bin/sh", "-c", "sleep 3; exit 9"}, systemd.Transient{}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Restart(ctx, name); err != nil {
			t.Errorf("Restart across a daemon-reexec: %v", err)
		}
	})
	wg.Go(func() {
		if code, err := c.WaitUnit(ctx, "t-reexec.service"); code != 9 || err != nil {
			t.Errorf("WaitUnit across a daemon-reexec = %d, %v, want 9", code, err)
		}
	})
	eventually(t, c, name, "starting", func(u systemd.Unit) bool { return u.Active == "activating" })
	if out, err := exec.CommandContext(ctx, "systemctl", "daemon-reexec").CombinedOutput(); err != nil {
		t.Errorf("daemon-reexec: %v, %s", err, out)
	}
	for range 20 {
		if u := state(t, c, name); !u.Loaded() {
			t.Errorf("after daemon-reexec: %+v", u)
		}
	}
	wg.Wait()
	if u := state(t, c, name); !u.Up() {
		t.Errorf("the restarted unit: %+v", u)
	}
	if err := c.Stop(ctx, name); err != nil {
		t.Error(err)
	}
}

func TestGuestTransientOutput(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const name = "t-output.service"
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errFile := try.Get(os.Create(filepath.Join(t.TempDir(), "stderr")))
	argv := []string{"/bin/sh", "-c", `printf '<%s>' "$@" "$FOO" "$BAR" $0; grep ^0:: /proc/self/cgroup; echo problem >&2; readlink /proc/self/fd/0 >&2`,
		"zero", "a b", "$FOO ${FOO} $$", "%n %% %i", `\x41 "q" 'q'`, "", "https://h/x?a=$1&b=2;c"}
	try.Check(c.RunTransient(ctx, name, argv, systemd.Transient{Description: "A test of 100 % output", Env: []string{"FOO=f o$o", "BAR=%n"}, Stdout: outW, Stderr: errFile}))
	// Ours are closed: what we read comes from the unit, and ends with it.
	outW.Close()
	outR.SetReadDeadline(time.Now().Add(30 * time.Second))
	got := try.Get(io.ReadAll(outR))
	want := `<a b><$FOO ${FOO} $$><%n %% %i><\x41 "q" 'q'><><https://h/x?a=$1&b=2;c><f o$o><%n><zero>`
	if first, rest, _ := strings.Cut(string(got), "0::"); first != want || strings.TrimSpace(rest) != "/system.slice/"+name {
		t.Errorf("output\n%s\nwant\n%s0::/system.slice/%s", got, want, name)
	}
	if code, err := c.WaitUnit(ctx, name); code != 0 || err != nil {
		t.Errorf("WaitUnit = %d, %v", code, err)
	}
	if got, err := os.ReadFile(errFile.Name()); string(got) != "problem\n/dev/null\n" || err != nil {
		t.Errorf("standard error %q, %v", got, err)
	}
	// The original files were not touched by the passing.
	if flags, err := unix.FcntlInt(outR.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE != unix.O_RDONLY {
		t.Errorf("flags %#x, %v", flags, err)
	}
	if u := state(t, c, name); u.Load != "not-found" {
		t.Errorf("the unit stays after WaitUnit: %+v", u)
	}
}

func TestGuestTransientFilesAreNotLeaked(t *testing.T) {
	ctx, c := guest(t)
	count := func() int {
		runtime.GC() // closes what earlier tests forgot
		e, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(e)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := count()
	for i := range 10 {
		argv := []string{"/bin/true"}
		if i%2 == 1 {
			argv = []string{"/proc/none"}
		}
		if err := c.RunTransient(ctx, "t-leak.service", argv, systemd.Transient{Stdout: null, Stderr: null}); err != nil {
			t.Fatalf("%s: %v", argv, err)
		}
		if _, err := c.WaitUnit(ctx, "t-leak.service"); (err == nil) != (i%2 == 0) {
			t.Fatalf("%s: WaitUnit: %v", argv, err)
		}
	}
	if err := c.RunTransient(ctx, "t-leak.service", []string{"relative"}, systemd.Transient{Stdout: null}); err == nil {
		t.Fatal("a relative path was taken")
	}
	if after := count(); after > before {
		t.Errorf("%d open files, before %d", after, before)
	}
}

func TestGuestWaitUnitCodes(t *testing.T) {
	ctx, c := guest(t)
	for _, tt := range []struct {
		script string
		code   int
	}{
		{"exit 0", 0}, {"exit 1", 1}, {"exit 8", 8}, {"exit 255", 255}, {"sleep 0.5; exit 3", 3}, {"sleep 0.5", 0},
		// Of most services these are a good end.
		{"kill -TERM $$", 143}, {"kill -INT $$", 130}, {"kill -HUP $$", 129},
		{"kill -KILL $$", 137}, {"kill -SEGV $$", 139},
	} {
		t.Run(tt.script, func(t *testing.T) {
			const name = "t-code.service"
			if err := c.RunTransient(ctx, name, []string{"/bin/sh", "-c", tt.script}, systemd.Transient{}); err != nil {
				t.Fatal(err)
			}
			if code, err := c.WaitUnit(ctx, name); code != tt.code || err != nil {
				t.Errorf("WaitUnit = %d, %v, want %d", code, err, tt.code)
			}
			if u := state(t, c, name); u.Load != "not-found" {
				t.Errorf("the unit stays: %+v", u)
			}
		})
	}
}

func TestGuestTransientNameInUse(t *testing.T) {
	defer try.Fatal(t)
	ctx, c := guest(t)
	const name = "t-name.service"
	run := func(script string) error {
		return c.RunTransient(ctx, name, []string{"/bin/sh", "-c", script}, systemd.Transient{})
	}
	try.Check(run("sleep 1000"))
	pid := eventually(t, c, name, "running", func(u systemd.Unit) bool { return u.MainPID != 0 }).MainPID
	if err := run("exit 5"); !errors.Is(err, systemd.ErrExists) {
		t.Errorf("while one runs: %v, want %v", err, systemd.ErrExists)
	}
	if u := state(t, c, name); u.MainPID != pid {
		t.Errorf("the one that runs was disturbed: %+v", u)
	}
	// Another process can wait, and learns that it was stopped from outside.
	other := try.Get(systemd.Dial(ctx))
	defer other.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- c.Stop(ctx, name) }()
	if code, err := other.WaitUnit(ctx, name); code != 143 || err != nil {
		t.Errorf("stopped from outside: %d, %v, want 143", code, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	third := try.Get(systemd.Dial(ctx))
	defer third.Close()
	if code, err := third.WaitUnit(ctx, name); !errors.Is(err, systemd.ErrGone) {
		t.Errorf("who has not seen the unit: %d, %v, want %v", code, err, systemd.ErrGone)
	}
	// Stopped before it was executed: that is no good end. The unit that it is
	// ordered after never becomes active.
	try.Check(c.StartNoWait(ctx, "t-silent.service"))
	after := []systemd.Property{{Name: "After", Value: []string{"t-silent.service"}}}
	try.Check(c.RunTransient(ctx, name, []string{"/bin/true"}, systemd.Transient{Properties: after}))
	if err := c.Stop(ctx, name); err != nil {
		t.Error(err)
	}
	var je *systemd.JobError
	if code, err := c.WaitUnit(ctx, name); !errors.As(err, &je) || !strings.Contains(je.Result, "canceled") {
		t.Errorf("stopped before it ran: %d, %v, want a JobError", code, err)
	}
	eventually(t, c, "t-silent.service", "failed", func(u systemd.Unit) bool { return u.Active == "failed" })
	if err := c.ResetFailed(ctx, "t-silent.service"); err != nil {
		t.Error(err)
	}
	// Failed leftovers that nobody asked for make room.
	for _, left := range []string{"exit 4", "kill -KILL $$"} {
		if err := run(left); err != nil {
			t.Fatalf("%q: %v", left, err)
		}
		eventually(t, c, name, "the end of "+left, func(u systemd.Unit) bool { return u.Active == "failed" })
	}
	try.Check(run("exit 6"))
	if code, err := c.WaitUnit(ctx, name); code != 6 || err != nil {
		t.Errorf("WaitUnit = %d, %v, want 6", code, err)
	}
	// A unit with a file of its own is not replaced.
	if err := c.RunTransient(ctx, "t-good.service", []string{"/bin/true"}, systemd.Transient{}); err == nil {
		t.Error("a unit that has a file was replaced")
	}
}

func TestGuestTransientThatCannotStart(t *testing.T) {
	ctx, c := guest(t)
	const name = "t-cannot.service"
	for _, tt := range []struct {
		argv  []string
		props []systemd.Property
		want  string
	}{
		{[]string{"/proc/none"}, nil, "203: no program"},
		{[]string{"/etc/passwd"}, nil, "203: no program"},
		{[]string{"/bin/true"}, []systemd.Property{{Name: "WorkingDirectory", Value: "/proc/none"}}, "200: its working directory"},
		{[]string{"relative"}, nil, "absolute path"},
		{nil, nil, "absolute path"},
		{[]string{"/bin/true"}, []systemd.Property{{Name: "NoSuchProperty", Value: true}}, "NoSuchProperty"},
	} {
		err := c.RunTransient(ctx, name, tt.argv, systemd.Transient{Properties: tt.props})
		if err == nil {
			_, err = c.WaitUnit(ctx, name)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q, %v: %v, want an error about %q", tt.argv, tt.props, err, tt.want)
		}
		if u := eventually(t, c, name, "nothing", func(u systemd.Unit) bool { return u.Load == "not-found" }); u.Active != "inactive" {
			t.Errorf("%q left %+v", tt.argv, u)
		}
	}
}

// TestGuestTransientProperties passes one property of every type that a sandbox needs, and sees
// that it holds.
func TestGuestTransientProperties(t *testing.T) {
	ctx, c := guest(t)
	const name = "t-sandbox.service"
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	script := `touch /run/t-sandbox /data/t-sandbox; cat /proc/self/oom_score_adj; grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; chroot / true || echo chroot $?; umask`
	err = c.RunTransient(ctx, name, []string{"/bin/sh", "-c", script + " 2>&1"}, systemd.Transient{
		Stdout: w, Stderr: w,
		Properties: []systemd.Property{
			{Name: "ProtectSystem", Value: "strict"},
			{Name: "ReadWritePaths", Value: []string{"/data"}},
			{Name: "NoNewPrivileges", Value: true},
			{Name: "CapabilityBoundingSet", Value: uint64(1 << 1)}, // CAP_DAC_OVERRIDE
			{Name: "OOMScoreAdjust", Value: int32(500)},
			{Name: "SystemCallFilter", Value: systemd.Filter{Allow: false, Items: []string{"chroot"}}},
			{Name: "SystemCallErrorNumber", Value: int32(syscall.EPERM)},
			{Name: "RestrictAddressFamilies", Value: systemd.Filter{Allow: true, Items: []string{"AF_UNIX", "AF_INET", "AF_INET6"}}},
			{Name: "UMask", Value: uint32(0o27)},
			{Name: "TimeoutStopUSec", Value: uint64(5 * time.Second / time.Microsecond)},
			{Name: "After", Value: []string{"sysinit.target"}},
			{Name: "DefaultDependencies", Value: false},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(30 * time.Second))
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := c.WaitUnit(ctx, name); code != 0 || err != nil {
		t.Errorf("WaitUnit = %d, %v", code, err)
	}
	for _, want := range []string{"'/run/t-sandbox': Read-only file system", "500\n", "CapBnd:\t0000000000000002\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "chroot 125", "0027\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("not %q in\n%s", want, got)
		}
	}
	if _, err := os.Stat("/data/t-sandbox"); err != nil {
		t.Errorf("ReadWritePaths: %v", err)
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
	watch := func(unit string, stable, deadline time.Duration) (health.Verdict, time.Duration) {
		t.Helper()
		checks := health.All(defaults(stable, unit), health.Env{Units: c})
		start := time.Now()
		v, err := health.Watch{Checks: checks, Stable: stable, Deadline: deadline}.Run(ctx)
		if err != nil {
			t.Fatal(err)
		}
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
	if v, took := watch("t-flaps.service", 2*time.Second, deadline); v.Good || took < deadline || !strings.Contains(v.Failing.Why, "restarted") {
		t.Errorf("a unit that flaps (active in %d of 50 looks): %+v after %s", up, v, took)
	}
	if err := c.Stop(ctx, "t-flaps.service"); err != nil {
		t.Error(err)
	}

	// The test's own context ends long before this deadline.
	try.Check(c.StartNoWait(ctx, "t-limit.service"))
	if v, _ := watch("t-limit.service", time.Minute, time.Hour); v.Good || !v.Failing.Final ||
		!strings.Contains(v.Failing.Why, "failed (failed)") || v.Failing.Check != "t-limit runs" {
		t.Errorf("a unit that hits its start limit: %+v, want an end without the deadline", v)
	}
	if err := c.ResetFailed(ctx, "t-limit.service"); err != nil {
		t.Error(err)
	}
}

// TestGuestAsNobody: without root there is only the system bus, which lets anyone look and
// nobody touch.
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
		t.Error("nobody may start units")
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
