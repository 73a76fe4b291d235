package applier

import (
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// A current version whose manifest is damaged is no reason to take no other: an update by a
// channel takes its place, as an install does.
func TestChannelOfADamagedVersion(t *testing.T) {
	d := newDevice(t)
	a := &applier{cfg: d.cfg, out: io.Discard, log: &d.log}
	var err error
	a.store, err = bootcheck.Open(d.cfg.Root)
	d.must(err)
	d.must(os.Remove(d.path("versions/current/.ota/manifest.json")))
	got, err := a.channelDevice("one")
	if err != nil || got.Release != 5 || got.Floor != 5 || got.Empty {
		t.Errorf("channelDevice = %+v, %v; want release 5, which was confirmed", got, err)
	}
	d.must(d.install(d.bundle("2.0.0", nil), installOptions{}))
	if d.runs() != "2.0.0" {
		t.Errorf("runs %s, want 2.0.0", d.runs())
	}
}

// A version is asked for its release under the lock of the switch once more: the guardian may
// have confirmed a higher one while it was downloaded.
func TestReleaseIsConfirmedMeanwhile(t *testing.T) {
	d := newDevice(t)
	begun, done := d.path("begun"), d.path("done")
	d.cfg.Checks[0].Script = d.write("slow", fmt.Sprintf("#!/bin/sh\ntouch %s\nwhile ! [ -e %s ]; do sleep 0.01; done\n", begun, done))
	d.must(os.Chmod(d.path("slow"), 0o755))
	ended := make(chan error, 1)
	from := d.bundle("2.0.0", func(c *bundle.Contents) { c.Release = 6 })
	go func() { ended <- d.install(from, installOptions{}) }()
	for { // its checks run, before the switch
		if _, err := os.Stat(begun); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("no check ran: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	d.commit(func(r *bootcheck.Record) { r.Floor = 7 })
	d.must(os.WriteFile(done, nil, 0o600))
	if err := <-ended; bootcheck.Exit(err) != bootcheck.ExitRefused || d.runs() != "1.0.0" {
		t.Errorf("the install ends with %v, runs %s; want it refused", err, d.runs())
	}
}
