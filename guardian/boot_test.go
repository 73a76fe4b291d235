package guardian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// board is a device's store and what its kernel says, without a device.
type board struct {
	t      testing.TB
	store  *bootcheck.Store
	boots  int
	id     string       // of each boot; empty: each has another one
	memory string       // the run directory
	log    bytes.Buffer // of the last boot
}

// newBoard is a board with factory 1.0, previous 2.0 and current 3.0, confirmed.
func newBoard(t testing.TB) *board {
	t.Helper()
	dir := t.TempDir()
	for _, v := range []struct {
		name  *string
		value string
	}{
		{&watchdogs, filepath.Join(dir, "sys", "watchdog*", "bootstatus")},
		{&pstore, filepath.Join(dir, "pstore", "dmesg-*")},
	} {
		old := *v.name
		*v.name = v.value
		t.Cleanup(func() { *v.name = old })
	}
	s, err := bootcheck.Create(filepath.Join(dir, "versions"))
	if err != nil {
		t.Fatal(err)
	}
	b := &board{t: t, store: s}
	one, two, three := b.add("1.0"), b.add("2.0"), b.add("3.0")
	b.commit(&bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: two, Previous: one, Factory: one, Confirmed: []bootcheck.Ref{*one, *two}})
	b.commit(&bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: three, Previous: two, Factory: one, Confirmed: []bootcheck.Ref{*one, *two, *three}})
	return b
}

func (b *board) must(errs ...error) {
	b.t.Helper()
	if err := errors.Join(errs...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *board) path(elem ...string) string {
	return filepath.Join(append([]string{b.store.Dir()}, elem...)...)
}

// add puts a version of one program into the store, as an install would.
func (b *board) add(version string) *bootcheck.Ref {
	b.t.Helper()
	content := []byte("this is " + version + "\n")
	sum := sha256.Sum256(content)
	raw, err := json.Marshal(bootcheck.Manifest{
		Format: bootcheck.ManifestFormat, Models: []string{"x1"}, Version: version, Size: int64(len(content)),
		Entries: []bootcheck.Entry{
			{Path: "bin", Type: bootcheck.TypeDir, Mode: 0o755},
			{Path: "bin/app", Type: bootcheck.TypeFile, Mode: 0o755, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])},
		},
	})
	b.must(err)
	root, err := b.store.Stage(version)
	b.must(err)
	defer root.Close()
	b.must(root.Mkdir("bin", 0o755), root.Mkdir(".ota", 0o755),
		root.WriteFile("bin/app", content, 0o755), root.WriteFile(".ota/manifest.json", raw, 0o644),
		b.store.Publish(version, false))
	return &bootcheck.Ref{Version: version, Digest: bootcheck.Digest(raw)}
}

func (b *board) commit(next *bootcheck.Record) {
	b.t.Helper()
	b.must(b.store.Commit(next))
}

func (b *board) record() *bootcheck.Record {
	b.t.Helper()
	active, err := b.store.Active()
	b.must(err)
	return active.Record
}

// boot runs `ota-guardian boot` as the next boot; last is empty: the kernel is asked.
func (b *board) boot(last LastBoot) error {
	b.t.Helper()
	b.boots++
	b.memory = filepath.Join(b.t.TempDir(), "ota") // in memory: it goes with the boot
	return b.guardian().boot(context.Background(), last)
}

// guardian is one run of the program in this boot, as nothing but the file system
// knows of the one before.
func (b *board) guardian() *command {
	b.t.Helper()
	b.log.Reset()
	cfg := config.Default("")
	b.must(cfg.SetRoot(b.store.Dir()))
	cfg.Run = b.memory
	id := b.id
	if id == "" {
		id = fmt.Sprintf("boot-%d", b.boots)
	}
	return &command{guardian: &guardian{cfg: cfg, store: b.store, bootID: id, log: &b.log, ask: noListener}, out: &b.log}
}

