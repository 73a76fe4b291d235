package guardian_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What the binaries of `make build` may weigh, in bytes. A cold start reads all of
// the guardian: on flash that gives 20 MB/s, 1 MB is 50 ms of every boot.
var sizeLimits = map[string]int64{
	"ota-guardian": 3_800_000,
	"ota-apply":    8_000_000,
}

func TestSizes(t *testing.T) {
	bin := t.TempDir()
	const sources = "1893456123" // seconds since 1970; nothing else in the programs is that number
	build := exec.Command("make", "-s", "-C", "..", "build-arm64", "BIN="+bin, "SOURCE_DATE_EPOCH="+sources)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("make build-arm64: %v\n%s", err, out)
	}
	for name, limit := range sizeLimits {
		info, err := os.Stat(filepath.Join(bin, "arm64", name))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes for arm64, the limit is %d", name, info.Size(), limit)
		if info.Size() > limit {
			t.Errorf("%s has %d bytes for arm64, want at most %d", name, info.Size(), limit)
		}
	}
	// The date by which certificates and bundles are checked on a device without a clock.
	if program, err := os.ReadFile(filepath.Join(bin, "arm64", "ota-apply")); err != nil || !bytes.Contains(program, []byte(sources)) {
		t.Errorf("ota-apply does not know the date of its sources, %v", err)
	}
}
