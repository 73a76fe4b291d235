package applier

import (
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// memoryLimit is what Go's collector works towards, bytes: below it, memory is
// given back late, as always; near it, early. The worst bundle (65,536 entries with
// long names) takes 68 MiB without and, at a little more time, less than 64 with.
// A normal install needs half of it.
const memoryLimit = 48 << 20

// garbage is how much may be dead before it is collected, percent of what lives. An
// install lives on few MB (its manifest and the buffers, which are made once) and
// leaves little behind: with Go's 100 it was collected 56 times for 600 MB.
const garbage = 150

// limitMemory sets both, unless the environment says otherwise.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}

// readAhead lets the kernel read this program whole, in one go, while it starts. It
// is needed whole, and page by page a cold flash takes twice as long to give it.
func readAhead() {
	if f, err := os.Open("/proc/self/exe"); err == nil {
		defer f.Close()
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_WILLNEED)
	}
}
