package guardian

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/watchdog"
)

// See reset.go for the second.
const (
	cleanMark = bootcheck.CleanMark
	hardMark  = bootcheck.HardMark
)

// maxDump bounds what is read of a file of pstore, in bytes: the largest that
// kernels are configured with are 64 KiB.
const maxDump = 1 << 20

// Where the kernel says how the last boot ended. Variables for the tests.
var (
	watchdogs = "/sys/class/watchdog/watchdog*/bootstatus"
	pstore    = "/sys/fs/pstore/dmesg-*"
)

// ending is how the boot before this one ended, and what says so.
type ending struct {
	last LastBoot
	why  string // one clause

	// What the record has to remember of it, see remember.
	panic   string // what identifies the panics that the kernel kept; empty: none
	healthy int    // WatchdogHealthy
	always  bool   // WatchdogAlways
}

// lastBoot says how the boot before this one ended. Watchdogs that keep no status
// and kernels without pstore make a hard end look like an unclean one, so counting
// never depends on it.
//
//	says so                                          the boot ended
//	-----------------------------------------------  --------------
//	the guardian's mark that it reset the machine    hard
//	the mark of an orderly shutdown                  clean, even against the watchdog and the kernel
//	the watchdog's bit                               hard, unless the bit is set in every boot
//	a panic in pstore that the record does not know  hard
//	none of them                                     unclean
//
// The bit is no evidence where it was set after an orderly shutdown (it is never
// cleared, or the watchdog ends the shutdowns), or in each of five healthy boots
// in a row. An orderly shutdown after which it is clear makes it evidence again.
//
// Where nothing archives the panics (systemd-pstore), one that was seen is there
// at each boot after it: only one that the record does not know is new.
func (g *guardian) lastBoot(record *bootcheck.Record) ending {
	e := ending{last: LastUnclean, why: "no mark of a shutdown", panic: keptPanic(),
		healthy: record.WatchdogHealthy, always: record.WatchdogAlways}
	mark := func(name string) bool {
		data, err := bootcheck.ReadRegular(filepath.Join(g.store.Dir(), name), 1<<10)
		return err == nil && string(data) == markOf(record)
	}
	bit, clean := watchdogReset(), mark(cleanMark)
	switch {
	case mark(hardMark):
		e.last, e.why = LastHard, "systemd did not answer and the guardian reset the machine"
	case clean:
		e.last, e.why = LastClean, "it was shut down"
	case bit && !e.always && e.healthy < hardStreak:
		e.last, e.why = LastHard, "the hardware watchdog reset the machine"
	case e.newPanic(record):
		e.last, e.why = LastHard, "the kernel panicked"
	}
	if clean {
		e.always = bit
	}
	if clean || !bit {
		e.healthy = 0
	}
	return e
}

// newPanic reports whether the kernel kept a panic that record does not know.
func (e *ending) newPanic(record *bootcheck.Record) bool {
	return e.panic != "" && e.panic != record.LastPanic
}

// isNews reports whether record lacks what e has to remember. On an ordinary
// boot it does not.
func (e *ending) isNews(record *bootcheck.Record) bool {
	return e.newPanic(record) || e.healthy != record.WatchdogHealthy || e.always != record.WatchdogAlways
}

// remember puts into next what e learned.
func (e *ending) remember(next *bootcheck.Record) {
	next.LastPanic = cmp.Or(e.panic, next.LastPanic)
	next.WatchdogHealthy, next.WatchdogAlways = e.healthy, e.always
}

