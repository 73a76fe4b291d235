package guardian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// bit is what the hardware watchdog says from now on.
func (b *board) bit(status string) {
	b.t.Helper()
	dir := filepath.Join(filepath.Dir(filepath.Dir(watchdogs)), "watchdog0")
	b.must(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "bootstatus"), []byte(status), 0o644))
}

// kept puts a record into pstore, in place of those that are there.
func (b *board) kept(name, text string) {
	b.t.Helper()
	dir := filepath.Dir(pstore)
	b.must(os.RemoveAll(dir), os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
}

// shutdown runs `ota-guardian shutdown`, as an orderly end of this boot does.
func (b *board) shutdown() {
	b.t.Helper()
	b.must(b.guardian().shutdown(context.Background()))
}

// confirm runs `ota-guardian confirm` on a version that is healthy, or is not.
func (b *board) confirm(healthy bool) {
	b.t.Helper()
	g := b.guardian()
	g.cfg.Checks, g.cfg.Trial.Stable = []config.Check{}, time.Millisecond
	if !healthy {
		g.cfg.Checks = []config.Check{{Name: "answers", HTTP: "http://127.0.0.1:1/", Required: true, Timeout: time.Second}}
		g.cfg.Trial.Deadline = time.Millisecond
	}
	b.must(g.confirm(context.Background()))
}

// activate puts version on trial in this boot, as an install does.
func (b *board) activate(version string) {
	b.t.Helper()
	b.commit(b.record().Activate(b.add(version), "", b.guardian().bootID, nil, func(*bootcheck.Ref) bool { return true }))
}

// rounds lets n boots pass, each of which live lives, until 3.0 does not run, or
// only a fallback of it.
func (b *board) rounds(n int, live func(boot int)) {
	b.t.Helper()
	for i := range n {
		live(i)
		if r := b.record(); b.runs() != "3.0" || r.Phase != bootcheck.PhaseConfirmed || r.LastRollback != nil {
			b.t.Fatalf("after %d boots %s runs, phase %s, rollback %+v; want 3.0 confirmed\n%s", i+1, b.runs(), r.Phase, r.LastRollback, &b.log)
		}
	}
}

// What says that a machine was reset, at each boot of a healthy version that is
// confirmed: it is never rolled back, and after a few boots nothing is written.
func TestConfirmedVersionSurvivesWhatIsAlwaysThere(t *testing.T) {
	const settled = 12
	for _, row := range []struct {
		name  string
		boots int
		live  func(b *board, boot int)
	}{
		{"the bit, and orderly reboots", 1000, func(b *board, i int) {
			b.bit("32\n")
			b.must(b.boot(""))
			b.shutdown()
		}},
		{"the bit, orderly reboots and health", 100, func(b *board, i int) {
			b.bit("32\n")
			b.must(b.boot(""))
			b.confirm(true)
			b.shutdown()
		}},
		{"the bit, health and power cuts", 100, func(b *board, i int) {
			b.bit("32\n")
			b.must(b.boot(""))
			b.confirm(true)
		}},
		{"a watchdog that ends each shutdown, and power cuts between", 100, func(b *board, i int) {
			b.bit([]string{"32\n", "32\n", "0\n"}[i%3])
			b.must(b.boot(""))
			if i%3 != 1 {
				b.shutdown()
			}
		}},
		{"the same, and health", 100, func(b *board, i int) {
			b.bit([]string{"32\n", "32\n", "0\n"}[i%3])
			b.must(b.boot(""))
			b.confirm(true)
			if i%3 != 1 {
				b.shutdown()
			}
		}},
		{"a record of each shutdown", 100, func(b *board, i int) {
			b.kept(fmt.Sprintf("dmesg-ramoops-%d", i%3), fmt.Sprintf("Shutdown#%d Part1\n<6>[  100.0] reboot: Restarting system\n", i))
			b.must(b.boot(""))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBoard(t)
			before := ""
			b.rounds(row.boots, func(i int) {
				row.live(b, i)
				if i == settled {
					before = b.tree()
				}
			})
			if b.tree() != before {
				t.Errorf("boots after the first %d write:\n%s", settled, b.tree())
			}
		})
	}
}

// A loop of hard ends is still one: where the bit is clear at other times, and
// where the version was healthy before it began.
func TestHardEndsInARowStillCount(t *testing.T) {
	for _, row := range []struct {
		name   string
		before func(b *board) // the loop
		want   int            // boots of it until 2.0 runs
	}{
		{"from a device of which nothing is known", func(b *board) {}, hardStreak},
		{"after resets of a version that was healthy", func(b *board) {
			for range 3 {
				b.bit("32")
				b.must(b.boot(""))
				b.confirm(true)
			}
		}, hardStreak},
		{"after resets of a version that was healthy, with power cuts between", func(b *board) {
			for range 2 * hardStreak {
				b.bit("32")
				b.must(b.boot(""))
				b.confirm(true)
				b.bit("0")
				b.must(b.boot(""))
			}
		}, hardStreak},
		{"after a shutdown that hung once, and orderly ones", func(b *board) {
			b.bit("32")
			b.must(b.boot("")) // a reset
			b.shutdown()
			b.must(b.boot("")) // the shutdown hung, and was ended by the watchdog
			b.bit("0")
			b.activate("4.0")
			b.shutdown()
			b.must(b.boot("")) // an orderly one in a trial
			b.confirm(true)
			b.must(b.boot(""))
		}, hardStreak},
		{"of a version that is not healthy", func(b *board) {
			b.bit("32")
			b.must(b.boot(""))
			b.confirm(false)
		}, hardStreak - 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBoard(t)
			row.before(b)
			if l := b.record().LastRollback; l != nil {
				t.Fatalf("before the loop: %+v", l)
			}
			was := b.runs()
			b.bit("32")
			n := 0
			for b.record().LastRollback == nil && n < 3*hardStreak {
				b.must(b.boot(""))
				n++
			}
			l := b.record().LastRollback
			if n != row.want || l == nil || l.From != was || l.Cause != bootcheck.CauseHard {
				t.Errorf("after %d boots: rollback %+v; want one of %s for its hard boots after %d", n, l, was, row.want)
			}
		})
	}
}

