package patch

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

var update = flag.Bool("update", false, "write testdata/golden-v1.otp again; only for a new format: devices in the field must read the old one")

// Devices in the field read what an earlier ota-bundle wrote: this file, for the golden
// bundle.
func TestGolden(t *testing.T) {
	const golden, from = "testdata/golden-v1.otp", "../bundle/testdata/golden-v1.ota"
	if *update {
		to := t.TempDir() + "/1.3.0.ota"
		bundleOf(t, to, "1.3.0", tree{
			"bin/device-api": "#!/bin/sh\nexec sleep infinity\n", "bin/tool": "-> device-api",
			"etc/device.conf": "name = golden\nmode = patched\n", "share/new.conf": "name = new\n",
		})
		m, err := Make(t.Context(), from, to, testKey, nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(m.File)
		if err == nil {
			err = os.WriteFile(golden, raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	old, err := unpack(t.Context(), from, t.TempDir()+"/old")
	if err != nil {
		t.Fatal(err)
	}
	defer old.root.Close()
	p := &pair{old: old.RawManifest, dir: old.dir}
	dir, err := p.apply(t, raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/device.conf": "name = golden\nmode = patched\n", "share/new.conf": "name = new\n"} {
		if got, err := os.ReadFile(dir + "/" + name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	x, err := open(t, t.Context(), bytes.NewReader(raw), old.RawManifest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := bootcheck.ParseManifest(x.Manifest)
	if err != nil || m.Version != "1.3.0" || !strings.Contains(string(x.Signature), "ota-bundle version 1.3.0") {
		t.Errorf("version %s, %v, %s", m.Version, err, x.Signature)
	}
}
