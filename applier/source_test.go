package applier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// A meddler changes a file between two reads of it: untilDone asks it before each.
type meddler struct {
	context.Context
	asked, at int
	meddle    func()
}

func (m *meddler) Err() error {
	if m.asked++; m.asked == m.at {
		m.meddle()
	}
	return m.Context.Err()
}

// TestFileChangesWhileItIsRead holds that --sha256 of a file is checked on the very
// bytes that are installed: whenever another signed bundle takes the place of the
// first, the first is installed, or nothing.
func TestFileChangesWhileItIsRead(t *testing.T) {
	d := newDevice(t)
	app := func(version string, salt, size int) []byte {
		return read(t, d.bundle(version, func(*bundle.Contents) {
			d.write("tree-"+version+"/bin/app", noise(fmt.Sprint(salt), size))
		}))
	}
	good := app("2.0.0", 0, 2000)
	var other []byte // of the same length: the heads are compressed
	for salt, size := 1, 2000; len(other) != len(good); salt++ {
		if salt == 500 {
			t.Fatal("no two bundles of one length")
		}
		other = app("2.0.1", salt, size)
		size += len(good) - len(other)
	}
	sum := sha256.Sum256(good)
	o := installOptions{sha256: hex.EncodeToString(sum[:]), noActivate: true}
	for name, change := range map[string]func(path string) error{
		"overwritten": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.Write(other)
				f.Close()
			}
			return err
		},
		"truncated": func(path string) error { return os.Truncate(path, 1000) },
		"longer":    func(path string) error { return os.Truncate(path, int64(len(good))+1) },
		"replaced":  func(path string) error { d.write("next", string(other)); return os.Rename(d.path("next"), path) },
		"removed":   os.Remove,
	} {
		meddled := true
		for at := 1; meddled; at++ {
			path := d.write("x.ota", string(good))
			m := &meddler{Context: t.Context(), at: at, meddle: func() { d.must(change(path)) }}
			err := d.installCtx(m, path, o)
			meddled = m.asked >= at
			if _, err := os.Stat(d.path("versions/v2.0.1")); err == nil {
				t.Fatalf("%s before read %d: 2.0.1 is installed, though 2.0.0 was named", name, at)
			}
			_, statErr := os.Stat(d.path("versions/v2.0.0"))
			notThere := errors.Is(err, fs.ErrNotExist) // removed before it was opened
			if err != nil && (bootcheck.Exit(err) != bootcheck.ExitDamaged && !notThere || statErr == nil) || err == nil && statErr != nil {
				t.Errorf("%s before read %d: %v (exit %d), 2.0.0 is there: %t", name, at, err, bootcheck.Exit(err), statErr == nil)
			}
			if err == nil {
				store, err := bootcheck.Open(d.cfg.Root)
				d.must(err)
				snapshot, err := store.Snapshot("2.0.0")
				d.must(err)
				d.must(store.Verify(t.Context(), &snapshot.Ref, bootcheck.Full))
				d.must(store.Remove(nil, "2.0.0"))
			}
		}
	}
}

// TestNoRegularFile holds that what can block, or never ends, is not read.
func TestNoRegularFile(t *testing.T) {
	d := newDevice(t)
	d.must(syscall.Mkfifo(d.path("fifo"), 0o600))
	for _, name := range []string{d.path("fifo"), "/dev/zero", d.dir} {
		for _, o := range []installOptions{{}, {sha256: strings.Repeat("ab", 32)}, {size: 1}} {
			d.refused(d.install(name, o), bootcheck.ExitFailed, "is not a regular file")
		}
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