// A trial that is never confirmed ends, also if the machine reports wrongly.
func TestTrialEndsOnAnyMachine(t *testing.T) {
	for _, row := range []struct {
		name    string
		id      string
		live    func(b *board, i int) // one boot, from its end on
		atMost  int                   // boots that it has at most
		atLeast int
	}{
		{"the bit, and power cuts", "", func(b *board, i int) { b.bit("32"); b.must(b.boot("")) }, 3, 3},
		{"the bit that is always set, and power cuts", "", func(b *board, i int) {
			b.bit("32")
			if i == 0 {
				b.shutdown()
			}
			b.must(b.boot(""))
		}, 1 + 6, 1 + 6},
		{"the bit, and orderly reboots", "", func(b *board, i int) { b.bit("32"); b.shutdown(); b.must(b.boot("")) }, 10, 10},
		{"panics", "", func(b *board, i int) {
			b.kept("dmesg-efi-1", fmt.Sprintf("Panic#%d Part1\n<0>[   10.%d] Kernel panic - not syncing\n", i, i))
			b.must(b.boot(""))
		}, 3, 3},
		{"oopses", "", func(b *board, i int) {
			b.kept("dmesg-efi-1", fmt.Sprintf("Oops#%d Part1\n<0>[   10.%d] Oops: 0002\n", i, i))
			b.must(b.boot(""))
		}, 6, 6},
		{"power cuts, one boot ID", "same", func(b *board, i int) { b.must(b.boot("")) }, 6, 6},
		{"orderly reboots, one boot ID", "same", func(b *board, i int) { b.shutdown(); b.must(b.boot("")) }, 10, 10},
		{"resets, one boot ID", "same", func(b *board, i int) { b.bit("32"); b.must(b.boot("")) }, 3, 3},
		{"one orderly reboot and then power cuts, one boot ID", "same", func(b *board, i int) {
			if i == 0 {
				b.shutdown()
			}
			b.must(b.boot(""))
		}, 1 + 6, 1 + 6},
		{"soft reboots, which keep the run directory", "same", func(b *board, i int) {
			b.shutdown()
			b.must(b.guardian().boot(context.Background(), ""))
		}, 10, 10},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBoard(t)
			b.id = row.id
			b.must(b.boot(""))
			b.activate("4.0")
			n := 0
			for b.runs() == "4.0" && n < 30 {
				row.live(b, n)
				n++
				// The same boot, asked again.
				before := b.tree()
				b.must(b.guardian().boot(context.Background(), ""))
				if b.tree() != before {
					t.Fatalf("boot %d is counted more than once\n%s", n, &b.log)
				}
			}
			if n < row.atLeast || n > row.atMost || b.runs() != "3.0" {
				t.Errorf("%s runs after %d boots, want 3.0 after %d to %d\n%s", b.runs(), n, row.atLeast, row.atMost, &b.log)
			}
		})
	}
}