// endStreak ends the streak of hard ends of the confirmed version of record as
// soon as its required checks stayed good: a version that works between them is
// not the cause. It changes nothing when they do not. It returns errMoved when
// the record changed meanwhile.
func (g *guardian) endStreak(ctx context.Context, record *bootcheck.Record) error {
	outcome, err := g.watch(ctx, record)
	if err != nil || !outcome.Good {
		return err
	}
	now, unlock, err := g.lockRecord(ctx, lockPatience)
	if err != nil {
		return err
	}
	defer unlock()
	if now.Generation != record.Generation {
		return errMoved
	}
	return g.commitDecision(ctx, Outlive(record, watchdogReset()))
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

// panics calls yield with each panic that pstore holds: the file, and the header
// and the text of the record. The kernel keeps other records, too, of an oops that
// it survived and of orderly ends (printk.always_kmsg_dump): the first word of the
// header says what it is ("Panic#1 Part2", fs/pstore/platform.c). A record that the
// kernel could not decompress (.enc.z) does not say it, and is no evidence.
func panics(yield func(info os.FileInfo, header, text string)) {
	names, _ := filepath.Glob(pstore)
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxDump {
			continue
		}
		data, _ := os.ReadFile(name) // the kernel has read its NVRAM when it mounted it
		header, text, _ := strings.Cut(string(data), "\n")
		if rest, ok := strings.CutPrefix(header, "Panic"); ok && (rest == "" || rest[0] < 'A') {
			yield(info, header, text)
		}
	}
}

// keptPanic identifies the panics that pstore holds, by the names, sizes and times
// of their files. Empty: it holds none.
func keptPanic() string {
	sum, found := sha256.New(), false
	panics(func(info os.FileInfo, _, _ string) {
		found = true
		fmt.Fprintf(sum, "%s %d %d\n", info.Name(), info.Size(), info.ModTime().UnixNano())
	})
	if !found {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// panicText is the end of what the kernel said before its newest panic, at most
// limit bytes; empty: nothing is kept. Of a panic in several parts the first is the
// end.
func panicText(limit int) string {
	var newest time.Time
	var said string
	panics(func(info os.FileInfo, header, text string) {
		if at := info.ModTime(); said == "" || strings.HasSuffix(header, " Part1") && !at.Before(newest) {
			newest, said = at, text
		}
	})
	return strings.ToValidUTF8(said[max(0, len(said)-limit):], "\uFFFD")
}

// shutdown leaves the mark of an orderly shutdown, durably, and takes away the
// mark of this boot: after a soft reboot the run directory and the boot ID are the
// same. A stop of the unit within a boot leaves both as they are.
func (g *guardian) shutdown(ctx context.Context) error {
	if stopsOnly(ctx) {
		return nil
	}
	return errors.Join(bootcheck.ForgetBoot(g.cfg.Run), g.leaveMark(cleanMark))
}

// stopsOnly reports whether systemd runs this program to stop its unit while
// the system is not shut down. Before systemd 248 that cannot be known.
func stopsOnly(ctx context.Context) bool {
	if os.Getenv("SYSTEMD_EXEC_PID") != strconv.Itoa(os.Getpid()) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // TimeoutStopSec= is 15 s
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return false
	}
	u, err := conn.Unit(ctx, "shutdown.target")
	return err == nil && u.Job == 0 && u.Active == "inactive"
}

// marks reports whether the next boot will ask how this one ended: something is
// on trial, or what a hard end means is not settled. Else a shutdown writes nothing.
func marks(r *bootcheck.Record) bool {
	return r.Phase.Counted() || len(r.HardStreak) > 0 || r.WatchdogHealthy > 0 && r.WatchdogHealthy < hardStreak
}

// markOf is the content of a mark that says something of the boot which r was the
// record of in the end. Each boot that counts makes another generation, so a mark
// speaks for one boot only, also where all boots have the same ID.
func markOf(r *bootcheck.Record) string { return fmt.Sprintf("generation %d\n", r.Generation) }

func (g *guardian) leaveMark(name string) error {
	active, err := g.active()
	if err != nil || active == nil || !marks(active.Record) {
		return err
	}
	dir := g.store.Dir()
	if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && info.IsDir() {
		if err := bootcheck.MoveAside(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := bootcheck.ReplaceFile(filepath.Join(dir, name), []byte(markOf(active.Record)), 0o600, true); err != nil {
		return fmt.Errorf("cannot leave the mark %s: %w", name, err)
	}
	return nil
}
