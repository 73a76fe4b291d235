package applier

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
)

// TestDryRunKnowsWhatIsShared holds that the plan counts a file as shared only if it
// can be: else there is "no space" when it is too late, and the reserve is eaten.
func TestDryRunKnowsWhatIsShared(t *testing.T) {
	const size = 1 << 20
	for name, row := range map[string]struct {
		shared bool
		root   bool
		meddle func(file string) error
	}{
		"as it was":     {shared: true, meddle: func(string) error { return nil }},
		"another mode":  {meddle: func(file string) error { return os.Chmod(file, 0o640) }},
		"another group": {root: true, meddle: func(file string) error { return os.Chown(file, 0, 50) }},
		"another owner": {root: true, meddle: func(file string) error { return os.Chown(file, 65534, 0) }},
		"immutable":     {root: true, meddle: func(file string) error { return exec.Command("chattr", "+i", file).Run() }},
		"too many names": {meddle: func(file string) error {
			for i := range maxLinks {
				if err := os.Link(file, file+strconv.Itoa(i)); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if row.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			d := newDevice(t)
			big := func(c *bundle.Contents) {
				d.write(filepath.Join("tree-"+c.Version, "big"), string(bytes.Repeat([]byte{7}, size)))
			}
			d.must(d.install(d.bundle("1.1.0", big), installOptions{}))
			d.confirm()
			file := d.path("versions/v1.1.0/big")
			d.must(row.meddle(file))
			t.Cleanup(func() { _ = exec.Command("chattr", "-i", file).Run() })
			shared := row.shared || clones(d.cfg.Root, file)

			next := d.bundle("1.2.0", big)
			var out bytes.Buffer
			a := &applier{cfg: d.cfg, out: &out, log: io.Discard}
			d.must(a.dryRun(t.Context(), next, installOptions{}, true))
			var f forecast
			d.must(json.Unmarshal(out.Bytes(), &f))
			if got := f.Need < size; got != shared {
				t.Errorf("it needs %d bytes for a file of %d, want it counted as shared: %v", f.Need, size, shared)
			}
			if f.Reuse < size {
				t.Errorf("%d bytes are reused, want the file: a copy is no download", f.Reuse)
			}
			d.must(d.install(next, installOptions{noActivate: true}))
			was, err := os.Stat(file)
			d.must(err)
			is, err := os.Stat(d.path("versions/v1.2.0/big"))
			d.must(err)
			if row.shared && !os.SameFile(was, is) && !clones(d.cfg.Root, file) {
				t.Error("it was counted as shared, and is not")
			}
		})
	}
}

// opened is an install of 2.1.0, whose head was read, on a device that runs 2.0.0.
func (d *device) opened() (*applier, *openBundle) {
	d.t.Helper()
	d.must(d.install(d.wide("2.0.0", 5, 5), installOptions{}))
	d.confirm()
	a := &applier{cfg: d.cfg, out: io.Discard, log: &d.log}
	var err error
	a.store, err = bootcheck.Open(d.cfg.Root)
	d.must(err)
	keys, err := a.keys()
	d.must(err)
	src, err := a.open(d.t.Context(), d.wide("2.1.0", 5, 4), installOptions{})
	d.must(err)
	d.t.Cleanup(src.close)
	b, err := src.next(keys)
	d.must(err)
	b.record, err = a.store.Record()
	d.must(err)
	return a, b
}

// A version that the disk cannot read does not keep the others from making room.
func TestPlanBesideAnUnreadableVersion(t *testing.T) {
	d := newDevice(t)
	a, b := d.opened()
	unreadable := filepath.Join(d.cfg.Root, "v0.1.0", "lib")
	d.must(errors.Join(os.Chmod(filepath.Dir(d.dir), 0o755), os.MkdirAll(filepath.Dir(unreadable), 0o755), os.Mkdir(unreadable, 0), os.MkdirAll(filepath.Join(d.cfg.Root, "v0.2.0"), 0o755)))
	t.Cleanup(func() { _ = os.Chmod(unreadable, 0o755) })
	a.cfg.Reserve = 1 << 60
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Geteuid() == 0 {
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Fatal(err)
		}
		defer unix.SetfsuidRetUid(0)
	}
	_, err := a.planUnpack(b, nil, nil)
	if bootcheck.Exit(err) != bootcheck.ExitNoSpace || !strings.Contains(d.log.String(), "version 0.1.0") {
		t.Errorf("the plan ends with %v, want that there is no room, and that 0.1.0 was stepped over\n%s", err, &d.log)
	}
}

// TestPlanWithRoom holds that an install looks at what can be shared only if it matters: it
// costs the metadata of each file.
func TestPlanWithRoom(t *testing.T) {
	d := newDevice(t)
	a, b := d.opened()
	for _, dry := range []bool{false, true} {
		if a.report = nil; !dry {
			a.report = report.New("", a.progressFile())
		}
		p, err := a.planUnpack(b, nil, nil)
		d.must(err)
		if looked := bytes.ContainsFunc(p.offers.shared, func(r rune) bool { return r != 0 }); looked != dry {
			t.Errorf("dry run %v: it looked at what can be shared: %v", dry, looked)
		}
		if p.files != 4 || !p.offers.planned() {
			t.Errorf("dry run %v: %d files are reused, planned: %v", dry, p.files, p.offers.planned())
		}
	}
}
