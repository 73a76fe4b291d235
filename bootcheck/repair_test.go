package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// addTree puts a version with directories, files and a link into the store. files is
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
	for _, name := range slices.Sorted(maps.Keys(files)) {
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
	for _, name := range slices.Sorted(maps.Keys(links)) {
		parents(path.Dir(name))
		m.Entries = append(m.Entries, Entry{Path: name, Type: TypeLink, External: path.IsAbs(links[name]), Target: links[name]})
		if err := root.Symlink(links[name], name); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(m)
	if err == nil {
		err = errors.Join(root.Mkdir(".ota", 0o755), root.WriteFile(".ota/manifest.json", raw, 0o644), s.Publish(version, false))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &Ref{Version: version, Digest: Digest(raw)}
}

// The tree of the tests: what 2.0 has of it is the same, under other names.
var (
	treeOf1 = map[string]string{"bin/app": "the program of 1.0\n", "lib/a/core.so": strings.Repeat("core ", 100), "lib/empty": "", "etc/app.conf": "color=blue\n"}
	treeOf2 = map[string]string{"bin/app": "the program of 2.0\n", "share/old": treeOf1["bin/app"], "lib/core": treeOf1["lib/a/core.so"], "etc/app.conf": treeOf1["etc/app.conf"], "none": ""}
)

// damages is every way in which the tests damage a version of treeOf1.
func damages() map[string]func(dir string) error {
	rows := map[string]func(dir string) error{}
	chmod := func(name string, mode uint32) func(string) error {
		return func(dir string) error { return unix.Chmod(filepath.Join(dir, name), mode) }
	}
	instead := func(name string, put func(name string) error) func(string) error {
		return func(dir string) error {
			name := filepath.Join(dir, name)
			return errors.Join(os.RemoveAll(name), put(name))
		}
	}
	write := func(text string) func(name string) error {
		return func(name string) error { return os.WriteFile(name, []byte(text), 0o644) }
	}
	gone := func(string) error { return nil }
	fifo := func(name string) error { return unix.Mkfifo(name, 0o755) }
	passwd := func(name string) error { return os.Symlink("/etc/passwd", name) }
	full := func(name string) error {
		return errors.Join(os.MkdirAll(name+"/a/b", 0o755), write("of others")(name+"/a/b/c"))
	}
	for file, content := range treeOf1 {
		rows[file+" is missing"] = instead(file, gone)
		rows[file+" is longer"] = instead(file, write(content+"x"))
		rows[file+" is a directory with files"] = instead(file, full)
		rows[file+" is an empty directory"] = instead(file, func(n string) error { return os.Mkdir(n, 0o755) })
		rows[file+" is a FIFO"] = instead(file, fifo)
		rows[file+" is a link to elsewhere"] = instead(file, passwd)
		rows[file+" is a link to itself"] = instead(file, func(n string) error { return os.Symlink(path.Base(n), n) })
		rows[file+" may be written by all"] = chmod(file, 0o666)
		rows[file+" is setuid"] = chmod(file, 0o4755)
		rows[file+" cannot be read"] = chmod(file, 0)
		if content == "" {
			continue
		}
		rows["a bit of "+file] = func(dir string) error {
			flipped := []byte(content)
			flipped[len(flipped)/2] ^= 4
			return write(string(flipped))(filepath.Join(dir, file))
		}
		rows[file+" is zeros"] = func(dir string) error {
			return write(strings.Repeat("\x00", len(content)))(filepath.Join(dir, file))
		}
	}
	for n := range len(treeOf1["bin/app"]) {
		rows[fmt.Sprintf("the program is cut to %d bytes", n)] = func(dir string) error { return os.Truncate(filepath.Join(dir, "bin/app"), int64(n)) }
	}
	for _, dir := range []string{"bin", "lib", "lib/a", "etc"} {
		rows["the directory "+dir+" is missing"] = instead(dir, gone)
		rows["the directory "+dir+" is empty"] = instead(dir, func(n string) error { return os.Mkdir(n, 0o755) })
		rows["the directory "+dir+" is a file"] = instead(dir, write(""))
		rows["the directory "+dir+" is a FIFO"] = instead(dir, fifo)
		rows["the directory "+dir+" is a link to elsewhere"] = instead(dir, func(n string) error { return os.Symlink("/usr/lib", n) })
		rows["the directory "+dir+" may be read by fewer"] = chmod(dir, 0o750)
		rows["the directory "+dir+" may be written by all"] = chmod(dir, 0o1777)
		rows["the directory "+dir+" may be entered by no user"] = chmod(dir, 0o600)
	}
	rows["nothing"] = func(string) error { return nil }
	rows["the link leads elsewhere"] = instead("lib/core", func(n string) error { return os.Symlink("/etc", n) })
	rows["the link is missing"] = instead("lib/core", gone)
	rows["the link is a directory with files"] = instead("lib/core", full)
	rows["the link is a file"] = instead("lib/core", write("x"))
	rows["the external link leads elsewhere"] = instead("lib/host", func(n string) error { return os.Symlink("a", n) })
	rows["the external link is missing"] = instead("lib/host", gone)
	rows["the external link is a directory with files"] = instead("lib/host", full)
	rows["a program may not be executed"] = chmod("bin/app", 0o644)
	rows["everything is missing"] = func(dir string) error {
		return errors.Join(os.RemoveAll(filepath.Join(dir, "bin")), os.RemoveAll(filepath.Join(dir, "lib")), os.RemoveAll(filepath.Join(dir, "etc")))
	}
	return rows
}

// look is what is at name: type, mode, content.
func look(name string) string {
	info, err := os.Lstat(name)
	if errors.Is(err, os.ErrPermission) {
		return "hidden"
	}
	if err != nil {
		return "nothing"
	}
	text := info.Mode().String()
	switch info.Mode().Type() {
	case 0:
		data, err := os.ReadFile(name)
		text += fmt.Sprintf(" %q %v", data, err)
	case os.ModeSymlink:
		target, _ := os.Readlink(name)
		text += " to " + target
	case os.ModeDir:
		filepath.WalkDir(name, func(sub string, d os.DirEntry, err error) error {
			if err == nil && sub != name {
				text += "\n" + strings.TrimPrefix(sub, name) + " " + look(sub)
				if d.IsDir() {
					return filepath.SkipDir
				}
			}
			return nil
		})
	}
	return text
}

// lookAt is what is at the path of each entry of m below dir.
func lookAt(dir string, m *Manifest) map[string]string {
	all := map[string]string{}
	for _, e := range m.Entries {
		if all[e.Path] = look(filepath.Join(dir, e.Path)); e.Type == TypeDir {
			info, err := os.Lstat(filepath.Join(dir, e.Path))
			if err == nil && info.IsDir() {
				all[e.Path] = info.Mode().String() // what is in it has lines of its own
			}
		}
	}
	return all
}

// Everything that is damaged becomes what it was, and only that: each file, link
// and directory with the mode that it had. What no other version has stays as it
// is, the rest is repaired all the same.
func TestRepair(t *testing.T) {
	host := t.TempDir() // what is not of the version, and a link of it leads to
	if err := os.WriteFile(host+"/core.so", []byte("of the system"), 0o666); err != nil {
		t.Fatal(err)
	}
	ofHost := look(host) + look(host+"/core.so")
	defer func() {
		if now := look(host) + look(host+"/core.so"); now != ofHost {
			t.Errorf("what an external link leads to is now %s, was %s", now, ofHost)
		}
	}()
	for name, damage := range damages() {
		for _, sealed := range []bool{false, true} {
			for _, donor := range []bool{true, false} {
				if sealed && os.Geteuid() != 0 && (strings.Contains(name, "entered by no user") || strings.Contains(name, "directory with files")) {
					continue // only root can make what is in such a directory read-only
				}
				t.Run(fmt.Sprintf("%s, sealed %v, donor %v", name, sealed, donor), func(t *testing.T) {
					s := newStore(t)
					ref := addTree(t, s, "1.0", treeOf1, map[string]string{"lib/core": "a/core.so", "lib/host": host})
					if donor {
						addTree(t, s, "2.0", treeOf2, nil)
					}
					dir := s.VersionDir("1.0")
					snapshot, err := s.Snapshot("1.0")
					if err != nil {
						t.Fatal(err)
					}
					if sealed {
						retire(t, s, "1.0")
					}
					want := lookAt(dir, snapshot.Manifest)
					if sealed {
						unseal(t, dir)
					}
					if err := damage(dir); err != nil {
						t.Fatal(err)
					}
					if sealed {
						retire(t, s, "1.0")
					}
					before := lookAt(dir, snapshot.Manifest)
					var wrong, lost []string
					for _, e := range snapshot.Manifest.Entries {
						if before[e.Path] == want[e.Path] || before[e.Path] == "hidden" {
							continue
						}
						if e.Type == TypeFile && e.Size > 0 && !donor && !hasContent(filepath.Join(dir, e.Path), treeOf1[e.Path]) {
							lost = append(lost, e.Path)
							want[e.Path] = before[e.Path] // stays as it was
							continue
						}
						wrong = append(wrong, e.Path)
					}
					got, err := s.Wrong(t.Context(), ref)
					if err != nil {
						t.Fatal(err)
					}
					all := append(slices.Clone(lost), wrong...)
					slices.Sort(got)
					slices.Sort(all)
					if diff := cmp.Diff(all, got, cmpopts.EquateEmpty()); diff != "" {
						t.Errorf("Wrong (-want +got):\n%s", diff)
					}
					_, err = s.Repair(t.Context(), nil, ref, got)
					if len(lost) > 0 {
						if Exit(err) != ExitDamaged || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("%d files (", len(lost))) {
							t.Errorf("Repair: %v, want that no version has %v", err, lost)
						}
						want, dir = before, s.path("v1.0")
					} else if err != nil {
						t.Fatalf("Repair: %v", err)
					} else if dir = s.VersionDir("1.0"); dir != s.path("v1.0~1") {
						t.Fatalf("after the repair version 1.0 is %s", dir)
					}
					if diff := cmp.Diff(want, lookAt(dir, snapshot.Manifest)); diff != "" {
						t.Errorf("after the repair (-want +got):\n%s", diff)
					}
					assertEmpty(t, s, stagingDir)
					if wrong, err := s.Wrong(t.Context(), ref); err != nil || len(lost) == 0 && wrong != nil {
						t.Errorf("Wrong again = %v, %v", wrong, err)
					}
				})
			}
		}
	}
}

// repair is what a caller of Repair does.
func repair(t *testing.T, s *Store, record *Record, ref *Ref) (wrong, extra []string, err error) {
	if wrong, err = s.Wrong(t.Context(), ref); err == nil {
		slices.Sort(wrong)
		extra, err = s.Repair(t.Context(), record, ref, wrong)
	}
	return wrong, extra, err
}

// A disk that fails once says nothing about the version that has what is missing.
func TestRepairReadsAgain(t *testing.T) {
	s := newStore(t)
	addTree(t, s, "1.0", treeOf1, nil)
	two := addTree(t, s, "2.0", treeOf2, nil)
	if err := os.Remove(s.path("v2.0/lib/core")); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	pread = func(fd int, p []byte, at int64) (int, error) {
		if calls.Add(1) == 1 {
			return 0, unix.EIO
		}
		return unix.Pread(fd, p, at)
	}
	defer func() { pread = unix.Pread }()
	if _, err := s.Repair(t.Context(), nil, two, []string{"lib/core"}); err != nil || calls.Load() < 2 {
		t.Errorf("Repair = %v after %d reads", err, calls.Load())
	}
}

// The links lead to the new directory, by one Commit; the old one stays as long as services
// may have files of it open, and what was not of the version is told.
func TestRepairCommits(t *testing.T) {
	s := newStore(t)
	one, two := addTree(t, s, "1.0", treeOf1, nil), addTree(t, s, "2.0", treeOf2, nil)
	if err := s.Commit(&Record{Schema: Schema, Phase: PhaseTrial, Trial: &Trial{}, Current: two, Previous: one}); err != nil {
		t.Fatal(err)
	}
	damage := func(dir, name string) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(s.path(dir, name)), os.MkdirAll(s.path(dir, "cache"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	is := func(link, want string) {
		t.Helper()
		if got, err := filepath.EvalSymlinks(s.path(link)); err != nil || got != s.path(want) {
			t.Errorf("%s leads to %s (%v), want %s", link, got, err, want)
		}
	}
	for n := 1; n <= 2; n++ {
		damage(dirName("2.0", n-1), "lib/core")
		active, err := s.Active()
		if err != nil {
			t.Fatal(err)
		}
		if wrong, extra, err := repair(t, s, active.Record, two); err != nil || !slices.Equal(wrong, []string{"lib/core"}) || !slices.Equal(extra, []string{"cache"}) {
			t.Errorf("Repair = %v, %v, %v", wrong, extra, err)
		}
		is("current", dirName("2.0", n))
		is("previous", "v1.0")
	}
	// The trial continues, and what rolls it back is prepared again, with the new directory.
	damage("v1.0", "bin/app")
	active, err := s.Active()
	if err != nil || active.Damage != "" || active.Record.Phase != PhaseTrial {
		t.Fatalf("Active = %+v, %v", active, err)
	}
	if _, _, err := repair(t, s, active.Record, one); err != nil {
		t.Fatal(err)
	}
	is("previous", "v1.0~1")
	if n, _ := s.activeGeneration(); s.switchable(n) != 0 {
		is(filepath.Join(generationsDir, fmt.Sprint(n+ahead), "current"), "v1.0~1")
	} else {
		t.Error("nothing is prepared")
	}
	if names, err := s.VersionNames(); err != nil || !slices.Equal(names, []string{"1.0", "2.0"}) {
		t.Errorf("VersionNames = %v, %v", names, err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"v1.0": false, "v1.0~1": true, "v2.0": true, "v2.0~1": true, "v2.0~2": true} {
		if exists(s.path(name)) != want {
			t.Errorf("after a sweep %s is there: %v, want %v", name, !want, want)
		}
	}
	// When something else runs, nothing has them open.
	next := active.Record.Clone()
	next.Current, next.Previous, next.Phase, next.Trial = one, two, PhaseConfirmed, nil
	if err := errors.Join(s.Commit(next), s.Sweep()); err != nil {
		t.Fatal(err)
	}
	is("previous", "v2.0~2")
	for _, name := range []string{"v2.0", "v2.0~1"} {
		if exists(s.path(name)) {
			t.Errorf("after another sweep %s is there", name)
		}
	}
	next = next.Clone()
	if next.Previous = nil; errors.Join(s.Commit(next), s.Remove(next, "2.0")) != nil || exists(s.path("v2.0~2")) {
		t.Error("a version that was repaired cannot be removed")
	}
}

// Where a link of the active generation, or of the prepared one, cannot be read, it may lead to any
// directory: a sweep after a repair removes none of them.
func TestUnreadableLinksKeepDirectories(t *testing.T) {
	for _, links := range [][]string{{"1/current"}, {"1/previous", "3/current"}} {
		t.Run(links[0], func(t *testing.T) {
			s := newStore(t)
			one, two := addTree(t, s, "1.0", treeOf1, nil), addTree(t, s, "2.0", treeOf2, nil)
			if err := s.Commit(&Record{Schema: Schema, Phase: PhaseTrial, Trial: &Trial{}, Current: two, Previous: one}); err != nil {
				t.Fatal(err)
			}
			for _, ref := range []*Ref{one, two} {
				if _, err := s.rebuildVersion(t.Context(), ref, nil, false); err != nil {
					t.Fatal(err)
				}
			}
			for _, link := range links {
				name := s.path(generationsDir, link)
				if err := errors.Join(os.Remove(name), os.Mkdir(name, 0o755)); err != nil {
					t.Fatal(err)
				}
			}
			_ = s.Sweep()
			for _, name := range []string{"v1.0", "v1.0~1", "v2.0", "v2.0~1"} {
				if !exists(s.path(name)) {
					t.Errorf("%s is gone", name)
				}
			}
		})
	}
}

// A repair that was ended between its last two steps: the current version is the damaged directory, and
// is looked at; any Commit leads to the new one.
func TestRepairWithoutItsCommit(t *testing.T) {
	s := newStore(t)
	one := addTree(t, s, "1.0", treeOf1, nil)
	addTree(t, s, "2.0", treeOf2, nil)
	record := &Record{Schema: Schema, Phase: PhaseConfirmed, Current: one}
	if err := errors.Join(s.Commit(record), os.Truncate(s.path("v1.0", "bin/app"), 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.rebuildVersion(t.Context(), one, []string{"bin/app"}, false); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), one, Quick); Exit(err) != ExitDamaged {
		t.Errorf("Verify = %v, want what is wrong with the directory that runs", err)
	}
	if err := errors.Join(s.Sweep(), s.Verify(t.Context(), &Ref{Version: "2.0"}, Quick)); err != nil || !exists(s.path("v1.0")) || !exists(s.path("v1.0~1")) {
		t.Errorf("after a sweep (%v) one of the directories is gone", err)
	}
	if err := errors.Join(s.Commit(record.Clone()), s.Verify(t.Context(), one, Content)); err != nil {
		t.Error(err)
	}
	if got := s.VersionDir("1.0"); got != s.path("v1.0~1") {
		t.Errorf("1.0 is %s", got)
	}
}

// What another directory of the version has, its manifest too, is as good as another version.
func TestRepairFromAnotherDirectory(t *testing.T) {
	s := newStore(t)
	one := addTree(t, s, "1.0", treeOf1, nil)
	record := &Record{Schema: Schema, Phase: PhaseConfirmed, Current: one}
	if err := s.Commit(record); err != nil {
		t.Fatal(err)
	}
	if _, err := s.rebuildVersion(t.Context(), one, nil, false); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.path("v1.0")); err != nil {
		t.Fatal(err)
	}
	if wrong, _, err := repair(t, s, record, one); err != nil {
		t.Errorf("Repair = %v, %v", wrong, err)
	}
	if err := s.Verify(t.Context(), one, Full); err != nil {
		t.Error(err)
	}
}

// hasContent reports whether name is a file with content, which its mode may hide.
func hasContent(name, content string) bool {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	if info.Mode().Perm() == 0 {
		return info.Size() == int64(len(content)) // no row has other content in such a file
	}
	data, err := os.ReadFile(name)
	return err == nil && string(data) == content
}

// unseal lets the owner write to everything below dir, so that also an ordinary
// user can damage it.
func unseal(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(name, info.Mode()|0o200)
	})
	if err != nil {
		t.Fatal(err)
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
			return nil // in a directory that is damaged
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

// What Wrong found is what Repair reads: nothing else.
func TestRepairReads(t *testing.T) {
	s := newStore(t)
	ref := addTree(t, s, "1.0", treeOf1, nil)
	addTree(t, s, "2.0", treeOf2, nil)
	flip := func(name string) error {
		return os.WriteFile(s.path("v1.0", name), []byte(strings.Repeat("x", len(treeOf1[name]))), 0o644)
	}
	if err := errors.Join(flip("bin/app"), flip("lib/a/core.so"), os.Chmod(s.path("v1.0", "etc"), 0o700)); err != nil {
		t.Fatal(err)
	}
	before := look(s.path("v1.0"))
	wrong, err := s.Wrong(t.Context(), ref)
	if diff := cmp.Diff([]string{"bin/app", "etc", "lib/a/core.so"}, slices.Sorted(slices.Values(wrong))); err != nil || diff != "" {
		t.Errorf("Wrong: %v (-want +got):\n%s", err, diff)
	}
	if after := look(s.path("v1.0")); after != before {
		t.Errorf("Wrong changed:\n%s", cmp.Diff(before, after))
	}
	if err := errors.Join(flip("etc/app.conf"), os.Remove(s.path("v1.0", "lib", "empty"))); err != nil { // meanwhile
		t.Fatal(err)
	}
	if _, err := s.Repair(t.Context(), nil, ref, wrong); err != nil {
		t.Fatal(err)
	}
	if wrong, _, err = repair(t, s, nil, ref); err != nil || !slices.Equal(wrong, []string{"etc/app.conf"}) {
		t.Errorf("another repair: %v, %v; want that of etc/app.conf", wrong, err)
	}
	if err := s.Verify(t.Context(), ref, Full); err != nil {
		t.Error(err)
	}
}

// A version that is read-only, as factory is, becomes so again, wherever its files come
// from; and it has nothing in common with another one that stays.
func TestRepairSeals(t *testing.T) {
	s := newStore(t)
	ref := addTree(t, s, "1.0", treeOf1, nil)
	addTree(t, s, "2.0", treeOf2, nil)
	retire(t, s, "1.0")
	if err := errors.Join(os.Chmod(s.path("v1.0", "etc", "app.conf"), 0o644), os.Chmod(s.path("v1.0", "lib", "a"), 0o755),
		os.Link(s.path("v1.0", "bin", "app"), s.path("v2.0", "none2")), os.Remove(s.path("v1.0", "lib", "a", "core.so"))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := repair(t, s, nil, ref); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{".": 0o555, "etc/app.conf": 0o444, "lib/a": 0o555, "bin/app": 0o555, "lib/a/core.so": 0o444, ".ota/manifest.json": 0o444} {
		if info, err := os.Lstat(s.path("v1.0~1", name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %04o", name, info.Mode(), err, want)
		} else if st := info.Sys().(*syscall.Stat_t); !info.IsDir() && st.Nlink != 1 {
			t.Errorf("%s has %d names", name, st.Nlink)
		}
	}
}

// Where a file comes from: any path of any version, as long as its content is
// what is wanted, and the same version.
func TestRepairDonors(t *testing.T) {
	long := strings.Repeat("n", MaxName)
	for _, row := range []struct {
		name    string
		tree    map[string]string
		others  []map[string]string // 2.0, 3.0 …
		prepare func(s *Store) error
		want    []string
	}{
		{"another path of the same version", map[string]string{"bin/app": "one\n", "share/copy": "one\n"}, nil,
			func(s *Store) error { return os.Remove(s.path("v1.0", "bin", "app")) }, []string{"bin/app"}},
		{"another path of the same version that is damaged as well: from another", map[string]string{"bin/app": "one\n", "share/copy": "one\n"},
			[]map[string]string{{"x": "one\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", "bin", "app")), os.WriteFile(s.path("v1.0", "share", "copy"), []byte("two\n"), 0o644))
			}, []string{"bin/app", "share/copy"}},
		{"the second of three in a version whose others are damaged", map[string]string{"bin/app": "one\n"},
			[]map[string]string{{"a": "one\n", "b": "one\n", "c": "one\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", "bin", "app")), os.Truncate(s.path("v2.0", "a"), 1), os.WriteFile(s.path("v2.0", "c"), []byte("two\n"), 0o644))
			}, []string{"bin/app"}},
		{"an older version, as the newest has it damaged", map[string]string{"bin/app": "one\n"},
			[]map[string]string{{"a": "one\n"}, {"a": "one\n"}, {"a": "one\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", "bin", "app")), os.Remove(s.path("v4.0", "a")), os.WriteFile(s.path("v3.0", "a"), []byte("two\n"), 0o644))
			}, []string{"bin/app"}},
		{"a version in which a FIFO and a directory are in the place of others", map[string]string{"bin/app": "one\n"},
			[]map[string]string{{"a": "one\n", "b": "one\n", "c": "one\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", "bin", "app")), os.Remove(s.path("v2.0", "c")), unix.Mkfifo(s.path("v2.0", "c"), 0o644),
					os.Remove(s.path("v2.0", "b")), os.Mkdir(s.path("v2.0", "b"), 0o755))
			}, []string{"bin/app"}},
		{"several at once, from several", map[string]string{"bin/app": "one\n", "bin/b": "two\n", "bin/c": "three\n", "bin/d": "one\n"},
			[]map[string]string{{"a": "one\n"}, {"a": "two\n"}, {"a": "three\n"}},
			func(s *Store) error {
				return errors.Join(os.RemoveAll(s.path("v1.0", "bin")), os.WriteFile(s.path("v1.0", "bin"), nil, 0o644))
			},
			[]string{"bin", "bin/app", "bin/b", "bin/c", "bin/d"}},
		{"the longest name there is, with a directory in its place", map[string]string{long: "one\n"}, []map[string]string{{"a": "one\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", long)), os.MkdirAll(s.path("v1.0", long, "x"), 0o755))
			}, []string{long}},
		{"two directories of one name in the place of files", map[string]string{"a/x": "one\n", "b/x": "two\n"}, []map[string]string{{"1": "one\n", "2": "two\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", "a", "x")), os.MkdirAll(s.path("v1.0", "a", "x", "y"), 0o755),
					os.Remove(s.path("v1.0", "b", "x")), os.MkdirAll(s.path("v1.0", "b", "x", "y"), 0o755))
			}, []string{"a/x", "b/x"}},
		{"what a killed repair left is in the way", map[string]string{"bin/app": "one\n"}, []map[string]string{{"a": "one\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", "bin", "app")), os.MkdirAll(s.path("v1.0", "bin", "app", "x"), 0o755),
					os.MkdirAll(s.path(stagingDir, "v1.0~1", "bin"), 0o700), os.MkdirAll(s.path(trashDir, "v1.0-0", "x"), 0o755))
			}, []string{"bin/app"}},
		{"no directory .staging and .trash", map[string]string{"bin/app": "one\n"}, []map[string]string{{"a": "one\n"}},
			func(s *Store) error {
				return errors.Join(os.Remove(s.path("v1.0", "bin", "app")), os.Mkdir(s.path("v1.0", "bin", "app"), 0o755),
					os.Remove(s.path(stagingDir)), os.Remove(s.path(trashDir)))
			}, []string{"bin/app"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStore(t)
			ref := addTree(t, s, "1.0", row.tree, nil)
			for i, other := range row.others {
				addTree(t, s, fmt.Sprintf("%d.0", i+2), other, nil)
			}
			if err := row.prepare(s); err != nil {
				t.Fatal(err)
			}
			got, _, err := repair(t, s, nil, ref)
			if diff := cmp.Diff(row.want, got); err != nil || diff != "" {
				t.Errorf("Repair: %v, repaired (-want +got):\n%s", err, diff)
			}
			if err := s.Sweep(); err != nil {
				t.Fatal(err)
			}
			for name, want := range row.tree {
				var st unix.Stat_t
				if data, err := os.ReadFile(s.path("v1.0~1", name)); err != nil || string(data) != want {
					t.Errorf("%.20s is %q (%v), want %q", name, data, err, want)
				} else if err := unix.Lstat(s.path("v1.0~1", name), &st); err != nil || st.Nlink != 1 {
					t.Errorf("%.20s has %d names (%v): an edit of the one changes the other", name, st.Nlink, err)
				}
			}
		})
	}
}

