package guardian

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/tope-ota/ota/bootcheck"
)

// cleanMark is the file of the store that an orderly shutdown leaves: the ID of
// the boot that ended with it. It names its boot, so it never needs removing.
const cleanMark = ".clean-shutdown"

// Where the kernel says how the last boot ended. Variables for the tests.
var (
	bootIDFile = "/proc/sys/kernel/random/boot_id"
	watchdogs  = "/sys/class/watchdog/watchdog*/bootstatus"
	pstore     = "/sys/fs/pstore/dmesg-*"
)

// cardReset is the bit of a watchdog's bootstatus that says it reset the
// machine: WDIOF_CARDRESET, linux/watchdog.h.
const cardReset = 0x20

// readBootID asks the kernel which boot this is; empty if it does not say.
func readBootID() string {
	data, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// lastBoot says how the boot that the record counted last ended. Watchdogs that
// keep no status and kernels without pstore make a hard end look like an unclean
// one, so counting never depends on it.
func (g *guardian) lastBoot(record *bootcheck.Record) LastBoot {
	names, _ := filepath.Glob(watchdogs) // the only error is a bad pattern
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if status, err := strconv.ParseUint(strings.TrimSpace(string(data)), 0, 32); err == nil && status&cardReset != 0 {
			return LastHard
		}
	}
	if panics, _ := filepath.Glob(pstore); len(panics) > 0 {
		return LastHard
	}
	mark, err := os.ReadFile(filepath.Join(g.store.Dir(), cleanMark))
	if err == nil && record.Trial != nil && record.Trial.BootID != "" &&
		string(bytes.TrimSpace(mark)) == record.Trial.BootID {
		return LastClean
	}
	return LastUnclean
}

// shutdown leaves the mark of an orderly shutdown, durably. A device that has
// nothing on trial counts no boots and writes none.
func (g *guardian) shutdown() error {
	active, err := g.active()
	if err != nil || active == nil || !active.Record.Phase.Counted() || g.bootID == "" {
		return err
	}
	dir := g.store.Dir()
	err = renameio.WriteFile(filepath.Join(dir, cleanMark), []byte(g.bootID+"\n"), 0o600,
		renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return fmt.Errorf("cannot leave the mark of an orderly shutdown: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
