// Package fleet has what many devices show together: each is a store and the programs, as
// processes, and follows a server.
package fleet

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/fleet/fake"
	"github.com/tope-ota/ota/integration/try"
)

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

// newRollout is a release with the bundles 1.0.0, 1.1.0, which is bad, and 1.2.0.
func newRollout(t *testing.T) release {
	r := newRelease(t)
	for version, file := range map[string]string{"1.0.0": "good", "1.1.0": "bad", "1.2.0": "good"} {
		r.bundle(".", version, 0, file)
	}
	return r
}

// TestRollout gives 50 devices a bad version, then a good one, in groups of 5, 15 and 30
// with an error threshold of 20 %. The bad one stops at the first group, with the reasons at
// the server; the good one reaches all. Each action is closed once, and what the server is
// told of each device is what that runs.
func TestRollout(t *testing.T) {
	defer try.Fatal(t)
	r := newRollout(t)
	server := fake.New(string(r))
	defer server.Close()
	base := newDevice(r, "base", t.TempDir(), "ddi", server.URL, true)
	base.begin("1.0.0.ota")
	var devices []*device
	groups := [][]string{nil, nil, nil}
	for i := range 50 {
		d := newDevice(r, fmt.Sprintf("x1-%02d", i), t.TempDir(), "ddi", server.URL, true)
		d.like(base)
		devices = append(devices, d)
		group := 0
		for _, first := range []int{5, 20} {
			if i >= first {
				group++
			}
		}
		groups[group] = append(groups[group], d.name)
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
		try.Check(each(devices, (*device).once))
	}
	if !bad.Stopped || len(bad.Asked) != 5 {
		t.Fatalf("the rollout of a bad version: stopped is %t, %d devices were asked, want 5", bad.Stopped, len(bad.Asked))
	}
	closed(bad, "failure", "check: app is well")
	truth(func(int) string { return "1.0.0" })

	good := &fake.Rollout{Action: fake.Action{Version: "1.2.0"}, Groups: groups, Threshold: 20}
	server.Start(good)
	for range 7 { // two for each group, and one for the attributes
		try.Check(each(devices, (*device).once))
	}
	if good.Stopped || len(good.Asked) != 50 {
		t.Fatalf("the rollout of a good version: stopped is %t, %d devices were asked, want 50", good.Stopped, len(good.Asked))
	}
	closed(good, "success", "version 1.2.0 is confirmed")
	truth(func(int) string { return "1.2.0" })
}