// An application that puts a link in the place of its own directory while root
// repairs it must not lead root elsewhere.
func TestRepairNeverFollowsALink(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newStore(t)
	outside := filepath.Join(t.TempDir(), "lib")
	victims := []string{"a/core.so", "empty", "core"}
	swapped := 0
	for range 100 {
		ref := addTree(t, s, "1.0", treeOf1, map[string]string{"lib/core": "a/core.so"})
		if _, err := os.Lstat(s.VersionDir("2.0")); err != nil {
			addTree(t, s, "2.0", treeOf2, nil)
		}
		lib, link := s.path("v1.0", "lib"), s.path("v1.0", "link")
		err := errors.Join(os.RemoveAll(outside), os.MkdirAll(filepath.Join(outside, "a"), 0o750), os.Symlink(outside, link))
		for _, name := range victims {
			err = errors.Join(err, os.WriteFile(filepath.Join(outside, name), []byte("secret"), 0o600), os.RemoveAll(filepath.Join(lib, name)))
		}
		if err != nil {
			t.Fatal(err)
		}
		before := look(outside)
		wait := time.Duration(random.IntN(400)) * time.Microsecond
		done := make(chan error)
		go func() {
			time.Sleep(wait)
			done <- unix.Renameat2(unix.AT_FDCWD, lib, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
		}()
		_, _, _ = repair(t, s, nil, ref) // with any result
		if <-done == nil {
			swapped++
		}
		if after := look(outside); after != before {
			t.Fatalf("seed %d: what is outside of the store is now\n%s\nwas\n%s", seed, after, before)
		}
		if err := errors.Join(os.RemoveAll(s.path("v1.0")), os.RemoveAll(s.path("v1.0~1"))); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("swapped %d times", swapped)
}

// A repair that is told to end, ends, and has not lost anything.
func TestRepairCanceled(t *testing.T) {
	s := newStore(t)
	ref := addTree(t, s, "1.0", treeOf1, nil)
	addTree(t, s, "2.0", treeOf2, nil)
	if err := os.Truncate(s.path("v1.0", "bin", "app"), 3); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := s.Wrong(ctx, ref); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("Wrong = %v, %v; want %v", got, err, context.Canceled)
	}
	if _, err := s.Repair(ctx, nil, ref, []string{"bin/app"}); !errors.Is(err, context.Canceled) || exists(s.path("v1.0~1")) {
		t.Errorf("Repair = %v; want %v", err, context.Canceled)
	}
	assertEmpty(t, s, stagingDir)
	if _, _, err := repair(t, s, nil, ref); err != nil {
		t.Error(err)
	}
}

// Seal makes a version read-only in its place, without its extra files and with files of
// its own; beside it if services may need the extra files.
func TestSeal(t *testing.T) {
	for name, row := range map[string]struct {
		prepare func(s *Store) error
		inUse   bool
		extra   []string
		made    bool
	}{
		"a version of its own":         {func(*Store) error { return nil }, false, nil, false},
		"a version of its own, in use": {func(*Store) error { return nil }, true, nil, false},
		"one that shares a file": {func(s *Store) error {
			return errors.Join(os.Remove(s.path("v2.0", "etc/app.conf")), os.Link(s.path("v1.0", "etc/app.conf"), s.path("v2.0", "etc/app.conf")))
		}, true, nil, false},
		"one with a copy that a power cut left": {func(s *Store) error {
			return errors.Join(os.Remove(s.path("v2.0", "etc/app.conf")), os.Link(s.path("v1.0", "etc/app.conf"), s.path("v2.0", "etc/app.conf")),
				os.WriteFile(s.path("v1.0", ".ota/copy"), []byte("half"), 0o600))
		}, false, []string{".ota/copy"}, false},
		"one with a file that it does not list":         {func(s *Store) error { return os.WriteFile(s.path("v1.0", "lib/x"), nil, 0o666) }, false, []string{"lib/x"}, false},
		"one with a file that it does not list, in use": {func(s *Store) error { return os.WriteFile(s.path("v1.0", "lib/x"), nil, 0o666) }, true, []string{"lib/x"}, true},
		"one with a directory in .ota":                  {func(s *Store) error { return os.Mkdir(s.path("v1.0", ".ota/x"), 0o755) }, false, []string{".ota/x"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			ref := addTree(t, s, "1.0", treeOf1, map[string]string{"lib/core": "a/core.so"})
			addTree(t, s, "2.0", treeOf2, nil)
			if err := row.prepare(s); err != nil {
				t.Fatal(err)
			}
			other := look(s.path("v2.0"))
			extra, made, err := s.Seal(t.Context(), ref, row.inUse)
			if made != row.made || err != nil || !slices.Equal(extra, row.extra) {
				t.Fatalf("Seal = %q, %v, %v; want %q, %v", extra, made, err, row.extra, row.made)
			}
			if after := look(s.path("v2.0")); after != other {
				t.Errorf("another version changed:\n%s", cmp.Diff(other, after))
			}
			dir := s.path("v1.0")
			if made {
				if !exists(filepath.Join(dir, "lib/x")) {
					t.Error("a file that a service may need is gone")
				}
				dir = s.path("v1.0~1")
			}
			t.Cleanup(func() { unseal(t, dir) })
			if dir != s.VersionDir("1.0") {
				t.Errorf("it is in %s, want %s", s.VersionDir("1.0"), dir)
			}
			if err := errors.Join(s.Verify(t.Context(), ref, Full), s.Verify(t.Context(), ref, Sealed)); err != nil {
				t.Error(err)
			}
			err = filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
				info, _ := d.Info()
				if d.Type() != os.ModeSymlink && info.Mode().Perm()&0o222 != 0 {
					t.Errorf("%s is %v", name, info.Mode())
				}
				if st := info.Sys().(*syscall.Stat_t); !made && d.Type().IsRegular() && st.Nlink != 1 {
					t.Errorf("%s has %d names", name, st.Nlink)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What does not belong to a version is deleted; what a link of it leads to, and what is
// mounted, is not.
func TestPrune(t *testing.T) {
	s := newStore(t)
	ref := addTree(t, s, "1.0", treeOf1, map[string]string{"lib/core": "a/core.so"})
	elsewhere := t.TempDir()
	dir := s.path("v1.0")
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(elsewhere, "data"), nil, 0o644), os.Symlink(elsewhere, filepath.Join(dir, "data")),
		os.MkdirAll(filepath.Join(dir, "lib/a/__pycache__/x"), 0o755), os.WriteFile(filepath.Join(dir, "lib/a/__pycache__/x/y"), nil, 0o644),
		syscall.Mkfifo(filepath.Join(dir, "etc/fifo"), 0o600), os.Symlink("/nowhere", filepath.Join(dir, ".ota/link")))
	want := []string{".ota/link", "data", "etc/fifo", "lib/a/__pycache__"}
	if extra := s.Extra("1.0"); !slices.Equal(extra, want) {
		t.Errorf("Extra = %q, want %q", extra, want)
	}
	if removed, err := s.Prune("1.0"); err != nil || !slices.Equal(removed, want) {
		t.Errorf("Prune = %q, %v; want %q", removed, err, want)
	}
	if err := s.Verify(t.Context(), ref, Full); err != nil || len(s.Extra("1.0")) > 0 {
		t.Errorf("after Prune: %v, %q", err, s.Extra("1.0"))
	}
	if !exists(filepath.Join(elsewhere, "data")) {
		t.Error("a link was followed")
	}

	// A directory of the manifest was replaced by a link: that is damage, and not entered.
	must(os.RemoveAll(filepath.Join(dir, "lib")), os.Symlink(elsewhere, filepath.Join(dir, "lib")))
	if removed, err := s.Prune("1.0"); err != nil || len(removed) > 0 || !exists(filepath.Join(elsewhere, "data")) {
		t.Errorf("Prune = %q, %v; want nothing", removed, err)
	}

	if os.Geteuid() != 0 {
		return
	}
	for _, at := range []string{"etc", "mounted"} { // of the manifest, and not
		at := filepath.Join(dir, at)
		must(os.MkdirAll(at, 0o755), unix.Mount("none", at, "tmpfs", 0, ""), os.WriteFile(filepath.Join(at, "data"), nil, 0o644))
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	must(os.WriteFile(filepath.Join(dir, "z"), nil, 0o644))
	removed, err := s.Prune("1.0")
	if err == nil || !strings.Contains(err.Error(), "mounted") || !slices.Equal(removed, []string{"z"}) {
		t.Errorf("Prune = %q, %v; want that z is removed and the mount is not", removed, err)
	}
	if !exists(filepath.Join(dir, "etc/data")) || !exists(filepath.Join(dir, "mounted/data")) {
		t.Error("a mount was entered")
	}
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
			before := look(s.path("v1.0"))
			if _, _, err := repair(t, s, nil, ref); Exit(err) != ExitDamaged || !strings.Contains(err.Error(), "bin/app") {
				t.Errorf("Repair = %v; want that no version has bin/app", err)
			}
			if after := look(s.path("v1.0")); after != before || exists(s.path("v1.0~1")) {
				t.Errorf("something changed:\n%s", cmp.Diff(before, after))
			}
			assertEmpty(t, s, stagingDir)
		})
	}
}

// The truth itself is damaged: nothing is touched.
func TestRepairWithoutManifest(t *testing.T) {
	for name, damage := range map[string]func(name string) error{
		"missing":                       os.Remove,
		"missing, and all else with it": func(name string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(name))) },
		"missing, in an empty directory": func(name string) error {
			dir := filepath.Dir(filepath.Dir(name))
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755))
		},
		"a FIFO": func(name string) error { return errors.Join(os.Remove(name), unix.Mkfifo(name, 0o644)) },
		"cut":    func(name string) error { return os.Truncate(name, 200) },
		"changed": func(name string) error {
			data, err := os.ReadFile(name)
			return errors.Join(err, os.WriteFile(name, []byte(strings.Replace(string(data), "0755", "0777", 1)), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			ref := addTree(t, s, "1.0", treeOf1, nil)
			addTree(t, s, "2.0", treeOf2, nil)
			if err := errors.Join(os.Remove(s.path("v1.0", "bin", "app")), damage(s.path("v1.0", ".ota", "manifest.json"))); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Repair(t.Context(), nil, ref, nil); Exit(err) != ExitDamaged || got != nil {
				t.Errorf("Repair = %v, %v; want it damaged", got, err)
			} else if !strings.Contains(err.Error(), "its manifest is lost") {
				t.Errorf("Repair: %v, want that it is the manifest", err)
			}
			if _, err := os.Lstat(s.path("v1.0", "bin", "app")); err == nil {
				t.Error("bin/app was made from a manifest that cannot be trusted")
			}
		})
	}
}

