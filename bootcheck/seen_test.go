package bootcheck

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBootSeen(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run", "ota") // nothing of it is there yet
	if BootSeen(run) {
		t.Error("a new boot was seen")
	}
	for range 2 {
		if err := SeeBoot(run); err != nil || !BootSeen(run) {
			t.Fatalf("SeeBoot: %v, seen: %v", err, BootSeen(run))
		}
	}
	if err := os.WriteFile(filepath.Join(run, uncounted), []byte("an ID"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := ForgetBoot(run); err != nil || BootSeen(run) {
			t.Fatalf("ForgetBoot: %v, seen: %v", err, BootSeen(run))
		}
	}
	// A soft reboot keeps the folder: what goes uncounted in the boot after it is not this one.
	if left, err := os.ReadDir(run); err != nil || len(left) > 0 {
		t.Errorf("after an orderly end %v (%v) are left, want nothing", left, err)
	}
}
