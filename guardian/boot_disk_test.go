package guardian

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

const withMounts = "OTA_TEST_MOUNTS"

// ownMounts runs the calling test again in a process whose mounts end with it, and
// reports whether this is that process; dir is an empty directory of it.
func ownMounts(t *testing.T, tools ...string) (dir string, inside bool) {
	t.Helper()
	if dir := os.Getenv(withMounts); dir != "" {
		if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
		return dir, true
	}
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), withMounts+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return "", false
}

// onDisk makes the store of b that on the file system at dir.
func (b *board) onDisk(dir string) {
	b.t.Helper()
	b.run("cp", "-a", b.store.Dir(), filepath.Join(dir, "versions"))
	store, err := bootcheck.Open(filepath.Join(dir, "versions"))
	b.must(err)
	b.store = store
}

func (b *board) run(argv ...string) string {
	b.t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Flash that cannot be read any more is damage like any other: the next whole
// version runs, and its evidence says so.
func TestBootOnADiskThatCannotBeRead(t *testing.T) {
	dir, inside := ownMounts(t, "mke2fs", "debugfs", "losetup", "mount")
	if !inside {
		return
	}
	b := newBoard(t)
	image, at, app := filepath.Join(dir, "image"), filepath.Join(dir, "mnt"), b.path("v3.0", "bin", "app")
	// The program of 3.0 comes last, so that nothing lies behind it.
	aside := filepath.Join(dir, "app")
	b.run("cp", "-p", app, aside)
	b.must(os.Remove(app), os.Mkdir(at, 0o755))
	b.run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", filepath.Dir(b.store.Dir()), image, "4M")
	for _, command := range []string{"write " + aside + " /versions/v3.0/bin/app", "set_inode_field /versions/v3.0/bin/app mode 0100755"} {
		b.run("debugfs", "-w", "-R", command, image)
	}
	last := strings.Fields(b.run("debugfs", "-R", "blocks /versions/v3.0/bin/app", image))
	block, err := strconv.ParseInt(last[len(last)-1], 10, 64)
	b.must(err)
	loop := b.run("losetup", "--find", "--show", image)
	// The device keeps its size, and what is behind the end of its file is an I/O error.
	b.must(os.Truncate(image, block*1024))
	b.run("mount", "-t", "ext4", loop, at)
	b.run("losetup", "--detach", loop) // when it is unmounted, which the end of this process does
	if b.store, err = bootcheck.Open(filepath.Join(at, "versions")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(b.path("v3.0", "bin", "app")); !errors.Is(err, unix.EIO) {
		t.Fatalf("reading the program: %v, want an I/O error: this shows nothing", err)
	}
	if err := b.boot(LastUnclean); err != nil {
		t.Errorf("boot: %v", err)
	}
	r := b.record()
	if b.runs() != "2.0" || r.Phase != bootcheck.PhaseFallback || r.LastRollback.Cause != bootcheck.CauseDamaged || !strings.Contains(r.LastRollback.Output, "input/output error") {
		t.Errorf("runs %s (%s), rollback %+v; want 2.0, because of an input/output error\n%s", b.runs(), r.Phase, r.LastRollback, &b.log)
	}
	if r.BlockedBy(ref("3.0")) != nil {
		t.Error("3.0 is blocked for what the disk did")
	}
}

// A disk that is read-only: what can be read decides, nothing is counted, and the
// boot continues, however bad the version is.
func TestBootOnAReadOnlyDisk(t *testing.T) {
	dir, inside := ownMounts(t)
	if !inside {
		return
	}
	for _, row := range []struct {
		name    string
		prepare func(b *board)
		runs    string
		code    bootcheck.ExitCode
	}{
		{"a confirmed version", func(b *board) {}, "3.0", 0},
		{"a trial whose limit is spent", func(b *board) { b.trial(2) }, "3.0", bootcheck.ExitFailed},
		{"a copy of the record that is damaged", func(b *board) { b.must(os.Truncate(b.path(".active", "record.json"), 0)) }, "3.0", bootcheck.ExitFailed},
		{"a record that is lost", func(b *board) {
			b.must(os.Truncate(b.path(".active", "record.json"), 0), os.Truncate(b.path(".active", "record.backup.json"), 0))
		}, "3.0", bootcheck.ExitFailed},
		{"a version that is damaged", func(b *board) { b.must(os.Truncate(b.path("v3.0", "bin", "app"), 3)) }, "thi", bootcheck.ExitFailed},
		{"a switch that is lost", func(b *board) { b.must(os.Remove(b.path(".active"))) }, "", bootcheck.ExitFailed},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBoard(t)
			at := filepath.Join(dir, strings.ReplaceAll(row.name, " ", "-"))
			b.must(os.Mkdir(at, 0o755), unix.Mount("tmpfs", at, "tmpfs", 0, "size=4m,mode=755"))
			b.onDisk(at)
			row.prepare(b)
			before := b.tree()
			b.must(unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			err := b.boot(LastHard)
			if row.name == "a confirmed version" {
				err = b.boot(LastClean) // the streak of a hard end cannot be counted either
			}
			if bootcheck.Exit(err) != row.code || row.code != 0 && (!errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "starting the current version")) {
				t.Errorf("boot: %v, want exit %d, why, and that the current version starts", err, row.code)
			}
			if got := b.runs(); got != row.runs && row.runs != "" || b.tree() != before {
				t.Errorf("runs %q, want %q as before\n%s", got, row.runs, &b.log)
			}
			// When the disk can be written again, so it is decided.
			b.must(unix.Mount("", at, "", unix.MS_REMOUNT, ""))
			b.must(b.boot(LastHard))
			if active, err := b.store.Active(); err != nil || active.Damage != "" {
				t.Errorf("after a boot on a disk that can be written: %+v, %v", active, err)
			}
		})
	}
}