// runs is what a service that is started now runs.
func (b *board) runs() string {
	data, err := os.ReadFile(b.path("current", "bin", "app"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(strings.TrimPrefix(string(data), "this is "))
}

func TestOrdinaryBootWritesNothing(t *testing.T) {
	b := newBoard(t)
	before := b.tree()
	for _, last := range []LastBoot{LastClean, LastUnclean, ""} {
		b.must(b.boot(last))
	}
	if after := b.tree(); after != before {
		t.Errorf("three ordinary boots changed the store:\n%s\nwas:\n%s", after, before)
	}
}

// tree is every name of the store, with what changes at a write. The
// lock is no part of it: its file is there, empty, from the first boot on.
func (b *board) tree() string {
	b.t.Helper()
	var s strings.Builder
	b.must(filepath.WalkDir(b.store.Dir(), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == ".lock" || name == b.store.Dir() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		fmt.Fprintln(&s, name, st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim)
		return nil
	}))
	return s.String()
}

// With any damage to the record and the links, the boot runs the version that
// ran, and the store is intact after it.
func TestBootWithDamage(t *testing.T) {
	relink := func(name, target string) func(*board) error {
		return func(b *board) error { return errors.Join(os.RemoveAll(b.path(name)), os.Symlink(target, b.path(name))) }
	}
	without := func(name string, put func(path string) error) func(*board) error {
		return func(b *board) error { return errors.Join(os.RemoveAll(b.path(name)), put(b.path(name))) }
	}
	nothing := func(string) error { return nil }
	directory := func(p string) error { return os.Mkdir(p, 0o755) }
	fifo := func(p string) error { return unix.Mkfifo(p, 0o600) }
	file := func(data string) func(string) error {
		return func(p string) error { return os.WriteFile(p, []byte(data), 0o600) }
	}
	const record = ".generations/2/record.json"
	// Of a generation without a backup, as older programs made them: it is lost.
	lost := func(damage func(*board) error) func(*board) error {
		return func(b *board) error { return errors.Join(os.Remove(b.path(backup)), damage(b)) }
	}
	damages := map[string]func(*board) error{
		"the record is missing":            lost(without(record, nothing)),
		"the record is empty":              lost(without(record, file(""))),
		"the record is zeros":              lost(without(record, file(strings.Repeat("\x00", 700)))),
		"the record is garbage":            lost(without(record, file("\x8f\x02\xd1 {\x00\"schema\"\x91 ]]"))),
		"the record is another file":       lost(without(record, file("#!/bin/sh\nexit 0\n"))),
		"the record has two ends":          lost(without(record, file("{}{}"))),
		"the record is 0xff":               lost(without(record, file(strings.Repeat("\xff", 700)))),
		"the record is a directory":        lost(without(record, directory)),
		"the record is a FIFO":             lost(without(record, fifo)),
		"the record is a link":             lost(relink(record, "/etc/passwd")),
		"the record is a link to itself":   lost(relink(record, "record.json")),
		"the record counts 2^63":           edit(`"schema": 1`, `"schema": 1, "trial": {"hard": 9223372036854775808}`),
		"the record counts below zero":     edit(`"schema": 1`, `"schema": 1, "trial": {"hard": -1}`),
		"the record has a strange version": edit(`"version": "3.0"`, `"version": "../../etc"`),
		"all records are damaged": func(b *board) error {
			return errors.Join(os.Truncate(b.path(record), 3), os.Truncate(b.path(".generations/1/record.json"), 3),
				os.Truncate(b.path(backup), 3), os.Truncate(b.path(".generations/1/record.backup.json"), 3))
		},
		"the switch is missing":              without(".active", nothing),
		"the switch dangles":                 relink(".active", ".generations/9"),
		"the switch loops":                   relink(".active", ".active"),
		"the switch is absolute":             relink(".active", "/etc"),
		"the switch climbs out":              relink(".active", "../../etc"),
		"the switch is a directory":          without(".active", directory),
		"the switch is a file":               without(".active", file("x")),
		"the switch is a FIFO":               without(".active", fifo),
		"current is missing":                 without("current", nothing),
		"current dangles":                    relink("current", "v9"),
		"current loops":                      relink("current", "current"),
		"current is absolute":                relink("current", "/etc"),
		"current climbs out":                 relink("current", "../../etc"),
		"current is a file":                  without("current", file("x")),
		"current is a directory with files":  without("current", func(p string) error { return errors.Join(directory(p), os.WriteFile(p+"/x", nil, 0o600)) }),
		"previous is absolute":               relink("previous", "/etc"),
		"factory is missing":                 without("factory", nothing),
		"its link current is missing":        without(".generations/2/current", nothing),
		"its link current dangles":           relink(".generations/2/current", "../../v9"),
		"its link current is absolute":       relink(".generations/2/current", "/etc"),
		"its link current is a directory":    without(".generations/2/current", directory),
		"its link previous is current":       relink(".generations/2/previous", "../../v3.0"),
		"its link previous climbs":           relink(".generations/2/previous", "../../../../etc"),
		"its link factory is missing":        without(".generations/2/factory", nothing),
		"the lock is a directory":            without(".lock", directory),
		"the lock is a directory with files": without(".lock", func(p string) error { return errors.Join(directory(p), os.WriteFile(p+"/x", nil, 0o600)) }),
		"the lock is a FIFO":                 without(".lock", fifo),
		"a mark is a FIFO":                   without(".clean-shutdown", fifo),
		"the other mark is a FIFO":           without(".hard-reboot", fifo),
		"a mark is a directory":              without(".clean-shutdown", directory),
		"the lock is a link to elsewhere":    relink(".lock", "../elsewhere"),
		"the trash is a file":                without(".trash", file("x")),
		"the staging directory is missing":   without(".staging", nothing),
		"the generations are lost":           without(".generations", nothing),
		"the generations are a file":         without(".generations", file("x")),
		"switch and generations are lost": func(b *board) error {
			return errors.Join(os.Remove(b.path(".active")), os.RemoveAll(b.path(".generations")))
		},
		"only the versions are left": func(b *board) error {
			for _, name := range []string{".active", ".generations", ".staging", ".trash", "current", "previous", "factory"} {
				b.must(os.RemoveAll(b.path(name)))
			}
			return nil
		},
	}
	for what, damage := range damages {
		t.Run(what, func(t *testing.T) {
			b := newBoard(t)
			b.must(damage(b))
			if err := b.boot(LastUnclean); err != nil {
				t.Errorf("boot: %v", err)
			}
			if got := b.runs(); got != "3.0" {
				t.Errorf("runs %s, want 3.0\n%s", got, &b.log)
			}
			active, err := b.store.Active()
			if err != nil || active.Damage != "" || active.Record.LastRollback != nil {
				t.Errorf("after the boot: %+v, %v; want a whole store and no rollback", active, err)
			}
			if p := active.Record.Previous; p == nil || p.Version == "3.0" {
				t.Errorf("previous is %s, want another one than the current version", p)
			}
			// And from then on it is an ordinary device.
			before := b.tree()
			b.must(b.boot(LastUnclean))
			if active.Record.Phase == bootcheck.PhaseConfirmed && b.tree() != before {
				t.Errorf("the boot after it writes again:\n%s", &b.log)
			}
		})
	}
}

// backup is the second copy of the record of newBoard's active generation.
const backup = ".generations/2/record.backup.json"

// edit makes the record one that another program wrote, without a backup.
func edit(old, new string) func(*board) error {
	return func(b *board) error {
		b.must(os.Remove(b.path(backup)))
		name := b.path(".generations/2/record.json")
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		text := strings.Replace(string(data), old, new, 1)
		if text == string(data) {
			return fmt.Errorf("%q is not in the record", old)
		}
		return os.WriteFile(name, []byte(text), 0o600)
	}
}

// A power cut, or flash, may leave any part of the record.
func TestBootWithPartOfTheRecord(t *testing.T) {
	b := newBoard(t)
	name := b.path(".generations/2/record.json")
	whole, err := os.ReadFile(name)
	b.must(err)
	b.must(os.Remove(b.path(backup)))
	for n := range len(whole) - 1 { // without the line's end it is intact
		b.must(os.WriteFile(name, whole[:n], 0o600), b.boot(LastUnclean))
		active, err := b.store.Active()
		if b.runs() != "3.0" || err != nil || active.Damage != "" || active.Record.LastRollback != nil || active.Record.Generation != 3 {
			t.Fatalf("the record is cut to %d bytes: runs %s, %+v, %v\n%s", n, b.runs(), active, err, &b.log)
		}
		b.backToGeneration2()
	}
}

func (b *board) backToGeneration2() {
	b.t.Helper()
	b.must(os.Remove(b.path(".active")), os.Symlink(".generations/2", b.path(".active")), os.RemoveAll(b.path(".generations/3")))
}

// Flash may change any bit of a record, and any part of it into anything. While one
// copy is intact, nothing is lost: not the phase, not a block, not what is pending.
// With both damaged the device still runs what it ran, keeps factory, and blocks nothing.
func TestBootWithBitsOfTheRecordFlipped(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", s)
	random := rand.New(rand.NewPCG(s, 0))
	b := newBoard(t)
	next := b.record().Clone()
	next.Block(bootcheck.Ref{Version: "2.0", Digest: "sha256:x"}, bootcheck.CauseHealth, "answers")
	next.Floor, next.RevokedKeys = 7, []string{"00000000000000AA"}
	b.must(b.store.Commit(next), os.RemoveAll(b.path(".generations/2")), os.Rename(b.path(".generations/3"), b.path(".generations/2")))
	b.backToGeneration2()
	want := b.record()
	name, second := b.path(".generations/2/record.json"), b.path(backup)
	whole, err := os.ReadFile(name)
	b.must(err)
	n := 0
	try := func(what string, files map[string][]byte) {
		t.Helper()
		n++
		b.log.Reset()
		for name, data := range files {
			b.must(os.WriteFile(name, data, 0o600))
		}
		err := b.boot(LastUnclean)
		active, err2 := b.store.Active()
		if err != nil || err2 != nil || b.runs() != "3.0" || active.Record.LastRollback != nil || active.Record.Factory == nil || active.Record.Factory.Version != "1.0" {
			t.Errorf("%s: boot: %v, runs %s, %+v, %v\n%s", what, err, b.runs(), active, err2, &b.log)
		}
		if got := active.Record.Clone(); len(files) == 1 {
			got.Generation = want.Generation
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(bootcheck.Record{})); diff != "" || active.Damage != "" || active.Record.Generation != 3 {
				t.Errorf("%s: generation %d, damage %q; want both copies whole in generation 3 and no other record (-want +got):\n%s\n%s",
					what, active.Record.Generation, active.Damage, diff, &b.log)
			}
		}
		b.backToGeneration2()
		b.must(os.WriteFile(name, whole, 0o644), os.WriteFile(second, whole, 0o644))
	}
	garbage := func() []byte {
		data := bytes.Clone(whole)
		from := random.IntN(len(data))
		to := from + 1 + random.IntN(len(data)-from)
		for i := from; i < to; i++ {
			data[i] ^= byte(1 + random.IntN(255)) // no byte stays as it was
		}
		return data
	}
	for i := range whole {
		bit := random.IntN(8)
		data := bytes.Clone(whole)
		data[i] ^= 1 << bit
		try(fmt.Sprintf("bit %d of byte %d", bit, i), map[string][]byte{name: data})
	}
	for i := range 200 {
		one := []string{name, second}[i%2]
		try("garbage in "+filepath.Base(one), map[string][]byte{one: garbage()})
		try("garbage in both copies", map[string][]byte{name: garbage(), second: garbage()})
	}
	t.Logf("%d damaged records", n)
}

