package vm_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/crash/blocklog"
	"github.com/tope-ota/ota/integration/vm"
	"github.com/tope-ota/ota/integration/vm/vmtest"
)

// The disk of a machine that is frozen is the one that a power cut leaves, and the
// machine goes on as if nothing had happened.
func TestFreeze(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := vmtest.Start(t, vm.Options{Cold: true, Dir: dir, DataSize: 64 << 20})
	ctx := t.Context()
	sh(t, m, "(while :; do dd if=/dev/urandom of=/data/busy bs=64k count=32 conv=fsync status=none; done) </dev/null >/dev/null 2>&1 &")
	busy := 0
	var last []byte
	for range 5 {
		thaw, err := m.Freeze(ctx)
		if err != nil {
			t.Fatal(err)
		}
		first := read(t, m.Disk())
		time.Sleep(200 * time.Millisecond) // it would write some MB in this time
		second := read(t, m.Disk())
		thaw()
		if !bytes.Equal(first, second) {
			t.Fatal("the disk of a frozen machine changed")
		}
		if !bytes.Equal(first, last) {
			busy++
		}
		last = first
		sh(t, m, "sync /data/busy")
	}
	if busy < 2 {
		t.Error("the machine wrote nothing between five looks, so this shows nothing")
	}
	if _, err := m.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	frozen := read(t, m.Disk())
	if err := m.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(frozen, read(t, m.Disk())) {
		t.Error("a power cut left another disk than that of the frozen machine")
	}
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A machine goes on where another one was saved, in its memory and on its disk, as
// often as one likes; each write to its disk can be logged, and the disk be slow.
func TestSave(t *testing.T) {
	t.Parallel()
	o := vm.Options{DataSize: 64 << 20}
	m := vmtest.Start(t, o)
	ctx := t.Context()
	sh(t, m, "echo memory > /run/here; echo cache > /data/here")
	o.From = filepath.Join(t.TempDir(), "saved")
	if err := m.Save(ctx, o.From); err != nil {
		t.Fatal(err)
	}
	m.Stop()
	for range 2 {
		o.BlockLog = filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(o.BlockLog, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		m := vmtest.Start(t, o)
		if got := sh(t, m, "cat /run/here /data/here; echo changed > /data/here"); got != "memory\ncache" {
			t.Errorf("a machine that was saved holds %q", got)
		}
		if err := m.SlowDisk(ctx, 10); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		sh(t, m, "dd if=/dev/zero of=/data/slow bs=4k count=20 oflag=direct status=none")
		if took := time.Since(began); took < time.Second { // of 2 s, less what may come at once
			t.Errorf("20 writes to a disk of 10 operations a second took %s", took)
		}
		if err := m.SlowDisk(ctx, 0); err != nil {
			t.Fatal(err)
		}
		const text = "a text that is written to the disk"
		sh(t, m, "echo "+text+" > /data/logged; sync")
		m.Stop()
		entries, err := blocklog.Read(bytes.NewReader(read(t, o.BlockLog)))
		if err != nil {
			t.Fatal(err)
		}
		found, flushes := false, 0
		for _, e := range entries {
			found = found || strings.Contains(string(e.Data), text)
			if e.Flags&blocklog.Flush != 0 {
				flushes++
			}
		}
		if !found || flushes == 0 {
			t.Errorf("%d entries, %d of them flushes, and the text is among them: %v", len(entries), flushes, found)
		}
	}
}
