package applier

import (
	"io"
	"os"
	"testing"

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
