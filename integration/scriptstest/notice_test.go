package scriptstest

import (
	"os"
	"os/exec"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

// TestNotice: docs/NOTICE has the licences of the modules that are linked today.
func TestNotice(t *testing.T) {
	defer try.Fatal(t)
	want := try.Output(exec.Command("../../scripts/notice.sh"))
	got := try.Get(os.ReadFile("../../docs/NOTICE"))
	if string(got) != want {
		t.Errorf("docs/NOTICE is not what scripts/notice.sh prints (%d bytes, want %d): run make notice", len(got), len(want))
	}
}
