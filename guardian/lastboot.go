package guardian

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/watchdog"
)

// See reset.go for the second.
const (
	cleanMark = bootcheck.CleanMark
	hardMark  = bootcheck.HardMark
)

// Where the kernel says how the last boot ended. Variables for the tests.
var (
	bootIDFile = "/proc/sys/kernel/random/boot_id"
	watchdogs  = "/sys/class/watchdog/watchdog*/bootstatus"
	pstore     = "/sys/fs/pstore/dmesg-*"
)

// readBootID asks the kernel which boot this is; empty if it does not say.
func readBootID() string {
	data, err := os.ReadFile(bootIDFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// ending is how the boot before this one ended, and what says so.
type ending struct {
	last  LastBoot
	why   string // one clause
	panic string // what identifies the panic that the kernel kept; empty: none
}

// lastBoot says how the boot that the record counted last ended. Watchdogs that
// keep no status and kernels without pstore make a hard end look like an unclean
// one, so counting never depends on it.
//
// Where nothing archives the panics (systemd-pstore), one that was seen is there
// at each boot after it: only one that the record does not know is new.
func (g *guardian) lastBoot(record *bootcheck.Record) ending {
	e := ending{last: LastUnclean, why: "nothing says that it was shut down", panic: keptPanic()}
	mark := func(name string) bool {
		data, err := os.ReadFile(filepath.Join(g.store.Dir(), name))
		return err == nil && record.Trial != nil && record.Trial.BootID != "" && string(bytes.TrimSpace(data)) == record.Trial.BootID
	}
	switch {
	case watchdogReset():
		e.last, e.why = LastHard, "the hardware watchdog reset the machine"
	case e.panic != "" && e.panic != record.LastPanic:
		e.last, e.why = LastHard, "the kernel panicked"
	case mark(hardMark):
		e.last, e.why = LastHard, "systemd did not answer and the guardian reset the machine"
	case mark(cleanMark):
		e.last, e.why = LastClean, "it was shut down"
	}
	return e
}

func watchdogReset() bool {
	names, _ := filepath.Glob(watchdogs) // the only error is a bad pattern
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if status, err := strconv.ParseUint(strings.TrimSpace(string(data)), 0, 32); err == nil && status&watchdog.CardReset != 0 {
			return true
		}
	}
	return false
}

// keptPanic identifies what pstore holds, by the names, sizes and times of its
// files: reading them all may mean reading slow NVRAM. Empty: it holds no panic.
func keptPanic() string {
	names, _ := filepath.Glob(pstore)
	sum := sha256.New()
	found := false
	for _, name := range names {
		if info, err := os.Stat(name); err == nil {
			found = true
			fmt.Fprintf(sum, "%s %d %d\n", info.Name(), info.Size(), info.ModTime().UnixNano())
		}
	}
	if !found {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// panicText is the end of what the kernel said before it panicked, at most
// limit bytes; empty: nothing is kept.
func panicText(limit int) string {
	names, _ := filepath.Glob(pstore)
	for _, name := range names {
		// The kernel writes the newest part first, and numbers from there.
		if data, err := os.ReadFile(name); err == nil && len(data) > 0 {
			return strings.ToValidUTF8(string(data[max(0, len(data)-limit):]), "\uFFFD")
		}
	}
	return ""
}

// shutdown leaves the mark of an orderly shutdown, durably. A device that has
// nothing on trial counts no boots and writes none.
func (g *guardian) shutdown() error { return g.leaveMark(cleanMark) }

func (g *guardian) leaveMark(name string) error {
	active, err := g.active()
	if err != nil || active == nil || !active.Record.Phase.Counted() || g.bootID == "" {
		return err
	}
	dir := g.store.Dir()
	err = renameio.WriteFile(filepath.Join(dir, name), []byte(g.bootID+"\n"), 0o600,
		renameio.WithTempDir(dir), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return fmt.Errorf("cannot leave the mark %s: %w", name, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
