package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// fakeUnits are what systemd would say.
type fakeUnits map[string]systemd.Unit

func (f fakeUnits) Unit(ctx context.Context, name string) (systemd.Unit, error) {
	u, ok := f[name]
	if !ok {
		return u, errors.New("no answer")
	}
	return u, nil
}

func TestUnit(t *testing.T) {
	const stable = time.Minute
	was := monotonic
	monotonic = func() time.Duration { return time.Hour }
	t.Cleanup(func() { monotonic = was })
	ago := func(d time.Duration) time.Duration { return time.Hour - d }

	for _, tt := range []struct {
		name  string
		unit  systemd.Unit
		why   string // "" good
		final bool
		up    time.Duration
	}{
		{"up for long", systemd.Unit{Active: "active", Sub: "running", ActiveEnter: ago(time.Hour / 2)}, "", false, time.Hour / 2},
		{"just started", systemd.Unit{Active: "active", Sub: "running", ActiveEnter: ago(time.Second)}, "", false, time.Second},
		{"reloads", systemd.Unit{Active: "reloading", Sub: "reload", ActiveEnter: ago(time.Second)}, "", false, time.Second},
		{"a oneshot that stays", systemd.Unit{Active: "active", Sub: "exited", ActiveEnter: ago(time.Second)}, "", false, time.Second},
		{"became active after the clock was read", systemd.Unit{Active: "active", ActiveEnter: time.Hour + 1}, "", false, 0},
		{"restarted last week", systemd.Unit{Active: "active", NRestarts: 1, ActiveEnter: ago(stable)}, "", false, stable},
		{"flaps", systemd.Unit{Active: "active", Sub: "running", NRestarts: 5, ActiveEnter: ago(700 * time.Millisecond)},
			"x.service was restarted 5 times, the last time 700ms ago", false, 0},
		{"restarted a moment ago", systemd.Unit{Active: "active", NRestarts: 1, ActiveEnter: ago(stable - 1)}, "x.service was restarted 1 times, the last time 1m0s ago", false, 0},
		{"waits for its restart", systemd.Unit{Active: "activating", Sub: "auto-restart", Result: "exit-code", NRestarts: 2},
			"x.service crashed 2 times: activating (auto-restart), result exit-code", false, 0},
		{"starts", systemd.Unit{Active: "activating", Sub: "start", Job: 7}, "x.service is activating (start)", false, 0},
		{"hit the start limit", systemd.Unit{Active: "failed", Sub: "failed", Result: "start-limit-hit", NRestarts: 5},
			"x.service crashed 5 times: failed (failed), result start-limit-hit", true, 0},
		{"failed, and a job starts it again", systemd.Unit{Active: "failed", Sub: "failed", Result: "exit-code", Job: 9},
			"x.service is failed (failed), result exit-code", false, 0},
		{"ended well", systemd.Unit{Active: "inactive", Sub: "dead", Result: "success"}, "x.service is inactive (dead)", false, 0},
		{"masked", systemd.Unit{Load: "masked", Active: "inactive"}, "x.service is masked", true, 0},
		{"masked while it runs", systemd.Unit{Load: "masked", Active: "active", ActiveEnter: ago(time.Second)}, "", false, time.Second},
		{"does not exist", systemd.Unit{Load: "not-found", Active: "inactive"}, "x.service is not-found", false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.unit.Load == "" {
				tt.unit.Load = "loaded"
			}
			f := unit(fakeUnits{"x.service": tt.unit}, "x.service", stable)(t.Context())
			why := ""
			if f.err != nil {
				why = f.err.Error()
			}
			if why != tt.why || f.final != tt.final || f.up != tt.up {
				t.Errorf("got %q, final %v, up %s\nwant %q, final %v, up %s", why, f.final, f.up, tt.why, tt.final, tt.up)
			}
		})
	}
	if f := unit(fakeUnits{}, "x.service", stable)(t.Context()); f.err == nil || f.final {
		t.Errorf("systemd does not answer: %+v, want bad and not final", f)
	}
}

func TestMonotonicIsTheKernels(t *testing.T) {
	// /proc/uptime is CLOCK_BOOTTIME; without suspend the two are the same.
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	var up float64
	fmt.Sscan(string(text), &up)
	if got := monotonic().Seconds(); got <= 0 || got > up+1 {
		t.Errorf("monotonic() = %.1f s, the kernel has been up for %.1f s", got, up)
	}
}

