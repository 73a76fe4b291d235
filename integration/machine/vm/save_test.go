package vm_test

import (
	"path/filepath"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/vm"
)

// A machine goes on where another one was saved, in its memory and on its disk, as
// often as one likes.
func TestSave(t *testing.T) {
	t.Parallel()
	o := vm.Options{DataSize: 64 << 20}
	m := machine.StartVM(t, o)
	ctx := t.Context()
	sh(t, m, "echo memory > /run/here; echo cache > /data/here")
	o.From = filepath.Join(t.TempDir(), "saved")
	if err := m.Save(ctx, o.From); err != nil {
		t.Fatal(err)
	}
	m.Stop()
	for range 2 {
		m := machine.StartVM(t, o)
		if got := sh(t, m, "cat /run/here /data/here; echo changed > /data/here"); got != "memory\ncache" {
			t.Errorf("a machine that was saved holds %q", got)
		}
		m.Stop()
	}
}