// A record of a newer program is read as far as it is known, and what is not
// known comes back when it is written.
func TestBootWithARecordOfTheFuture(t *testing.T) {
	b := newBoard(t)
	b.must(edit(`"schema": 1`, `"schema": 7, "color": "blue"`)(b))
	before := b.tree()
	b.must(b.boot(LastUnclean))
	if b.runs() != "3.0" || b.tree() != before {
		t.Errorf("runs %s and writes:\n%s", b.runs(), &b.log)
	}
	for range hardStreak {
		b.must(b.boot(LastHard))
	}
	data, err := os.ReadFile(b.path(".active", "record.json"))
	b.must(err)
	if !bytes.Contains(data, []byte(`"color": "blue"`)) || !bytes.Contains(data, []byte(`"schema": 7`)) || b.runs() != "2.0" {
		t.Errorf("runs %s with %s", b.runs(), data)
	}
}

// What a version consists of is damaged while others have nothing of it: the next
// intact one runs. With something to repair it from, it continues.
func TestBootWithDamagedVersions(t *testing.T) {
	for _, row := range []struct {
		name    string
		damaged []string
		want    string
		phase   bootcheck.Phase
		code    bootcheck.ExitCode
	}{
		{"current", []string{"3.0"}, "2.0", "fallback", 0},
		{"current and previous", []string{"3.0", "2.0"}, "1.0", "factory", 0},
		{"previous, which is not needed now", []string{"2.0"}, "3.0", "confirmed", 0},
		{"all", []string{"3.0", "2.0", "1.0"}, "3.0", "hold", bootcheck.ExitHeld},
	} {
		for how, damage := range map[string]func(name string) error{
			"one bit": func(name string) error {
				data, err := os.ReadFile(name)
				data[len(data)/2] ^= 1
				return errors.Join(err, os.WriteFile(name, data, 0o755))
			},
			"empty":   func(name string) error { return os.Truncate(name, 0) },
			"missing": os.Remove,
			"mode":    func(name string) error { return os.Chmod(name, 0o600) },
			"a FIFO":  func(name string) error { return errors.Join(os.Remove(name), unix.Mkfifo(name, 0o755)) },
		} {
			t.Run(row.name+" "+how, func(t *testing.T) {
				b := newBoard(t)
				for _, v := range row.damaged {
					b.must(damage(b.path("v"+v, "bin", "app")))
				}
				want, code := row.want, row.code
				phase := row.phase
				if how == "mode" {
					want, phase, code = "3.0", "confirmed", 0 // the manifest is enough to put it right
				}
				err := b.boot(LastUnclean)
				if bootcheck.Exit(err) != code {
					t.Errorf("boot: %v, want exit %d", err, code)
				}
				if r := b.record(); r.Current.Version != want || r.Phase != phase {
					t.Errorf("%s is %s, want %s %s\n%s", r.Current, r.Phase, want, phase, &b.log)
				}
			})
		}
	}
}