// trial puts 3.0 on trial, with hard ends counted.
func (b *board) trial(hard int) {
	b.t.Helper()
	r := b.record().Clone()
	r.Phase, r.Trial = bootcheck.PhaseTrial, &bootcheck.Trial{BootID: "before", Hard: hard}
	r.Confirmed = r.Confirmed[:2]
	b.commit(r)
}

// onSmallDisk is onDisk of a disk that is easily filled.
func (b *board) onSmallDisk(dir string) {
	b.t.Helper()
	b.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=755"))
	b.onDisk(dir)
}

// fill takes all room on the disk at dir.
func (b *board) fill(dir string) {
	b.t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "full"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	b.must(err)
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			b.t.Fatal(err)
		}
	}
}

// A disk that is full to its last byte, of what is not ours to delete: what cannot
// be counted is not counted; the bad version is rolled back as soon as anything can go.
func TestBootOnAFullDisk(t *testing.T) {
	dir, inside := ownMounts(t)
	if !inside {
		return
	}
	b := newBoard(t)
	b.onSmallDisk(dir)
	b.trial(1)
	// Nothing to give up: no trash, no half install, and only two generations.
	for _, n := range []int{1} {
		b.must(os.RemoveAll(b.path(".generations", fmt.Sprint(n))))
	}
	b.fill(dir)
	err := b.boot(LastHard)
	if bootcheck.Exit(err) != bootcheck.ExitNoSpace || !strings.Contains(err.Error(), "starting the current version") || b.runs() != "3.0" {
		t.Errorf("boot on a full disk: %v, runs %s; want exit 7 and 3.0", err, b.runs())
	}
	if r := b.record(); r.Trial.Hard != 1 {
		t.Errorf("counted %+v on a full disk", r.Trial)
	}
	// Half an install is worth less than a decision.
	b.must(os.Remove(filepath.Join(dir, "full")), os.MkdirAll(b.path(".staging", "v9"), 0o755), os.WriteFile(b.path(".staging", "v9", "half"), make([]byte, 100<<10), 0o600))
	b.fill(dir)
	b.must(b.boot(LastHard))
	if r := b.record(); r.Trial.Hard != 2 {
		t.Errorf("trial %+v, want two hard ends: half an install was in the way\n%s", r.Trial, &b.log)
	}
	b.must(b.boot(LastHard))
	if b.runs() != "2.0" {
		t.Errorf("runs %s, want 2.0\n%s", b.runs(), &b.log)
	}
}

// A version that was activated for the next boot waits while the disk has no room for its
// trial. The trial of the current one continues meanwhile: however full the disk is, one that
// crashes the device ends.
func TestNextOnAFullDisk(t *testing.T) {
	dir, inside := ownMounts(t)
	if !inside {
		return
	}
	b := newBoard(t)
	b.onSmallDisk(dir)
	b.add("4.0")
	b.trial(0)
	r := b.record().Clone()
	four, err := b.store.Ref("4.0")
	b.must(err)
	r.Next = &bootcheck.Next{Ref: *four}
	b.commit(r)
	b.must(os.RemoveAll(b.path(".generations", "1")), os.RemoveAll(b.path(".generations", "2")))
	b.fill(dir)
	for range bootcheck.SpareBoots + 1 {
		if b.runs() != "3.0" {
			t.Fatalf("runs %s, want 3.0\n%s", b.runs(), &b.log)
		}
		_ = b.boot(LastHard)
	}
	if r := b.record(); b.runs() != "2.0" || r.Phase != bootcheck.PhaseFallback || r.Next == nil {
		t.Errorf("runs %s (%s), next %v; want 2.0, and 4.0 at the next boot that has room\n%s", b.runs(), r.Phase, r.Next, &b.log)
	}
	b.must(os.Remove(filepath.Join(dir, "full")), b.boot(LastClean))
	if r := b.record(); b.runs() != "4.0" || r.Phase != bootcheck.PhaseTrial || r.Next != nil {
		t.Errorf("runs %s (%s), next %v; want 4.0 on trial\n%s", b.runs(), r.Phase, r.Next, &b.log)
	}
}

// A switch that was made, and that the full disk did not make durable, is none that can be made
// again: an fsync that failed never is.
func TestNoRoom(t *testing.T) {
	full := &os.PathError{Op: "sync", Path: "versions", Err: unix.ENOSPC}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{fmt.Errorf("cannot write generation 7: %w", full), true},
		{bootcheck.Errorf(bootcheck.ExitUnknown, "", "switched to generation 7, but it may not survive a power cut: %w", full), false},
		{unix.EIO, false},
	} {
		if got := noRoom(tt.err); got != tt.want {
			t.Errorf("noRoom(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}

// A version that is healthy on a disk that was full before is confirmed: no later boot rolls it
// back because none could be counted.
func TestConfirmOnAFullDisk(t *testing.T) {
	dir, inside := ownMounts(t)
	if !inside {
		return
	}
	b := newBoard(t)
	b.onSmallDisk(dir)
	b.trial(0)
	b.must(os.RemoveAll(b.path(".generations", "1")))
	b.fill(dir)
	b.memory = t.TempDir()
	unlock, err := b.store.Lock(t.Context(), 0)
	b.must(err)
	defer unlock()
	b.must(b.guardian().commitDecision(t.Context(), MarkGood(b.record(), 5)))
	if r := b.record(); r.Phase != bootcheck.PhaseConfirmed || r.Floor != 5 {
		t.Errorf("phase %s, want it confirmed\n%s", r.Phase, &b.log)
	}
}