// Where all boots have one ID, a confirmed version is neither counted nor written
// about, and a streak of it is counted.
func TestOneBootIDForEver(t *testing.T) {
	b := newBoard(t)
	b.id = "same"
	before := b.tree()
	b.rounds(50, func(i int) {
		b.must(b.boot(""))
		if i%2 == 0 {
			b.shutdown()
		}
	})
	if b.tree() != before {
		t.Errorf("ordinary boots write:\n%s", b.tree())
	}
	for i := range hardStreak {
		if b.runs() != "3.0" {
			t.Fatalf("%s runs after %d hard ends", b.runs(), i)
		}
		b.must(b.boot(LastHard), b.guardian().boot(context.Background(), LastHard))
	}
	if r := b.record(); b.runs() != "2.0" || len(r.LastRollback.BootIDs) != hardStreak {
		t.Errorf("%s runs after %d hard ends, rollback %+v; want 2.0", b.runs(), hardStreak, r.LastRollback)
	}
}

// An orderly mark speaks for one boot.
func TestOrderlyMarkIsUsedUp(t *testing.T) {
	b := newBoard(t)
	b.id = "same"
	b.must(b.boot(""))
	b.activate("4.0")
	b.shutdown()
	for range 3 {
		b.must(b.boot(""))
	}
	if tr := b.record().Trial; tr == nil || tr.Clean != 1 || tr.Unclean != 2 {
		t.Errorf("after an orderly end and two power cuts: %+v, want 1 clean, 2 unclean", tr)
	}
}

// Nothing archives what the kernel keeps of a panic: it is there at each boot
// after it, and must not be taken for a new one each time.
func TestPanicThatStaysInPstoreIsCountedOnce(t *testing.T) {
	b := newBoard(t)
	dir := filepath.Dir(pstore)
	b.must(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "dmesg-ramoops-0"), []byte("Panic#1 Part1\nsysrq triggered crash\n"), 0o600))
	for i := range 3 * hardStreak {
		// What else is kept beside it does not make it another one.
		b.must(os.WriteFile(filepath.Join(dir, "dmesg-ramoops-9"), fmt.Appendf(nil, "Shutdown#%d Part1\nreboot: Power down\n", i), 0o600), b.boot(""))
	}
	if r := b.record(); r.Current.Version != "3.0" || r.LastRollback != nil || len(r.HardStreak) != 0 {
		t.Fatalf("after one panic and %d boots: %s, streak %v, rollback %+v; want 3.0 confirmed", 3*hardStreak, r.Current, r.HardStreak, r.LastRollback)
	}
	// A panic at each boot is another matter, and the text of the last is kept.
	for i := range hardStreak {
		b.must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("dmesg-ramoops-%d", 1+i)), fmt.Appendf(nil, "Panic#2 Part1\nnull pointer %d in the printer's driver\n", i), 0o600), b.boot(""))
	}
	r := b.record()
	if r.Current.Version != "2.0" || r.LastRollback.Cause != bootcheck.CauseHard || len(r.LastRollback.BootIDs) != hardStreak {
		t.Fatalf("after %d panics: %s, rollback %+v; want 2.0", hardStreak, r.Current, r.LastRollback)
	}
	if want := fmt.Sprintf("null pointer %d in", hardStreak-1); !strings.Contains(r.LastRollback.Output, want) || strings.Contains(r.LastRollback.Output, "Power down") {
		t.Errorf("output = %q, want what the kernel said last: %s", r.LastRollback.Output, want)
	}
}

// A panic whose text is larger than one record of the memory that keeps it.
func TestPanicInParts(t *testing.T) {
	b := newBoard(t)
	dir := filepath.Dir(pstore)
	b.must(os.MkdirAll(dir, 0o755))
	now := time.Now()
	for part := range 3 { // the newest text first; the files' times tell nothing
		name := filepath.Join(dir, fmt.Sprintf("dmesg-efi-17000000%d01001", part+1))
		b.must(os.WriteFile(name, fmt.Appendf(nil, "Panic#1 Part%d\nwhat was said %d before the end\n", part+1, part), 0o600),
			os.Chtimes(name, now, now.Add(time.Duration(part)*time.Microsecond)))
	}
	if got := panicText(100); got != "what was said 0 before the end\n" {
		t.Errorf("panicText = %q, want the first part", got)
	}
	if got := panicText(5); got != " end\n" {
		t.Errorf("panicText(5) = %q, want its last 5 bytes", got)
	}
}

