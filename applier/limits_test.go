package applier

import (
	"io"
	"runtime/debug"
	"testing"
)

// The program, not the test, sets the limit that TestHostileMemory of package bundle
// relies on.
func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "")
	Main(t.Context(), []string{"help"}, io.Discard, io.Discard)
	if got := debug.SetMemoryLimit(-1); got != 48<<20 {
		t.Errorf("the memory limit is %d, want 48 MiB", got)
	}
	debug.SetMemoryLimit(before)
	t.Setenv("GOMEMLIMIT", "1GiB")
	Main(t.Context(), []string{"help"}, io.Discard, io.Discard)
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("the memory limit is %d though the environment has one", got)
	}
}