func TestAll(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) {
		t.Helper()
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cfg := config.Default(filepath.Join(dir, "ota.toml"))
	cfg.Services = []string{"device-api.service", "ui.service"}
	list := func(env Env) (got []string) {
		for _, c := range All(cfg, env) {
			kind := "wanted"
			if c.Required {
				kind = "required"
			}
			got = append(got, fmt.Sprintf("%s %s %s", kind, c.Name, c.Timeout))
		}
		return got
	}
	if diff := cmp.Diff([]string{"required device-api answers 10s", "required device-api runs 10s", "required ui runs 10s"}, list(Env{Units: fakeUnits{}})); diff != "" {
		t.Errorf("the defaults (-want +got):\n%s", diff)
	}

	// The default address counts only where something listens, if a unit is checked besides.
	optional := func(env Env) (names []string) {
		for _, c := range All(cfg, env) {
			if c.optional {
				names = append(names, c.Name)
			}
		}
		return names
	}
	if got := optional(Env{Units: fakeUnits{}}); !slices.Equal(got, []string{"device-api answers"}) {
		t.Errorf("the defaults: %q are optional, want the default address", got)
	}
	if got := optional(Env{}); got != nil {
		t.Errorf("no systemd: %q are optional, want none", got)
	}
	cfg.Services = nil
	if got := optional(Env{Units: fakeUnits{}}); got != nil {
		t.Errorf("no service: %q are optional, want none", got)
	}
	cfg.Services = []string{"device-api.service", "ui.service"}
	file := filepath.Join(t.TempDir(), "ota.toml")
	if err := os.WriteFile(file, []byte("[[check]]\nname = \"device-api answers\"\nhttp = \"http://127.0.0.1:9080/health\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	named, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range All(named, Env{Units: fakeUnits{}}) {
		if c.optional {
			t.Errorf("%q, which the configuration names, is optional", c.Name)
		}
	}

	cfg.Checks = []config.Check{
		{Name: "screen", Unit: "screen.service", Timeout: time.Second},
		{Name: "motor", Script: "/usr/bin/true", Required: true, Timeout: 3 * time.Second},
	}
	for _, name := range []string{"required/20-b", "required/10-a", "wanted/uplink", "wanted/motor", "required/.hidden", "required/a~", "required/a.dpkg-old", "wanted/a.rpmsave", "other/x"} {
		write(filepath.Join("checks.d", name))
	}
	if err := os.Mkdir(filepath.Join(dir, "checks.d/wanted/folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := []string{"wanted screen 1s", "required motor 3s", "required device-api runs 10s", "required ui runs 10s",
		"required 10-a 10s", "required 20-b 10s", "wanted motor (2) 10s", "wanted uplink 10s"}
	if diff := cmp.Diff(want, list(Env{Units: fakeUnits{}})); diff != "" {
		t.Errorf("everything (-want +got):\n%s", diff)
	}
	want = []string{"required motor 3s", "required 10-a 10s", "required 20-b 10s", "wanted motor (2) 10s", "wanted uplink 10s"}
	if diff := cmp.Diff(want, list(Env{})); diff != "" {
		t.Errorf("without systemd (-want +got):\n%s", diff)
	}

	// A directory that cannot be read is reported, and canRollBack nothing.
	cfg.ChecksDir = filepath.Join(dir, "checks.d/other/x")
	cfg.Checks, cfg.Services = nil, nil
	for _, r := range Run(t.Context(), All(cfg, Env{})) {
		if r.OK || r.Required || !strings.Contains(r.Why, "not a directory") {
			t.Errorf("got %+v", r)
		}
	}
	if n := len(All(cfg, Env{})); n != 2 {
		t.Errorf("%d checks, want one for each directory that cannot be read", n)
	}
}

// TestDeciding: what is not set up neither decides, nor fails, nor is in the baseline.
func TestDeciding(t *testing.T) {
	refused := errors.New("nothing listens on 127.0.0.1:9080")
	checks := []Check{
		{Name: "address", Required: true, optional: true, run: func(context.Context) finding { return finding{err: refused, refused: true} }},
		{Name: "address of the configuration", Required: true, run: func(context.Context) finding { return finding{err: refused, refused: true} }},
		{Name: "answers 500", Required: true, optional: true, run: func(context.Context) finding { return finding{err: errors.New("500")} }},
		{Name: "unit", Required: true, run: func(context.Context) finding { return finding{} }},
		{Name: "wanted", run: func(context.Context) finding { return finding{} }},
	}
	names, unset := Deciding(t.Context(), checks)
	if want := []string{"address of the configuration", "answers 500", "unit"}; !slices.Equal(names, want) {
		t.Errorf("%q decide, want %q", names, want)
	}
	if len(unset) != 1 || unset[0].Check != "address" || unset[0].Why != "not set up: nothing listens on 127.0.0.1:9080; the other checks decide" {
		t.Errorf("not set up: %+v", unset)
	}
	results := Run(t.Context(), checks)
	if r, found := Failing(results[:1]); found {
		t.Errorf("%+v fails, want that it does not count", r)
	}
	want := map[string]bool{"address of the configuration": false, "answers 500": false, "unit": true, "wanted": true}
	if got := Baseline(results); !maps.Equal(got, want) {
		t.Errorf("the baseline is %v, want %v", got, want)
	}
	var table strings.Builder
	if err := printTable(&table, "1.0", checks[:1], results[:1]); err != nil || !strings.Contains(table.String(), "required  not set up") {
		t.Errorf("%v\n%s", err, &table)
	}
	for line := range strings.Lines(table.String()) {
		if len(line) > 81 || strings.Count(line, "not set up") > 1 {
			t.Errorf("longer than 80 columns, or says it twice: %s", line)
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(d time.Duration, err error) func(context.Context) error {
			return func(ctx context.Context) error {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(d):
					return err
				}
			}
		}
		checks := []Check{
			NewCheck("slow", true, 10*time.Second, wait(9*time.Second, nil)),
			NewCheck("too slow", false, 10*time.Second, wait(time.Hour, nil)),
			NewCheck("bad", true, 10*time.Second, wait(0, errors.New("line 1\n\x1b[2Jline 2"))),
		}
		start := time.Now()
		got := Run(t.Context(), checks)
		want := []Result{
			{Check: "slow", Required: true, OK: true, Took: 9 * time.Second},
			{Check: "too slow", Why: "no answer within 10s", Took: 10 * time.Second},
			{Check: "bad", Required: true, Why: "line 1 [2Jline 2"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("took %s, want the longest of them", took)
		}
		if r, found := Failing(got); !found || r.Check != "bad" {
			t.Errorf("Failing = %+v, %v", r, found)
		}
		if _, found := Failing(got[:2]); found {
			t.Error("a wanted check was found failing")
		}
		if diff := cmp.Diff(map[string]bool{"slow": true, "too slow": false, "bad": false}, Baseline(got)); diff != "" {
			t.Error(diff)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := Run(ctx, checks[:1])[0]; r.OK || r.Took != time.Second || r.Why != context.DeadlineExceeded.Error() {
			t.Errorf("the caller's context ended: %+v", r)
		}
	})
}

// A check that no process ran is neither good nor bad.
func TestUnanswered(t *testing.T) {
	gone := fmt.Errorf("%w: it was killed", ErrUnanswered)
	cfg := config.Default("/nonexistent/ota.toml")
	cfg.Services, cfg.ChecksDir = nil, t.TempDir()
	cfg.Checks = []config.Check{{Name: "answers", HTTP: "http://127.0.0.1:1/", Required: true, Timeout: time.Hour}}
	answers := 0
	env := Env{Ask: func(context.Context, Request) (Answer, error) {
		if answers++; answers < 3 {
			return Answer{}, nil
		}
		return Answer{}, gone
	}}
	watch := Watch{Checks: All(cfg, env), Stable: time.Hour, Deadline: time.Hour}
	synctest.Test(t, func(t *testing.T) {
		if v, err := watch.Run(t.Context()); !errors.Is(err, ErrUnanswered) {
			t.Errorf("Watch = %+v, %v; want neither", v, err)
		}
		watch.Baseline = map[string]bool{"answers": false}
		if v, err := watch.Run(t.Context()); err != nil || !v.Good {
			t.Errorf("Watch of one that cannot roll back = %+v, %v; want good", v, err)
		}
	})
	results := Run(t.Context(), watch.Checks)
	if _, bad := Failing(results); bad || results[0].OK || !errors.Is(Unanswered(results), ErrUnanswered) {
		t.Errorf("Run = %+v, want one that is neither good nor failing", results)
	}
	var out strings.Builder
	if err := Report(t.Context(), &out, cfg, env, nil); !errors.Is(err, ErrUnanswered) || !strings.Contains(out.String(), "required  cannot run") {
		t.Errorf("Report = %v, want that checks were not run:\n%s", err, &out)
	}
}

// What is at the other end of the connection, and does not answer, says nothing
// about a version.
func TestAskOver(t *testing.T) {
	for name, row := range map[string]struct {
		server func(net.Conn)
		why    string
	}{
		"is gone":          {func(c net.Conn) { c.Close() }, ""},
		"ends when asked":  {func(c net.Conn) { bufio.NewReader(c).ReadBytes('\n'); c.Close() }, "ended without an answer"},
		"says nonsense":    {func(c net.Conn) { bufio.NewReader(c).ReadBytes('\n'); io.WriteString(c, "no JSON\n") }, "invalid character"},
		"never ends":       {func(c net.Conn) { bufio.NewReader(c).ReadBytes('\n'); io.Copy(c, endless{}) }, "ended without an answer"},
		"hangs":            {func(c net.Conn) { io.Copy(io.Discard, c) }, "does not answer"},
		"does not read it": {func(net.Conn) {}, "does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				go row.server(theirs)
				defer theirs.Close()
				a, err := AskOver(t.Context(), ours, Request{Script: "/x", Timeout: time.Minute})
				if !errors.Is(err, ErrUnanswered) || !strings.Contains(err.Error(), row.why) {
					t.Errorf("AskOver = %+v, %v; want %v: … %s", a, err, ErrUnanswered, row.why)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		closed := make(chan bool)
		go func() { io.Copy(io.Discard, theirs); close(closed) }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := AskOver(ctx, ours, Request{Script: "/x", Timeout: time.Hour}); err != context.DeadlineExceeded {
			t.Errorf("AskOver = %v, want its context's error", err)
		}
		<-closed
	})
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
