package applier

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// A file that becomes too long is an error of one write; it does not end the
// program, and what is started afterwards knows nothing of the limit. In a process
// of its own: the limit is for all of one.
func TestLimitFiles(t *testing.T) {
	const child = "OTA_TEST_LIMIT_FILES"
	if os.Getenv(child) == "" {
		test := exec.Command(os.Args[0], "-test.run=^TestLimitFiles$", "-test.v")
		test.Env = append(os.Environ(), child+"=1")
		out, err := test.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestLimitFiles")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	restore, err := limitFiles(4096)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "x")
	if err := os.WriteFile(name, make([]byte, 4096), 0o600); err != nil {
		t.Errorf("4096 bytes: %v", err)
	}
	for range 2 { // the first write is cut, the second gets the signal
		err := os.WriteFile(name, make([]byte, 5000), 0o600)
		if !errors.Is(err, syscall.EFBIG) || bootcheck.Exit(err) != bootcheck.ExitFailed {
			t.Errorf("5000 bytes: %v, exit %d, want EFBIG, %d", err, bootcheck.Exit(err), bootcheck.ExitFailed)
		}
	}
	if err := os.Truncate(name, 5000); !errors.Is(err, syscall.EFBIG) {
		t.Errorf("truncated to 5000 bytes: %v, want EFBIG", err)
	}
	restore()
	if err := os.WriteFile(name, make([]byte, 5000), 0o600); err != nil {
		t.Errorf("5000 bytes, without the limit: %v", err)
	}
	if out, err := exec.Command("/bin/sh", "-c", "head -c 5000 /dev/zero >"+name).CombinedOutput(); err != nil {
		t.Errorf("a program that is started afterwards: %v %s", err, out)
	}
}

// An install leaves no limit behind. The limit is that of the longest file that is
// written, the downloaded bundle and the manifest included.
func TestUnpackIsLimited(t *testing.T) {
	var before, after unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	d := newDevice(t)
	d.must(d.install(d.bundle("2.0.0", nil), installOptions{noActivate: true}))
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &after); err != nil || after != before {
		t.Errorf("the limit is %v (%v), it was %v", after, err, before)
	}
	entries := []bootcheck.Entry{{Size: 1 << 30}, {Size: 1}}
	for _, row := range []struct {
		name    string
		payload int64
		entries []bootcheck.Entry
		want    int64
	}{
		{"the longest entry", 7, entries, 1 << 30},
		{"the bundle", 2 << 30, entries, 2 << 30},
		{"the manifest", 7, nil, bootcheck.MaxManifest},
	} {
		m := &bootcheck.Manifest{Entries: row.entries, Frames: []bootcheck.Frame{{Length: row.payload}}}
		if got := longestFile(&openBundle{head: &bundle.Head{}, manifest: m}); got != row.want {
			t.Errorf("longestFile = %d, want %s, %d", got, row.name, row.want)
		}
	}
}