// A record in which previous is the current version is no reason to stay with what is damaged.
func TestBootWithPreviousThatIsCurrent(t *testing.T) {
	b := newBoard(t)
	r := b.record().Clone()
	r.Previous = r.Current
	b.commit(r)
	b.must(os.Remove(b.path("v3.0", "bin", "app")), b.boot(LastUnclean))
	if b.runs() != "2.0" {
		t.Errorf("runs %s, want 2.0, the newest that was confirmed\n%s", b.runs(), &b.log)
	}
}

// An ordinary boot looks at nothing but what the links name, however many
// versions there are: what cannot be read would be noticed. The time that it takes
// of the processor is a few milliseconds and does not grow with them.
func TestBootWithTenThousandVersions(t *testing.T) {
	b := newBoard(t)
	r := b.record().Clone()
	for i := range 61 { // years of updates, of which the versions are gone
		r.Confirmed = slices.Insert(r.Confirmed, 1, *ref(fmt.Sprintf("1.%d", i+1)))
	}
	b.commit(r)
	b.must(b.boot(LastUnclean)) // reads what is read once
	b.crowd(10_000)
	used := func() time.Duration {
		var u unix.Rusage
		b.must(unix.Getrusage(unix.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before, began := used(), time.Now()
	b.must(b.boot(LastUnclean))
	took, passed := used()-before, time.Since(began)
	if b.runs() != "3.0" || b.log.Len() > 200 {
		t.Errorf("runs %s, and says\n%s", b.runs(), &b.log)
	}
	t.Logf("a boot with 10,000 more versions: %s, of the processor %s", passed, took)
	if took > 200*time.Millisecond {
		t.Errorf("a boot took %s of the processor, want less than 200ms", took)
	}
}

// What has the name of a version and is none never runs, even when everything
// else is lost.
func TestBootTakesNoHalfVersion(t *testing.T) {
	b := newBoard(t)
	b.must(os.Mkdir(b.path("v9.0"), 0o755))                                                                         // without a file
	b.must(os.MkdirAll(b.path("v9.1", ".ota"), 0o755))                                                              // with a manifest only
	b.run("cp", b.path("v3.0", ".ota", "manifest.json"), b.path("v9.1", ".ota"))                                    // of another version
	b.run("cp", "-a", b.path("v3.0", "."), b.path("v9.2"))                                                          // a copy under another name
	b.run("cp", "-a", b.path("v3.0"), b.path("v3.0.half"))                                                          // no more than a directory
	b.must(os.WriteFile(b.path("v9.3"), nil, 0o644), os.Symlink("v1.0", b.path("v9.4")))                            // no directories
	b.must(os.RemoveAll(b.path(".generations")), os.Remove(b.path(".active")), os.RemoveAll(b.path("v3.0", "bin"))) // 3.0 is half, too
	b.must(b.boot(LastUnclean))
	if r := b.record(); b.runs() != "2.0" || r.Phase != bootcheck.PhaseTrial {
		t.Errorf("runs %s (%s), want 2.0, the newest that is intact\n%s", b.runs(), r.Phase, &b.log)
	}
}

// crowd adds n versions whose manifests are FIFOs: a program that opens one hangs, or says so.
func (b *board) crowd(n int) {
	b.t.Helper()
	for i := range n {
		dir := b.path(fmt.Sprintf("v9.%d", i), ".ota")
		b.must(os.MkdirAll(dir, 0o755), unix.Mkfifo(filepath.Join(dir, "manifest.json"), 0o644))
	}
}

// BenchmarkBoot is an ordinary boot, with few versions and with very many.
func BenchmarkBoot(b *testing.B) {
	for _, n := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("%d-more-versions", n), func(b *testing.B) {
			board := newBoard(b)
			board.crowd(n)
			for b.Loop() {
				board.must(board.boot(LastUnclean))
			}
		})
	}
}

// noListener answers every check as a device does on which no service runs.
func noListener(context.Context, health.Request) (health.Answer, error) {
	return health.Answer{Error: "nothing listens"}, nil
}

// TestLastResort holds that a device whose versions are gone, but for one that never was
// confirmed, or failed here, is not without a version.
func TestLastResort(t *testing.T) {
	for name, prepare := range map[string]func(r *bootcheck.Record, four *bootcheck.Ref){
		"confirmed": func(*bootcheck.Record, *bootcheck.Ref) {},
		"hold": func(r *bootcheck.Record, _ *bootcheck.Ref) {
			r.Phase, r.HoldReason = bootcheck.PhaseHold, bootcheck.HoldExhausted
		},
		"blocked": func(r *bootcheck.Record, four *bootcheck.Ref) {
			r.Block(*four, bootcheck.CauseHealth, "app")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoard(t)
			four := b.add("4.0")
			r := b.record().Clone()
			prepare(r, four)
			b.commit(r)
			if err := b.boot(LastClean); bootcheck.Exit(err) != bootcheck.ExitHeld && err != nil || b.runs() != "3.0" {
				t.Fatalf("%v, runs %s", err, b.runs())
			}
			for _, v := range []string{"v1.0", "v2.0", "v3.0"} {
				b.must(os.RemoveAll(b.path(v)))
			}
			b.must(b.boot(LastUnclean))
			if r := b.record(); b.runs() != "4.0" || r.Phase != bootcheck.PhaseTrial || r.Previous != nil && r.Previous.Version == "4.0" {
				t.Errorf("runs %q (%s)\n%s", b.runs(), r.Phase, &b.log)
			}
			b.must(b.boot(LastUnclean))
			if b.runs() != "4.0" {
				t.Errorf("then runs %q\n%s", b.runs(), &b.log)
			}
		})
	}
}
