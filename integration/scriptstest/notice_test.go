package scriptstest

import (
	"os"
	"os/exec"
	"testing"
)

// TestNotice: docs/NOTICE has the licences of the modules that are linked today.
func TestNotice(t *testing.T) {
	cmd := exec.Command("../../scripts/notice.sh")
	cmd.Stderr = os.Stderr
	want, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/NOTICE")
	if err != nil || string(got) != string(want) {
		t.Errorf("docs/NOTICE is not what scripts/notice.sh prints (%d bytes, want %d; %v): run make notice", len(got), len(want), err)
	}
}
