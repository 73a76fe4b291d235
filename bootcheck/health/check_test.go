package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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
			"x.service is activating (auto-restart), result exit-code, restarted 2 times", false, 0},
		{"starts", systemd.Unit{Active: "activating", Sub: "start", Job: 7}, "x.service is activating (start)", false, 0},
		{"hit the start limit", systemd.Unit{Active: "failed", Sub: "failed", Result: "start-limit-hit", NRestarts: 5},
			"x.service is failed (failed), result start-limit-hit, restarted 5 times", true, 0},
		{"failed, and somebody starts it again", systemd.Unit{Active: "failed", Sub: "failed", Result: "exit-code", Job: 9},
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

func TestAddress(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		status        int
		body          string
		why           string // what it ends with; "" good
		note          string
	}{
		{"no version to compare", "1.2.0", 200, "fine", "", ""},
		{"an empty answer of 200", "1.2.0", 200, "", "", ""},
		{"JSON without a version", "1.2.0", 200, `{"status":"ok"}`, "", ""},
		{"JSON that is no object", "1.2.0", 200, `[1,2]`, "", ""},
		{"a version that is no string", "1.2.0", 200, `{"version":1}`, "", ""},
		{"half of JSON", "1.2.0", 200, `{"version":"1.1.0"`, "", ""},
		{"the version", "1.2.0", 200, `{"version":"1.2.0","x":[]}`, "", "version 1.2.0"},
		{"the version with a v", "1.2.0", 200, `{"version":"v1.2.0"}`, "", "version v1.2.0"},
		{"the folder's name is expected", "v1.2.0", 200, `{"version":"1.2.0"}`, "", "version 1.2.0"},
		{"nothing is expected", "", 200, `{"version":"1.1.0"}`, "", "version 1.1.0"},
		{"an empty version", "1.2.0", 200, `{"version":""}`, "", ""},
		{"the old process still answers", "1.2.0", 200, `{"version":"1.1.0"}`, `answers with version "1.1.0", want "1.2.0"`, ""},
		{"a version with a line break", "1.2.0", 200, `{"version":"1\n2"}`, `answers with version "1\n2", want "1.2.0"`, ""},
		{"500", "1.2.0", 500, "database is gone", "answers with status 500, want 200", ""},
		{"204", "1.2.0", 204, "", "answers with status 204, want 200", ""},
		{"a redirect", "1.2.0", 302, "", "answers with status 302, want 200", ""},
		{"too much", "1.2.0", 200, strings.Repeat("x", 1<<20), "the body is larger than 64 KiB", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(tt.status)
				io.WriteString(w, tt.body)
			}))
			defer srv.Close()
			c := Check{Name: "answers", Required: true, Timeout: 10 * time.Second, run: address(srv.URL+"/health", tt.version)}
			r := Run(t.Context(), []Check{c})[0]
			switch {
			case r.OK != (tt.why == "") || !strings.HasSuffix(r.Why, tt.why) || tt.why == "" && r.Why != tt.note:
				t.Errorf("OK %v, %q, want %q", r.OK, r.Why, tt.why+tt.note)
			case r.OK && r.Output != "":
				t.Errorf("output %q of a good check", r.Output)
			case !r.OK && r.Output != tt.body[:min(len(tt.body), 4<<10)]:
				t.Errorf("output %.40q (%d bytes), want the first 4 KiB of the body", r.Output, len(r.Output))
			case !r.Required || r.Final || strings.Contains(r.Why, "\n"):
				t.Errorf("got %+v", r)
			}
		})
	}
}

func TestAnAddressThatNeverAnswers(t *testing.T) {
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-done }))
	defer srv.Close()
	defer close(done)
	c := Check{Name: "answers", Required: true, Timeout: 50 * time.Millisecond, run: address(srv.URL, "")}
	if r := Run(t.Context(), []Check{c})[0]; r.OK || r.Why != "no answer within 50ms" {
		t.Errorf("got %+v", r)
	}
	srv.Listener.Close()
	if r := Run(t.Context(), []Check{c})[0]; r.OK || !strings.HasSuffix(r.Why, "connection refused") {
		t.Errorf("got %+v", r)
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

	// A folder that cannot be read is reported, and condemns nothing.
	cfg.ChecksDir = filepath.Join(dir, "checks.d/other/x")
	cfg.Checks, cfg.Services = nil, nil
	for _, r := range Run(t.Context(), All(cfg, Env{})) {
		if r.OK || r.Required || !strings.Contains(r.Why, "not a directory") {
			t.Errorf("got %+v", r)
		}
	}
	if n := len(All(cfg, Env{})); n != 2 {
		t.Errorf("%d checks, want one for each folder that cannot be read", n)
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