func assertEmpty(t *testing.T, s *Store, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if names, _ := os.ReadDir(s.path(dir)); len(names) > 0 {
			t.Errorf("%s holds %v", dir, names)
		}
	}
}

// repairer is in the environment of the test binary that only repairs.
const repairer = "OTA_TEST_REPAIR"

// Killed at any moment, a repair leaves the version as it was or intact, and the next one
// does it.
func TestRepairKilled(t *testing.T) {
	if dir := os.Getenv(repairer); dir != "" {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		active, err := s.Active()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := repair(t, s, active.Record, active.Record.Current); err != nil {
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
	killed, left := 0, 0
	var took time.Duration // of the first, which is not killed
	for round := range 20 {
		s := newStore(t)
		ref := addTree(t, s, "1.0", one, nil)
		addTree(t, s, "2.0", two, nil)
		if err := s.Commit(&Record{Schema: Schema, Phase: PhaseConfirmed, Current: ref}); err != nil {
			t.Fatal(err)
		}
		for i, name := range slices.Sorted(maps.Keys(one)) {
			err := os.Truncate(s.path("v1.0", name), 10)
			if i%4 == 0 {
				err = errors.Join(os.Remove(s.path("v1.0", name)), os.MkdirAll(s.path("v1.0", name, "of", "others"), 0o755))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		before := look(s.path("v1.0"))
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
		if after := look(s.path("v1.0")); after != before {
			t.Fatalf("seed %d: the damaged directory changed", seed)
		}
		active, err := s.Active()
		if err != nil || active.Damage != "" {
			t.Fatalf("seed %d: %v, %v", seed, active, err)
		}
		if s.VersionDir("1.0") != s.path("v1.0") {
			if err := s.Verify(t.Context(), ref, Full); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if staged, _ := os.ReadDir(s.path(stagingDir)); len(staged) > 0 {
			left++
		}
		if round%2 == 0 { // a repair after a sweep, and one without
			if err := s.Sweep(); err != nil {
				t.Fatal(err)
			}
			assertEmpty(t, s, stagingDir, trashDir)
		}
		if _, _, err := repair(t, s, active.Record, ref); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := errors.Join(s.Verify(t.Context(), ref, Full), s.Sweep()); err != nil {
			t.Fatal(err)
		}
		assertEmpty(t, s, stagingDir, trashDir)
	}
	t.Logf("killed %d of 19 repairs before their end, %d left something to sweep", killed, left)
	if killed == 0 {
		t.Error("no repair was interrupted: this shows nothing")
	}
}
