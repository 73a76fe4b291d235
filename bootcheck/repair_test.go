package bootcheck

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// addTree puts a version with folders, files and a link into the store. files is
// path to content; what is in bin is 0755.
func addTree(t testing.TB, s *Store, version string, files map[string]string, links map[string]string) *Ref {
	t.Helper()
	m := Manifest{Format: ManifestFormat, Models: []string{"x1"}, Version: version}
	root, err := s.Stage(version)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	seen := map[string]bool{".": true}
	var parents func(dir string)
	parents = func(dir string) {
		if seen[dir] {
			return
		}
		parents(path.Dir(dir))
		seen[dir] = true
		m.Entries = append(m.Entries, Entry{Path: dir, Type: TypeDir, Mode: 0o755})
		if err := root.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range sorted(files) {
		parents(path.Dir(name))
		mode := Mode(0o644)
		if path.Dir(name) == "bin" {
			mode = 0o755
		}
		sum := sha256.Sum256([]byte(files[name]))
		m.Entries = append(m.Entries, Entry{Path: name, Type: TypeFile, Mode: mode, Size: int64(len(files[name])), SHA256: hex.EncodeToString(sum[:])})
		m.Size += int64(len(files[name]))
		if err := root.WriteFile(name, []byte(files[name]), mode.Perm()); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range sorted(links) {
		parents(path.Dir(name))
		m.Entries = append(m.Entries, Entry{Path: name, Type: TypeLink, Target: links[name]})
		if err := root.Symlink(links[name], name); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(m)
	if err == nil {
		err = errors.Join(root.Mkdir(".ota", 0o755), root.WriteFile(".ota/manifest.json", raw, 0o644), s.Publish(version))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Ref{Version: version, Digest: Digest(raw)}
}

func sorted[V any](m map[string]V) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	for i := range names { // a handful
		for j := i; j > 0 && names[j] < names[j-1]; j-- {
			names[j], names[j-1] = names[j-1], names[j]
		}
	}
	return names
}

// The tree of the tests: what 2.0 has of it is the same, under other names.
var (
	treeOf1 = map[string]string{"bin/app": "the program of 1.0\n", "lib/a/core.so": strings.Repeat("core ", 100), "lib/empty": "", "etc/app.conf": "color=blue\n"}
	treeOf2 = map[string]string{"bin/app": "the program of 2.0\n", "share/old": treeOf1["bin/app"], "lib/core": treeOf1["lib/a/core.so"], "etc/app.conf": treeOf1["etc/app.conf"], "none": ""}
)

func damage(f func(dir string) error) func(dir string) error { return f }

func TestRepair(t *testing.T) {
	flip := func(name string) func(string) error {
		return damage(func(dir string) error {
			data, err := os.ReadFile(filepath.Join(dir, name))
			data[len(data)/2] ^= 4
			return errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		})
	}
	instead := func(name string, put func(name string) error) func(string) error {
		return damage(func(dir string) error {
			name := filepath.Join(dir, name)
			return errors.Join(os.RemoveAll(name), put(name))
		})
	}
	gone := func(string) error { return nil }
	mode := func(name string, mode os.FileMode) func(string) error {
		return func(dir string) error { return os.Chmod(filepath.Join(dir, name), mode) }
	}
	rows := map[string]struct {
		damage func(dir string) error
		want   []string
	}{
		"nothing":                           {func(string) error { return nil }, nil},
		"a bit of the program":              {flip("bin/app"), []string{"bin/app"}},
		"a bit of a library":                {flip("lib/a/core.so"), []string{"lib/a/core.so"}},
		"a file is missing":                 {instead("etc/app.conf", gone), []string{"etc/app.conf"}},
		"an empty file is missing":          {instead("lib/empty", gone), []string{"lib/empty"}},
		"an empty file is not empty":        {instead("lib/empty", func(n string) error { return os.WriteFile(n, []byte("x"), 0o644) }), []string{"lib/empty"}},
		"a file is longer":                  {instead("etc/app.conf", func(n string) error { return os.WriteFile(n, []byte("color=blue\nx"), 0o644) }), []string{"etc/app.conf"}},
		"a file is a folder with files":     {instead("etc/app.conf", func(n string) error { return os.MkdirAll(n+"/a/b", 0o755) }), []string{"etc/app.conf"}},
		"a file is a FIFO":                  {instead("bin/app", func(n string) error { return unix.Mkfifo(n, 0o755) }), []string{"bin/app"}},
		"a file is a link to another":       {instead("bin/app", func(n string) error { return os.Symlink("/etc/passwd", n) }), []string{"bin/app"}},
		"a folder is missing":               {instead("lib/a", gone), []string{"lib/a", "lib/a/core.so"}},
		"folders are missing":               {instead("lib", gone), []string{"lib", "lib/a", "lib/core", "lib/a/core.so", "lib/empty"}},
		"a folder is a file":                {instead("lib/a", func(n string) error { return os.WriteFile(n, nil, 0o644) }), []string{"lib/a", "lib/a/core.so"}},
		"a folder is a link to elsewhere":   {instead("lib", func(n string) error { return os.Symlink("/usr/lib", n) }), []string{"lib", "lib/a", "lib/core", "lib/a/core.so", "lib/empty"}},
		"a link leads elsewhere":            {instead("lib/core", func(n string) error { return os.Symlink("/etc", n) }), []string{"lib/core"}},
		"a link is missing":                 {instead("lib/core", gone), []string{"lib/core"}},
		"a link is a folder":                {instead("lib/core", func(n string) error { return os.Mkdir(n, 0o755) }), []string{"lib/core"}},
		"a program may not be executed":     {mode("bin/app", 0o644), []string{"bin/app"}},
		"a program is setuid":               {mode("bin/app", 0o755|os.ModeSetuid), []string{"bin/app"}},
		"a file cannot be read":             {mode("etc/app.conf", 0), []string{"etc/app.conf"}},
		"a folder may be read by fewer":     {mode("lib", 0o750), []string{"lib"}},
		"a folder may be entered by nobody": {mode("lib/a", 0o600), []string{"lib/a"}},
		"everything": {func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "bin")), os.RemoveAll(filepath.Join(dir, "lib")), os.RemoveAll(filepath.Join(dir, "etc")))
		}, []string{"bin", "etc", "lib", "lib/a", "lib/core", "bin/app", "etc/app.conf", "lib/a/core.so", "lib/empty"}},
	}
	for n := range len(treeOf1["bin/app"]) {
		rows[fmt.Sprintf("the program is cut to %d bytes", n)] = struct {
			damage func(string) error
			want   []string
		}{func(dir string) error { return os.Truncate(filepath.Join(dir, "bin/app"), int64(n)) }, []string{"bin/app"}}
	}
	for name, row := range rows {
		for _, sealed := range []bool{false, true} {
			if sealed && os.Geteuid() != 0 && strings.Contains(name, "entered by nobody") {
				continue // only root can make what is in such a folder read-only
			}
			t.Run(fmt.Sprintf("%s, sealed %v", name, sealed), func(t *testing.T) {
				s := newStore(t)
				ref := addTree(t, s, "1.0", treeOf1, map[string]string{"lib/core": "a/core.so"})
				addTree(t, s, "2.0", treeOf2, nil)
				dir := s.VersionDir("1.0")
				if err := row.damage(dir); err != nil {
					t.Fatal(err)
				}
				if sealed {
					retire(t, s, "1.0")
				}
				got, err := s.Repair(t.Context(), ref)
				if err != nil {
					t.Fatalf("Repair: %v (repaired %v)", err, got)
				}
				if diff := cmp.Diff(row.want, got); diff != "" {
					t.Errorf("repaired (-want +got):\n%s", diff)
				}
				if err := s.Verify(t.Context(), ref, Full); err != nil {
					t.Error(err)
				}
				if sealed {
					assertSealed(t, dir)
				}
				for _, leftover := range []string{stagingDir, trashDir} {
					if names, _ := os.ReadDir(s.path(leftover)); len(names) > 0 {
						t.Errorf("%s holds %v", leftover, names)
					}
				}
				if again, err := s.Repair(t.Context(), ref); err != nil || again != nil {
					t.Errorf("Repair again = %v, %v; want nothing to do", again, err)
				}
			})
		}
	}
}

