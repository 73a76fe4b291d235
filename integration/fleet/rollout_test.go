// Package fleet has what many devices show together: each is a store and the programs, as
// processes, and follows a server.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/guardian"
	"github.com/tope-ota/ota/integration/fleet/fake"
	"github.com/tope-ota/ota/integration/try"
)

// TestMain is the three programs, too.
func TestMain(m *testing.M) {
	switch ctx := context.Background(); filepath.Base(os.Args[0]) {
	case "ota-apply":
		os.Exit(int(applier.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
	case "ota-guardian":
		os.Exit(int(guardian.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
	case "ota-bundle":
		os.Exit(int(bundlecmd.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
	}
	os.Exit(m.Run())
}

// A release is a directory with the programs, a key, and the bundles 1.0.0, 1.1.0, which is
// bad, and 1.2.0.
type release string

func newRelease(t *testing.T) release {
	dir := t.TempDir()
	r := release(dir)
	exe := try.Get(os.Executable())
	try.Check(os.Mkdir(filepath.Join(dir, "bin"), 0o755))
	for _, name := range []string{"ota-apply", "ota-guardian", "ota-bundle"} {
		try.Check(exec.Command("cp", "-l", exe, filepath.Join(dir, "bin", name)).Run())
	}
	try.Check(os.Mkdir(filepath.Join(dir, "keys"), 0o755))
	try.Check(r.run("ota-bundle", "keygen", "--no-password", filepath.Join(dir, "keys/k")))
	for version, file := range map[string]string{"1.0.0": "good", "1.1.0": "bad", "1.2.0": "good"} {
		tree := filepath.Join(dir, "tree-"+version)
		try.Check(os.Mkdir(tree, 0o755))
		try.Check(os.WriteFile(filepath.Join(tree, file), []byte(version), 0o644))
		try.Check(r.run("ota-bundle", "create", "--dir", tree, "--version", version, "--model", "x1", "--key", filepath.Join(dir, "keys/k.key"), "--release", "0",
			"-o", filepath.Join(dir, version+".ota")))
	}
	return r
}

// run runs a program.
func (r release) run(name string, args ...string) error {
	out, err := exec.Command(filepath.Join(string(r), "bin", name), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return nil
}

// exit is the exit code of a run that ended with err.
func exit(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return 0
}

// A device is a directory: a store and a configuration.
type device struct {
	release
	name, dir string
}

// newDevice makes one that follows the server at url, and runs 1.0.0.
func newDevice(r release, name, dir, url string) *device {
	d := &device{r, name, dir}
	try.Check(os.MkdirAll(d.path("run"), 0o755))
	try.Check(os.WriteFile(d.path("check"), fmt.Appendf(nil, "#!/bin/sh\ntest ! -e %s/current/bad || { echo it is bad; exit 1; }\n", d.path("versions")), 0o755))
	text := fmt.Sprintf(`root = %q
model = "x1"
keys = [%q]
reserve = 0
run = %q
services = []
[report]
url = ""
[trial]
deadline = "1m"
stable = "50ms"
[[check]]
name = "app is well"
script = %q
[follow]
source = "ddi"
url = %q
device_id = %q
`, d.path("versions"), filepath.Join(string(r), "keys"), d.path("run"), d.path("check"), url, name)
	try.Check(os.WriteFile(d.path("ota.toml"), []byte(text), 0o644))
	try.Check(os.WriteFile(d.path("impatient.toml"), []byte(strings.Replace(text, `"1m"`, `"300ms"`, 1)), 0o644))
	return d
}

func (d *device) path(name string) string { return filepath.Join(d.dir, name) }

// ota runs a program. With the bad version nothing is worth a wait, and with others a slow
// machine is no failure.
func (d *device) ota(name string, args ...string) error {
	config := "ota.toml"
	if _, err := os.Stat(d.path("versions/current/bad")); err == nil {
		config = "impatient.toml"
	}
	return d.run(name, append([]string{"--config", d.path(config)}, args...)...)
}

func (d *device) current() string {
	target, err := filepath.EvalSymlinks(d.path("versions/current"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimPrefix(filepath.Base(target), "v")
}

// once lets the device ask, and ota-guardian watch what is on trial: twice, as after a
// rollback the version before is on trial, too.
func (d *device) once() error {
	err := d.ota("ota-apply", "follow", "--once")
	if exit(err) == 8 { // it has just told of a rollback
		err = nil
	}
	for range 2 {
		text, readErr := os.ReadFile(d.path("versions/.active/record.json"))
		if err = errors.Join(err, readErr); strings.Contains(string(text), `"phase":"confirmed"`) {
			break
		}
		if confirmed := d.ota("ota-guardian", "confirm"); exit(confirmed) != 8 {
			err = errors.Join(err, confirmed)
		}
	}
	return err
}

// TestRollout gives 50 devices a bad version, then a good one, in groups of 5, 15 and 30
// with an error threshold of 20 %. The bad one stops at the first group, with the reasons at
// the server; the good one reaches all. Each action is closed once, and what the server is
// told of each device is what that runs.
func TestRollout(t *testing.T) {
	defer try.Fatal(t)
	r := newRelease(t)
	server := fake.New(string(r))
	defer server.Close()
	base := newDevice(r, "base", t.TempDir(), server.URL)
	try.Check(base.ota("ota-apply", "install", filepath.Join(string(r), "1.0.0.ota")))
	try.Check(base.ota("ota-guardian", "confirm"))
	var devices []*device
	groups := [][]string{nil, nil, nil}
	for i := range 50 {
		d := newDevice(r, fmt.Sprintf("x1-%02d", i), t.TempDir(), server.URL)
		try.Check(exec.Command("cp", "-a", base.path("versions"), d.path("versions")).Run())
		devices = append(devices, d)
		group := 0
		for _, first := range []int{5, 20} {
			if i >= first {
				group++
			}
		}
		groups[group] = append(groups[group], d.name)
	}
	all := func() error { // each asks once, four at a time
		var wait sync.WaitGroup
		var mu sync.Mutex
		var failed error
		next := make(chan *device)
		for range 4 {
			wait.Go(func() {
				for d := range next {
					if err := d.once(); err != nil {
						mu.Lock()
						failed = errors.Join(failed, fmt.Errorf("%s: %w", d.name, err))
						mu.Unlock()
					}
				}
			})
		}
		for _, d := range devices {
			next <- d
		}
		close(next)
		wait.Wait()
		return failed
	}
	truth := func(want func(i int) string) {
		t.Helper()
		for i, d := range devices {
			config, _ := server.Attributes(d.name)
			if got := d.current(); got != want(i) || config["ota_version"] != got || config["ota_phase"] != "confirmed" {
				t.Errorf("%s runs %s, want %s; the server knows %v", d.name, got, want(i), config)
			}
		}
	}
	closed := func(r *fake.Rollout, want, last string) {
		t.Helper()
		for _, a := range r.Asked {
			n := 0
			log := server.Said(a)
			for _, f := range log {
				if f.Execution == "closed" {
					n++
				}
			}
			if a.Closed != want || n != 1 || !strings.Contains(strings.Join(log[len(log)-1].Details, "\n"), last) {
				t.Errorf("action %s of %s is %q, closed %d times, want %q once, with %q: %v", a.ID, a.Device, a.Closed, n, want, last, log)
			}
		}
	}

	bad := &fake.Rollout{Action: fake.Action{Version: "1.1.0", Update: "forced"}, Groups: groups, Threshold: 20}
	server.Start(bad)
	for range 3 {
		try.Check(all())
	}
	if !bad.Stopped || len(bad.Asked) != 5 {
		t.Fatalf("the rollout of a bad version: stopped is %t, %d devices were asked, want 5", bad.Stopped, len(bad.Asked))
	}
	closed(bad, "failure", "check: app is well")
	truth(func(int) string { return "1.0.0" })

	good := &fake.Rollout{Action: fake.Action{Version: "1.2.0"}, Groups: groups, Threshold: 20}
	server.Start(good)
	for range 7 { // two for each group, and one for the attributes
		try.Check(all())
	}
	if good.Stopped || len(good.Asked) != 50 {
		t.Fatalf("the rollout of a good version: stopped is %t, %d devices were asked, want 50", good.Stopped, len(good.Asked))
	}
	closed(good, "success", "version 1.2.0 is confirmed")
	truth(func(int) string { return "1.2.0" })
}
