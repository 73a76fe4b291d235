package bootcheck

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// putFiles makes files below dir.
func putFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// TestRemoveAllMounts holds that what is mounted below a directory is not deleted with it:
// neither another file system, nor a directory of the same one. The rest goes.
func TestRemoveAllMounts(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	putFiles(t, dir, "v/a", "v/b/c", "v/z/last", "data/mine", "v/same/x", "v/other/x")
	err := errors.Join(os.Remove(at("v/same/x")), os.Symlink(at("data"), at("v/link")),
		unix.Mount(at("data"), at("v/same"), "", unix.MS_BIND, ""), unix.Mount("tmpfs", at("v/other"), "tmpfs", 0, "size=64k"))
	if err != nil {
		t.Fatal(err)
	}
	putFiles(t, dir, "v/other/mine")
	err = RemoveAll(at("v"))
	if err == nil || !strings.Contains(err.Error(), at("v/")) {
		t.Errorf("RemoveAll = %v, want an error that names what stays", err)
	}
	for name, want := range map[string]bool{"data/mine": true, "v/same/mine": true, "v/other/mine": true,
		"v/a": false, "v/b": false, "v/z": false, "v/link": false} {
		if exists(at(name)) != want {
			t.Errorf("%s is there: %v, want %v", name, !want, want)
		}
	}
	if err := errors.Join(unix.Unmount(at("v/same"), 0), unix.Unmount(at("v/other"), 0), RemoveAll(at("v")), RemoveAll(at("v"))); err != nil {
		t.Errorf("without the mounts: %v", err)
	}
	if exists(at("v")) {
		t.Error("v is still there")
	}
}

// overlay makes a store whose versions 1.0 and 2.0, the latter without a manifest, are
// in the lower layer of an overlay: their directories cannot be renamed.
func overlay(t *testing.T, dir string) *Store {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"low", "up", "work", "versions"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	low, err := Create(at("low"))
	if err != nil {
		t.Fatal(err)
	}
	addTree(t, low, "1.0", treeOf1, nil)
	putFiles(t, at("low"), "v2.0/bin/app", "v2.0/data/x", ".trash/old/x", ".staging/v3.0/half")
	err = unix.Mount("overlay", at("versions"), "overlay", 0, "lowerdir="+at("low")+",upperdir="+at("up")+",workdir="+at("work"))
	if errors.Is(err, unix.EPERM) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(at("versions"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRemoveLowerLayer holds that versions which cannot be moved are removed all the
// same, and that what cannot be deleted of one never looks like a version.
func TestRemoveLowerLayer(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	s := overlay(t, dir)
	if err := os.Rename(s.path("v1.0"), s.path(".trash/v1.0")); !errors.Is(err, unix.EXDEV) {
		t.Fatalf("a directory of the lower layer can be renamed: %v", err)
	}
	if err := s.Remove(nil, "1.0"); err != nil || exists(s.path("v1.0")) {
		t.Errorf("Remove of a version in the lower layer: %v, it is there: %v", err, exists(s.path("v1.0")))
	}
	if err := s.Sweep(); err != nil || exists(s.path(".trash/old")) || exists(s.path(".staging/v3.0")) {
		t.Errorf("Sweep of the lower layer: %v", err)
	}

	// A part of it is of something else.
	if err := unix.Mount("tmpfs", s.path("v2.0/data"), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	putFiles(t, s.path("v2.0/data"), "mine")
	if err := s.Remove(nil, "2.0"); err == nil {
		t.Error("Remove of a version with a mount inside succeeded")
	}
	if exists(s.path("v2.0/bin")) || !exists(s.path("v2.0/data/mine")) {
		t.Error("what is mounted was deleted, or the rest was not")
	}
	if ref, err := s.Ref("2.0"); err == nil {
		t.Errorf("half a version is taken for %+v", ref)
	}
	if err := errors.Join(unix.Unmount(s.path("v2.0/data"), 0), s.Remove(nil, "2.0")); err != nil {
		t.Errorf("without the mount: %v", err)
	}
}

// TestRemoveMounted holds that a version which is itself a mount point is left alone.
func TestRemoveMounted(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	s, err := Create(filepath.Join(dir, "versions"))
	if err != nil {
		t.Fatal(err)
	}
	addTree(t, s, "1.0", treeOf1, nil)
	addTree(t, s, "2.0", treeOf1, nil)
	if err := errors.Join(os.Mkdir(s.path("v3.0"), 0o755), unix.Mount(s.path("v1.0"), s.path("v3.0"), "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(nil, "3.0"); err == nil {
		t.Error("Remove of a mount point succeeded")
	}
	if err := s.Remove(nil, "2.0"); err != nil || exists(s.path("v2.0")) {
		t.Errorf("Remove of another version: %v", err)
	}
	snapshot, err := s.Snapshot("1.0")
	if err == nil {
		err = s.Verify(t.Context(), &snapshot.Ref, Full)
	}
	if err != nil {
		t.Errorf("what was mounted there is no longer whole: %v", err)
	}
}

// TestSweepStepsOver holds that one thing which cannot be deleted keeps nothing else:
// no other leftover, no staging, no removal, no Commit.
func TestSweepStepsOver(t *testing.T) {
	dir, inside := inNamespace(t)
	if !inside {
		return
	}
	s, err := Create(filepath.Join(dir, "versions"))
	if err != nil {
		t.Fatal(err)
	}
	addTree(t, s, "1.0", treeOf1, nil)
	addTree(t, s, "2.0", treeOf1, nil)
	stuck := []string{".trash/a", ".staging/v3.0", "v2.0/lib", ".generations/7"}
	putFiles(t, s.Dir(), ".trash/a/x", ".trash/b/x", ".staging/v3.0/m/x", ".staging/v4.0/x", ".generations/7/x")
	for _, name := range stuck {
		at := s.path(name, "mount")
		if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k")); err != nil {
			t.Fatal(err)
		}
	}
	one, err := s.Ref("1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(&Record{Schema: Schema, Phase: PhaseConfirmed, Current: one}); err != nil {
		t.Errorf("Commit: %v", err)
	}
	if err := s.Sweep(); err == nil {
		t.Error("Sweep succeeded")
	}
	if exists(s.path(".trash/b")) || exists(s.path(".staging/v4.0")) {
		t.Error("Sweep did not continue")
	}
	if root, err := s.Stage("3.0"); err != nil {
		t.Errorf("Stage: %v", err)
	} else {
		root.Close()
	}
	if entries, err := os.ReadDir(s.path(".staging/v3.0")); err != nil || len(entries) != 0 {
		t.Errorf("what is staged begins with %v (%v)", entries, err)
	}
	if err := s.Remove(nil, "2.0"); err == nil || exists(s.path("v2.0")) {
		t.Errorf("Remove = %v, want an error of what is in .trash, and no v2.0", err)
	}
	if err := s.Commit(&Record{Schema: Schema, Phase: PhaseConfirmed, Current: one}); err != nil {
		t.Errorf("a second Commit: %v", err)
	}
}