// retire is Retire of a tree that may be damaged in ways that Retire cannot pass.
func retire(t *testing.T, s *Store, version string) {
	t.Helper()
	err := filepath.WalkDir(s.VersionDir(version), func(name string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 || strings.Contains(name, "app.conf/") {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil // in a folder that is damaged
		}
		return os.Chmod(name, info.Mode()&^0o222)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // so that an ordinary user can clean up
		filepath.WalkDir(s.VersionDir(version), func(name string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(name, 0o755)
			}
			return nil
		})
	})
}

func assertSealed(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm()&0o222 != 0 {
			t.Errorf("%s is writable after the repair (%v, %v)", name, info.Mode(), err)
		}
		return nil
	})
}

func TestRepairWithoutDonor(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, s *Store){
		"no other version": func(*testing.T, *Store) {},
		"others have other files": func(t *testing.T, s *Store) {
			addTree(t, s, "2.0", map[string]string{"bin/app": "the program of 2.0\n"}, nil)
		},
		"the one that has it is damaged, too": func(t *testing.T, s *Store) {
			addTree(t, s, "2.0", treeOf2, nil)
			if err := os.WriteFile(s.path("v2.0", "share", "old"), []byte("the program of 1.1\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"the one that has it has a link there": func(t *testing.T, s *Store) {
			addTree(t, s, "2.0", treeOf2, nil)
			secret := filepath.Join(t.TempDir(), "secret")
			if err := errors.Join(os.WriteFile(secret, []byte(treeOf1["bin/app"]), 0o644), os.Remove(s.path("v2.0", "share", "old")),
				os.Symlink(secret, s.path("v2.0", "share", "old"))); err != nil {
				t.Fatal(err)
			}
		},
		"the manifest of the one that has it is damaged": func(t *testing.T, s *Store) {
			addTree(t, s, "2.0", treeOf2, nil)
			if err := os.Truncate(s.path("v2.0", ".ota", "manifest.json"), 100); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			ref := addTree(t, s, "1.0", treeOf1, nil)
			prepare(t, s)
			if err := errors.Join(os.Truncate(s.path("v1.0", "bin", "app"), 3), os.Chmod(s.path("v1.0", "etc"), 0o700)); err != nil {
				t.Fatal(err)
			}
			got, err := s.Repair(t.Context(), ref)
			if Exit(err) != ExitDamaged || !strings.Contains(err.Error(), "bin/app") {
				t.Errorf("Repair = %v, %v; want that nobody has bin/app", got, err)
			}
			// What can be put right is.
			if diff := cmp.Diff([]string{"etc"}, got); diff != "" {
				t.Errorf("repaired (-want +got):\n%s", diff)
			}
			if data, _ := os.ReadFile(s.path("v1.0", "bin", "app")); string(data) != "the" {
				t.Errorf("bin/app is now %q", data)
			}
		})
	}
}