// The first word of a record says what it is.
func TestKeptPanic(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       bool
	}{
		{"dmesg-ramoops-0", "Panic#1 Part1\n<0>[   10.0] Kernel panic - not syncing\n", true},
		{"dmesg-efi-170000000101001", "Panic#2 Part7\n<6>[    1.0] usb 1-1: new device\n", true},
		{"dmesg-erst-5723847", "Panic", true},
		{"dmesg-ramoops-0", "Oops#1 Part1\n<0>[   10.0] Oops: 0002 [#1] SMP\n", false},
		{"dmesg-ramoops-0", "Shutdown#1 Part1\n<6>[   10.0] reboot: Restarting system\n", false},
		{"dmesg-ramoops-0", "Restart#1 Part1\n<6>[   10.0] Kernel panic - not syncing\n", false},
		{"dmesg-ramoops-0", "Halt#1 Part1\n", false},
		{"dmesg-ramoops-0", "Poweroff#1 Part1\n", false},
		{"dmesg-ramoops-0", "Emergency#1 Part1\n", false},
		{"dmesg-ramoops-0", "Unknown#1 Part1\n", false},
		{"dmesg-ramoops-0", "Panicked#1 Part1\n", false},
		{"dmesg-ramoops-0", "", false},
		{"dmesg-ramoops-0", "\x00\xff\x10\nPanic#1 Part1\n", false},
		{"dmesg-ramoops-0.enc.z", "x\x9c\x4b\xcc\n", false},
		{"console-ramoops-0", "Panic#1 Part1\n", false},
	} {
		b := newBoard(t)
		b.kept(row.name, row.text)
		if got := keptPanic() != ""; got != row.want {
			t.Errorf("%s %q: a panic: %v, want %v", row.name, row.text, got, row.want)
		}
	}
}

func TestLastBoot(t *testing.T) {
	const panicked = "Panic#1 Part1\n"
	for _, row := range []struct {
		name     string
		watchdog string // bootstatus; empty: there is none
		kept     string // of pstore; empty: nothing
		mark     string // the file
		want     LastBoot
	}{
		{"nothing is known", "", "", "", LastUnclean},
		{"a watchdog reset the machine", "32\n", "", "", LastHard},
		{"as hexadecimal", "0x20\n", "", "", LastHard},
		{"with other bits", "34", "", "", LastHard},
		{"a watchdog that did nothing", "0\n", "", "", LastUnclean},
		{"another reason than a reset", "1\n", "", "", LastUnclean},
		{"a watchdog that says nonsense", "reset\n", "", cleanMark, LastClean},
		{"a panic", "0\n", panicked, "", LastHard},
		{"an oops", "0\n", "Oops#1 Part1\n", "", LastUnclean},
		{"an orderly shutdown", "0\n", "", cleanMark, LastClean},
		{"an orderly shutdown, ended by the watchdog", "32\n", "", cleanMark, LastClean},
		{"an orderly shutdown, and a panic in its end", "0\n", panicked, cleanMark, LastClean},
		{"the guardian reset the machine", "0\n", "", hardMark, LastHard},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBoard(t)
			b.activate("4.0")
			if row.watchdog != "" {
				b.bit(row.watchdog)
			}
			if row.kept != "" {
				b.kept("dmesg-ramoops-0", row.kept)
			}
			g := b.guardian()
			if row.mark != "" {
				b.must(g.leaveMark(row.mark))
			}
			if got := g.lastBoot(b.record()); got.last != row.want {
				t.Errorf("lastBoot = %s (%s), want %s", got.last, got.why, row.want)
			}
			// A mark of an older boot says nothing about the last one.
			if row.mark != "" && row.watchdog == "0\n" && row.kept == "" {
				b.commit(b.record().Clone())
				if got := g.lastBoot(b.record()); got.last != LastUnclean {
					t.Errorf("with the mark of an older boot: %s, want unclean", got.last)
				}
			}
		})
	}
}

// A device that has nothing on trial, and no streak, writes nothing when it is
// shut down.
func TestShutdownWrites(t *testing.T) {
	b := newBoard(t)
	b.must(b.boot(""))
	before := b.tree()
	b.shutdown()
	if b.tree() != before {
		t.Errorf("an ordinary shutdown writes:\n%s", b.tree())
	}
	if bootcheck.BootSeen(b.memory) {
		t.Error("the mark of the boot in the run directory is still there")
	}
	b.must(b.boot(LastHard))
	b.shutdown()
	if _, err := os.Stat(b.path(cleanMark)); err != nil {
		t.Errorf("a shutdown within a streak of hard ends: %v", err)
	}
}
