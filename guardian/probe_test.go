package guardian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// probing is a probe in this process, and what speaks to it.
func probing(t *testing.T) *prober {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- probe(context.Background(), theirs, theirs)
		theirs.Close()
	}()
	p := newProber(ours)
	t.Cleanup(func() {
		p.close()
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("probe: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("probe does not end when nobody asks any more")
		}
	})
	return p
}

func elsewhere(p *prober) func(context.Context, health.Order) (health.Answer, error) {
	return func(ctx context.Context, o health.Order) (health.Answer, error) {
		return p.ask(ctx, request{Order: &o})
	}
}

func scriptAt(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whatever a check says, it says the same when another process does it.
func TestProbeFindsWhatACheckFinds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/good":
			io.WriteString(w, `{"version":"1.2.0"}`)
		case "/old":
			io.WriteString(w, `{"version":"1.1.0"}`)
		case "/talks":
			fmt.Fprintf(w, `{"version":%q}`, strings.Repeat("<", 60<<10))
		case "/silent":
			<-r.Context().Done()
		default:
			w.WriteHeader(500)
			w.Write([]byte("\xff\x00 it is broken"))
		}
	}))
	defer server.Close()
	dir := t.TempDir()
	cfg := config.Default(filepath.Join(dir, "ota.toml"))
	add := func(c config.Check) {
		c.Name, c.Required = fmt.Sprint(len(cfg.Checks)), true
		if c.Timeout == 0 {
			c.Timeout = time.Minute
		}
		cfg.Checks = append(cfg.Checks, c)
	}
	cfg.Checks = nil
	for _, path := range []string{"/good", "/old", "/talks", "/broken"} {
		add(config.Check{HTTP: server.URL + path})
	}
	add(config.Check{HTTP: server.URL + "/silent", Timeout: 300 * time.Millisecond})
	add(config.Check{HTTP: "http://127.0.0.1:1/nobody"})
	add(config.Check{Script: scriptAt(t, dir, "good", `[ "$OTA_VERSION" = 1.2.0 ]`)})
	add(config.Check{Script: scriptAt(t, dir, "bad", "echo the door is open; printf '\\377\\n'; exit 3")})
	add(config.Check{Script: scriptAt(t, dir, "much", "head -c 1000000 /dev/zero | tr '\\0' '\\1'; exit 1")})
	add(config.Check{Script: scriptAt(t, dir, "late", "echo waiting; sleep 1000"), Timeout: time.Second})
	add(config.Check{Script: scriptAt(t, dir, "no-interpreter", "") + "-gone"})
	if err := os.Chmod(scriptAt(t, dir, "open/writable", "exit 1"), 0o777); err != nil {
		t.Fatal(err)
	}
	add(config.Check{Script: filepath.Join(dir, "open/writable")})
	scriptAt(t, dir, "checks.d/required/one", "exit 1")
	scriptAt(t, dir, "checks.d/wanted/two", "exit 0")

	here := health.Run(t.Context(), health.All(cfg, health.Env{Version: "1.2.0"}))
	there := health.Run(t.Context(), health.All(cfg, health.Env{Version: "1.2.0", Elsewhere: elsewhere(probing(t))}))
	if diff := cmp.Diff(here, there, cmpopts.IgnoreFields(health.Result{}, "Took")); diff != "" {
		t.Errorf("in another process (-here +there):\n%s", diff)
	}
	bad, cannot := 0, 0
	for i, r := range there {
		if !r.OK {
			bad++
		}
		if !r.Required && i < len(cfg.Checks) {
			cannot++
		}
	}
	if len(there) != 14 || bad != 11 || cannot != 2 {
		t.Errorf("%d checks, %d bad, %d cannot be run; want 14, 11, 2:\n%+v", len(there), bad, cannot, there)
	}
}

// What nobody waits for any more is ended: a script of the version before must not
// run on under the next one.
func TestProbeEndsWhatNobodyWaitsFor(t *testing.T) {
	dir := t.TempDir()
	began, ended := filepath.Join(dir, "began"), filepath.Join(dir, "ended")
	path := scriptAt(t, dir, "long", fmt.Sprintf("trap 'touch %s; exit' TERM\ntouch %s\n(while :; do touch %s/alive; sleep 0.05; done)\n", ended, began, dir))
	waitFor := func(what string, yes func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !yes(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("waited for: %s", what)
			}
		}
	}
	exists := func(name string) bool { _, err := os.Stat(name); return err == nil }
	p := probing(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := p.ask(ctx, request{Order: &health.Order{Script: path, Timeout: time.Hour}})
		asked <- err
	}()
	waitFor("the script to run", func() bool { return exists(filepath.Join(dir, "alive")) })
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("ask = %v, want its context's error", err)
	}
	waitFor("the script to be gone", func() bool {
		os.Remove(filepath.Join(dir, "alive"))
		time.Sleep(300 * time.Millisecond)
		return !exists(filepath.Join(dir, "alive"))
	})
	// And the probe goes on.
	if a, err := p.ask(t.Context(), request{Order: &health.Order{Script: scriptAt(t, dir, "short", "exit 0"), Timeout: time.Minute}}); err != nil || a.Error != "" {
		t.Errorf("the next one: %+v, %v", a, err)
	}
	if a, err := p.ask(t.Context(), request{}); err != nil || !a.CannotRun {
		t.Errorf("a request for nothing: %+v, %v; want one that says nothing about a version", a, err)
	}
}

// A probe that dies is nobody's fault: no check has failed, and none is good.
func TestProbeThatDies(t *testing.T) {
	for name, dies := range map[string]func(net.Conn){
		"at once":        func(c net.Conn) { c.Close() },
		"when asked":     func(c net.Conn) { c.Read(make([]byte, 1)); c.Close() },
		"with nonsense":  func(c net.Conn) { c.Read(make([]byte, 1)); io.WriteString(c, "no JSON\n"); io.Copy(io.Discard, c) },
		"without an end": func(c net.Conn) { go io.Copy(io.Discard, c); io.Copy(c, endless{}) },
		"by hanging":     func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer theirs.Close()
			go dies(theirs)
			p := newProber(ours)
			defer p.close()
			cfg := config.Default("/nonexistent/ota.toml")
			cfg.Checks = []config.Check{{Name: "answers", HTTP: "http://127.0.0.1:1/", Required: true, Timeout: time.Hour}}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			go func() { <-p.gone; cancel(errProbe) }()
			v, err := health.Watch{Checks: health.All(cfg, health.Env{Elsewhere: elsewhere(p)}), Stable: time.Millisecond, Deadline: time.Hour}.Run(ctx)
			if err == nil || context.Cause(ctx) != errProbe {
				t.Errorf("Watch = %+v, %v (%v); want no verdict", v, err, context.Cause(ctx))
			}
			if !strings.Contains(p.err.Error(), probeUnit) {
				t.Errorf("why: %v, want it to name the unit", p.err)
			}
		})
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
