package applier

import (
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// limitFiles lets this process make no file longer than n bytes until restore is
// called: a wall behind the checks of the unpacking, which compare every length
// with the manifest. A write beyond it is EFBIG: Go ignores the signal SIGXFSZ,
// which would end another program.
//
// The limit must not be left behind: a check script that is started under it would
// inherit it, and be killed by that signal.
func limitFiles(n int64) (restore func(), err error) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	if uint64(n) >= before.Cur {
		return func() {}, nil
	}
	limit := before
	limit.Cur = uint64(n) // the soft one, which may be raised again
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return nil, os.NewSyscallError("setrlimit", err)
	}
	return func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &before) }, nil
}

// longestFile is the longest file that may be written while b is unpacked, bytes: the
// bundle itself may still be growing, and stdout and stderr may be files, which the
// limit counts from their beginning.
func longestFile(b *openBundle) int64 {
	longest := max(b.head.Size(b.manifest), bootcheck.MaxManifest)
	for _, f := range []*os.File{os.Stdout, os.Stderr} {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			longest = max(longest, info.Size()+roomToTell)
		}
	}
	for i := range b.manifest.Entries {
		longest = max(longest, b.manifest.Entries[i].Size)
	}
	return longest
}

// roomToTell is how much an install may print while it unpacks, in bytes: its lines
// are a few KiB.
const roomToTell = 1 << 20

// guardUnpack is limitFiles for the unpacking of b. It is a second wall: a system
// that does not have it goes on without.
func (a *applier) guardUnpack(b *openBundle) (restore func()) {
	restore, err := limitFiles(longestFile(b))
	if err != nil {
		a.logf("unpacking without a limit for the length of files: %v", err)
		return func() {}
	}
	return restore
}

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

// noCores keeps what this process knows (passwords of proxies, signatures in
// addresses) out of core dumps. Go writes none by itself; GOTRACEBACK=crash does.
func noCores() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("cannot forbid core dumps: %w", os.NewSyscallError("setrlimit", err))
	}
	return nil
}
