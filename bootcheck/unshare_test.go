package bootcheck

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func inode(t *testing.T, name string) (ino uint64, links uint64) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino, uint64(st.Nlink)
}

// TestUnshare holds that a version that shares files with another one shares
// none afterwards, is whole, and that the other one was not touched.
func TestUnshare(t *testing.T) {
	s, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"bin/app": "the app", "etc/conf": "a = 1", "own": "x"}
	old := addTree(t, s, "1.0", files, nil)
	files["own"] = "y"
	ref := addTree(t, s, "1.1", files, nil)
	at := func(version, name string) string { return filepath.Join(s.VersionDir(version), name) }
	for _, name := range []string{"bin/app", "etc/conf"} {
		if err := os.Remove(at("1.1", name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(at("1.0", name), at("1.1", name)); err != nil {
			t.Fatal(err)
		}
	}
	app, _ := inode(t, at("1.0", "bin/app"))
	own, _ := inode(t, at("1.1", "own"))
	before, err := s.Occupied("1.1")
	if err != nil {
		t.Fatal(err)
	}
	if both, err := s.Occupied("1.0", "1.1"); err != nil || both.Inodes != 2*before.Inodes+2 {
		t.Errorf("Occupied = %d inodes for both (%v), want twice %d and the 2 that they share", both.Inodes, err, before.Inodes)
	}

	for range 2 { // it may run again
		if err := s.Unshare(t.Context(), "1.1"); err != nil {
			t.Fatal(err)
		}
	}
	for name, is := range map[string]uint64{at("1.0", "bin/app"): app, at("1.1", "own"): own} {
		if now, links := inode(t, name); now != is || links != 1 {
			t.Errorf("%s is inode %d with %d names, want %d with 1", name, now, links, is)
		}
	}
	if now, links := inode(t, at("1.1", "bin/app")); now == app || links != 1 {
		t.Errorf("bin/app is still shared (inode %d, %d names)", now, links)
	}
	if after, err := s.Occupied("1.1"); err != nil || after.Inodes != before.Inodes+2 {
		t.Errorf("Occupied = %d inodes (%v), want %d", after.Inodes, err, before.Inodes+2)
	}
	for _, r := range []*Ref{old, ref} {
		if err := s.Verify(t.Context(), r, Full); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(s.path(stagingDir)); err != nil || len(entries) > 0 {
		t.Errorf("left in .staging: %v, %v", entries, err)
	}
}

// TestUnshareDamaged holds that a shared file that is damaged is not taken over.
func TestUnshareDamaged(t *testing.T) {
	s, err := Create(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	addTree(t, s, "1.0", map[string]string{"a": "whole"}, nil)
	if err := os.Link(filepath.Join(s.VersionDir("1.0"), "a"), filepath.Join(s.Dir(), "other")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "other"), []byte("wHole"), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Unshare(t.Context(), "1.0"); Exit(err) != ExitDamaged {
		t.Errorf("Unshare = %v, want exit code %d", err, ExitDamaged)
	}
	if _, links := inode(t, filepath.Join(s.VersionDir("1.0"), "a")); links != 2 {
		t.Error("the damaged file was exchanged")
	}
}
