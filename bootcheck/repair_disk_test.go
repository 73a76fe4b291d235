package bootcheck

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// onSmallDisk is in the environment of the test binary that has mounts of its own.
const onSmallDisk = "OTA_TEST_SMALL_DISK"

// inNamespace runs the calling test again in a process that may mount what it
// likes and leaves no mount behind. It reports whether this is that process; its
// dir is an empty tmpfs of 1 MiB.
func inNamespace(t *testing.T) (dir string, inside bool) {
	t.Helper()
	if dir := os.Getenv(onSmallDisk); dir != "" {
		err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=755"))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			t.Skip(err) // an ordinary user on a system that gives a namespace and no rights in it
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir, true
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), onSmallDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	skipped := strings.Contains(string(out), "--- SKIP") || err != nil && cmd.ProcessState == nil
	switch {
	case skipped && os.Geteuid() != 0:
		t.Skipf("an ordinary user may not mount here: %v %s", err, out)
	case skipped || err != nil:
		t.Fatalf("%v\n%s", err, out)
	}
	return "", false
}

// storeOn makes a store in dir with a version 1.0 of a few files, of which a and b
// are damaged: b is a directory with a file. 2.0 has both.
func storeOn(t *testing.T, dir string) (*Store, *Ref) {
	t.Helper()
	s, err := Create(filepath.Join(dir, "versions"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"a": strings.Repeat("a", 100<<10), "b": strings.Repeat("b", 100<<10), "etc/c": "c"}
	ref := addTree(t, s, "1.0", files, nil)
	addTree(t, s, "2.0", files, nil)
	if err := errors.Join(os.Truncate(s.path("v1.0", "a"), 10), os.Remove(s.path("v1.0", "b")), os.Mkdir(s.path("v1.0", "b"), 0o755),
		os.WriteFile(s.path("v1.0", "b", "x"), []byte("of others"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return s, ref
}

func TestRepairOnAFullDisk(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	s, ref := storeOn(t, dir)
	before := look(s.path("v1.0"))
	filler := filepath.Join(dir, "filler")
	fill := func() {
		t.Helper()
		f, err := os.OpenFile(filler, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		if !IsNoSpace(err) {
			t.Fatal(err)
		}
		f.Close()
	}
	fill()
	if _, _, err := repair(t, s, nil, ref); Exit(err) != ExitNoSpace {
		t.Errorf("Repair = %v; want no space", err)
	}
	if after := look(s.path("v1.0")); after != before {
		t.Errorf("Repair without space changed:\n%s", cmp.Diff(before, after))
	}
	assertEmpty(t, s, stagingDir, trashDir)

	// Room for one: what it has is given back.
	info, err := os.Stat(filler)
	if err == nil {
		err = os.Truncate(filler, info.Size()-120<<10)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := repair(t, s, nil, ref); Exit(err) != ExitNoSpace {
		t.Errorf("Repair = %v; want no space for b", err)
	}
	assertEmpty(t, s, stagingDir, trashDir)
	// For both: what is intact takes none.
	if err := os.Truncate(filler, info.Size()-260<<10); err != nil {
		t.Fatal(err)
	}
	if got, extra, err := repair(t, s, nil, ref); err != nil || !slices.Equal(got, []string{"a", "b"}) || !slices.Equal(extra, []string{"b/x"}) {
		t.Errorf("Repair = %v, %v, %v; want a and b", got, extra, err)
	}
}

func TestRepairOnAReadOnlyDisk(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	s, ref := storeOn(t, dir)
	before := look(s.path("v1.0"))
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := repair(t, s, nil, ref); !errors.Is(err, unix.EROFS) || Exit(err) == ExitDamaged {
		t.Errorf("Repair = %v; want that it is the disk", err)
	}
	if after := look(s.path("v1.0")); after != before {
		t.Errorf("Repair changed:\n%s", cmp.Diff(before, after))
	}
}

// Something that is mounted in the place of a file keeps nothing from being repaired.
func TestRepairBesideAMount(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	s, ref := storeOn(t, dir)
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "other"), nil, 0o644),
		unix.Mount(filepath.Join(dir, "other"), s.path("v1.0", "a"), "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	if got, _, err := repair(t, s, nil, ref); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("Repair = %v, %v; want a and b", got, err)
	}
	if err := s.Verify(t.Context(), ref, Full); err != nil {
		t.Error(err)
	}
}

// On a full disk a commit gives up the older part of the history. The active generation is no part
// of that, also where some lie behind it that cannot be removed.
func TestCommitOnAFullDiskKeepsWhatIsActive(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	s, _ := storeOn(t, dir)
	two, err := s.Ref("2.0")
	if err != nil {
		t.Fatal(err)
	}
	record := mustCommit(t, s, &Record{Schema: Schema, Phase: PhaseConfirmed, Current: two})
	for n := record.Generation + 1; n <= record.Generation+2; n++ {
		stays := filepath.Join(s.generation(n), "stays")
		if err := errors.Join(os.MkdirAll(stays, 0o755), unix.Mount("tmpfs", stays, "tmpfs", 0, "size=4k")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 2<<20), 0o600); !IsNoSpace(err) {
		t.Fatal(err)
	}
	next := record.Clone()
	next.LastRollback = &Rollback{From: "2.0", Output: strings.Repeat("x", 30<<10)} // more than what was given up
	if err := s.Commit(next); Switched(err) {
		t.Fatal("there is room: this shows nothing")
	}
	if active := mustActive(t, s); active.Record.Generation != record.Generation || active.Damage != "" {
		t.Errorf("generation %d is active, damage %q; want %d and none", active.Record.Generation, active.Damage, record.Generation)
	}
}