// The truth itself is damaged: nothing is touched.
func TestRepairWithoutManifest(t *testing.T) {
	for name, damage := range map[string]func(name string) error{
		"missing": os.Remove,
		"cut":     func(name string) error { return os.Truncate(name, 200) },
		"changed": func(name string) error {
			data, err := os.ReadFile(name)
			return errors.Join(err, os.WriteFile(name, []byte(strings.Replace(string(data), "0755", "0777", 1)), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			ref := addTree(t, s, "1.0", treeOf1, nil)
			addTree(t, s, "2.0", treeOf2, nil)
			if err := errors.Join(damage(s.path("v1.0", ".ota", "manifest.json")), os.Remove(s.path("v1.0", "bin", "app"))); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Repair(t.Context(), ref); Exit(err) != ExitDamaged || got != nil {
				t.Errorf("Repair = %v, %v; want it damaged", got, err)
			}
			if _, err := os.Lstat(s.path("v1.0", "bin", "app")); err == nil {
				t.Error("bin/app was made from a manifest that nobody can trust")
			}
		})
	}
}

// repairer is in the environment of the test binary that only repairs.
const repairer = "OTA_TEST_REPAIR"

// Killed at any moment, a repair leaves every file as it was or right, and the
// next one goes on.
func TestRepairKilled(t *testing.T) {
	if dir := os.Getenv(repairer); dir != "" {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := s.Snapshot("1.0")
		if err == nil {
			_, err = s.Repair(t.Context(), &snapshot.Ref)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	one, two := map[string]string{}, map[string]string{}
	for i := range 40 {
		text := strings.Repeat(fmt.Sprint("file ", i, "\n"), 20_000)
		one[fmt.Sprintf("lib/%d/x", i)] = text
		two[fmt.Sprintf("y%d", i)] = text
	}
	killed := 0
	var took time.Duration // of the first, which is not killed
	for round := range 12 {
		s := newStore(t)
		ref := addTree(t, s, "1.0", one, nil)
		addTree(t, s, "2.0", two, nil)
		for name := range one {
			if err := os.Truncate(s.path("v1.0", name), 10); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(os.Args[0], "-test.run", "^TestRepairKilled$")
		cmd.Env = append(os.Environ(), repairer+"="+s.Dir())
		began := time.Now()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if round > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(took))))
			cmd.Process.Kill()
		}
		if cmd.Wait() != nil {
			killed++
		}
		if round == 0 {
			took = time.Since(began)
		}
		for name, want := range one {
			if data, err := os.ReadFile(s.path("v1.0", name)); err != nil || string(data) != want && string(data) != want[:10] {
				t.Fatalf("%s is neither as it was nor right: %d bytes (%v)", name, len(data), err)
			}
		}
		if err := s.Sweep(true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Repair(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %d of 11 repairs before their end", killed)
	if killed == 0 {
		t.Error("no repair was interrupted: this shows nothing")
	}
}

// Start notices a changed program of the same size, Quick does not; neither reads
// what is no entry point.
func TestCheckTreeStart(t *testing.T) {
	s := newStore(t)
	ref := addTree(t, s, "1.0", treeOf1, nil)
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(s.path("v1.0", name), []byte(strings.Repeat("x", len(treeOf1[name]))), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/app.conf")
	if err := s.Verify(t.Context(), ref, Start); err != nil {
		t.Errorf("Start reads what is no entry point: %v", err)
	}
	write("bin/app")
	if err := s.Verify(t.Context(), ref, Quick); err != nil {
		t.Errorf("Quick reads files: %v", err)
	}
	if err := s.Verify(t.Context(), ref, Start); Exit(err) != ExitDamaged {
		t.Errorf("Start = %v, want the program damaged", err)
	}
}
