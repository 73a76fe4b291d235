package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

// newStore is an empty store in a directory of its own.
func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "versions"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addSnapshot puts a small version into the store, as an install would.
func addSnapshot(t *testing.T, s *Store, version string) *Ref {
	t.Helper()
	content := "this is " + version + "\n"
	sum := sha256.Sum256([]byte(content))
	m := Manifest{
		Format: ManifestFormat, Models: []string{"x1"}, Version: version, Size: int64(len(content)),
		Entries: []Entry{
			{Path: "bin", Type: TypeDir, Mode: 0o755},
			{Path: "bin/app", Type: TypeFile, Mode: 0o755, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])},
		},
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.Stage(version)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, err := range []error{
		root.Mkdir("bin", 0o755), root.Mkdir(".ota", 0o755),
		root.WriteFile("bin/app", []byte(content), 0o755),
		root.WriteFile(".ota/manifest.json", raw, 0o644),
		s.Publish(version, false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &Ref{Version: version, Digest: Digest(raw)}
}

// mustCommit commits next and returns it.
func mustCommit(t *testing.T, s *Store, next *Record) *Record {
	t.Helper()
	if err := s.Commit(next); err != nil {
		t.Fatal(err)
	}
	return next
}

func mustActive(t *testing.T, s *Store) *Active {
	t.Helper()
	active, err := s.Active()
	if err != nil {
		t.Fatal(err)
	}
	return active
}

// runsNow is what a service that is started now runs.
func runsNow(t *testing.T, s *Store) string {
	t.Helper()
	data, err := os.ReadFile(s.path("current", "bin", "app"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(data), "this is "))
}

// twoVersions is a store in which 1.0 was confirmed and 2.0 is on trial.
func twoVersions(t *testing.T) (s *Store, one, two *Ref) {
	t.Helper()
	s = newStore(t)
	one, two = addSnapshot(t, s, "1.0"), addSnapshot(t, s, "2.0")
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: one, Factory: one, Confirmed: []Ref{*one}})
	mustCommit(t, s, &Record{Phase: PhaseTrial, Current: two, Previous: one, Factory: one, Confirmed: []Ref{*one}, Trial: &Trial{BootID: "a", Unclean: 1}})
	return s, one, two
}

func TestCommitSwitchesEverything(t *testing.T) {
	s, one, two := twoVersions(t)
	active := mustActive(t, s)
	if active.Damage != "" || active.Record.Generation != 2 || !active.Record.Current.Same(two) || !active.Record.Previous.Same(one) {
		t.Errorf("Active = %+v (%s), want generation 2 with current 2.0 and previous 1.0", active.Record, active.Damage)
	}
	if got := runsNow(t, s); got != "2.0" {
		t.Errorf("current runs %s, want 2.0", got)
	}
	for name, want := range map[string]string{
		"current": ".active/current", "previous": ".active/previous", "factory": ".active/factory",
		".active": ".generations/2", ".generations/2/current": "../../v2.0", ".generations/2/previous": "../../v1.0",
	} {
		if got, err := os.Readlink(s.path(name)); got != want {
			t.Errorf("%s -> %q (%v), want %q", name, got, err, want)
		}
	}
	for _, file := range []string{recordFile, backupFile} {
		if info, err := os.Stat(s.path(".generations/2", file)); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v %v, want mode 0644: every user may read the current version", file, info, err)
		}
	}
}

func TestCommitRefuses(t *testing.T) {
	s, one, _ := twoVersions(t)
	for name, next := range map[string]*Record{
		"a version that is not there":     {Phase: PhaseConfirmed, Current: &Ref{Version: "9.0"}},
		"no current":                      {Phase: PhaseConfirmed},
		"a name that climbs":              {Phase: PhaseConfirmed, Current: &Ref{Version: "../etc"}},
		"a phase that is not known":       {Phase: "happy", Current: one},
		"a trial without counters":        {Phase: PhaseTrial, Current: one},
		"a negative counter":              {Phase: PhaseTrial, Current: one, Trial: &Trial{Hard: -1}},
		"more boots than there can be":    {Phase: PhaseTrial, Current: one, Trial: &Trial{Clean: maxBootCount + 1}},
		"a digest that was not confirmed": {Phase: PhaseConfirmed, Current: one, Confirmed: []Ref{{Version: one.Version, Digest: Digest(nil)}}},
	} {
		if err := s.Commit(next); err == nil {
			t.Errorf("Commit of %s succeeded", name)
		}
	}
	if active := mustActive(t, s); active.Record.Generation != 2 || active.Damage != "" {
		t.Errorf("after the refusals generation %d is active (%s), want 2", active.Record.Generation, active.Damage)
	}
	generations, err := s.generations()
	if err != nil || len(generations) != 2 {
		t.Errorf("%d generations are left (%v), want 2", len(generations), err)
	}
}

// A previous or factory that was lost must not keep the device from leaving a
// version that fails.
func TestCommitWithLostPrevious(t *testing.T) {
	s, one, two := twoVersions(t)
	if err := os.RemoveAll(s.VersionDir("1.0")); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one, Factory: one})
	if active := mustActive(t, s); active.Damage != "" || !active.Record.Factory.Same(one) {
		t.Errorf("Active = %+v, damage %q", active.Record, active.Damage)
	}
}

// A user who may not read the record is told so, and not that it is damaged.
func TestUnreadableRecord(t *testing.T) {
	s, _, _ := twoVersions(t)
	if err := os.Chmod(s.path(".generations", "2", "record.json"), 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		if _, err := s.Active(); !errors.Is(err, os.ErrPermission) {
			t.Errorf("Active: %v, want permission denied", err)
		}
	})
}

// A store that cannot be listed for a moment has not lost its versions.
func TestStoreCannotBeListed(t *testing.T) {
	s, one, two := twoVersions(t)
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two})
	if err := errors.Join(os.Rename(s.path("v1.0"), s.path("v1.0~1")), os.Chmod(s.dir, 0o311)); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(s.dir, 0o755)
	if os.Geteuid() == 0 {
		above := filepath.Dir(s.dir)
		if err := errors.Join(os.Chmod(s.dir, 0o711), os.Chmod(above, 0o711), os.Chmod(filepath.Dir(above), 0o711)); err != nil {
			t.Fatal(err)
		}
	}
	record := &Record{Schema: Schema, Phase: PhaseConfirmed, Current: one}
	looks := map[string]func() error{
		"There":    func() error { return s.There("1.0") },
		"Verify":   func() error { return s.Verify(t.Context(), one, Quick) },
		"Commit":   func() error { return s.committable(record) },
		"Remove":   func() error { return s.Remove(nil, "1.0") },
		"Occupied": func() error { _, _, err := s.Occupied("1.0"); return err },
		"Wrong":    func() error { _, err := s.Wrong(t.Context(), one); return err },
	}
	asNobody(t, func() {
		for name, do := range looks {
			if err := do(); !Inconclusive(err) {
				t.Errorf("%s: %v, want permission denied", name, err)
			}
		}
	})
}

// A disk that cannot list the store any more keeps no bad version running: the device still
// rolls back to what is linked.
func TestLeavesAVersionOnADiskThatCannotListTheStore(t *testing.T) {
	s, one, two := twoVersions(t)
	if err := os.Rename(s.path("v1.0"), s.path("v1.0~1")); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: two, Previous: one})
	defer func() { listDir = os.ReadDir }()
	listDir = func(name string) ([]fs.DirEntry, error) {
		if name == s.dir {
			return nil, unix.EIO
		}
		return os.ReadDir(name)
	}
	mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: one})
	if got, err := filepath.EvalSymlinks(s.path("current")); err != nil || got != s.path("v1.0~1") {
		t.Errorf("current leads to %s, %v", got, err)
	}
}

func TestCommitKeepsTheLast32(t *testing.T) {
	s, one, _ := twoVersions(t)
	for range 40 {
		mustCommit(t, s, &Record{Phase: PhaseConfirmed, Current: one})
	}
	history, err := s.History()
	if err != nil || len(history) != 32 || history[31].Generation != 42 || history[0].Generation != 11 {
		t.Errorf("History = %d generations (%v), want 11 to 42", len(history), err)
	}
}

// A power cut before the switch leaves a generation that never was.
func TestUnfinishedGenerationNeverWas(t *testing.T) {
	s, one, _ := twoVersions(t)
	leave := func() {
		if err := s.writeGeneration(3, &Record{Schema: 1, Phase: PhaseConfirmed, Current: one}); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	if active := mustActive(t, s); active.Record.Generation != 2 {
		t.Errorf("generation %d is active, want 2", active.Record.Generation)
	}
	if history, _ := s.History(); len(history) != 2 {
		t.Errorf("the history has %d generations, want 2", len(history))
	}
	next := mustCommit(t, s, mustActive(t, s).Record.Clone())
	if next.Generation != 3 {
		t.Errorf("the next generation is %d, want 3", next.Generation)
	}
	if err := os.RemoveAll(s.path(".generations", "4")); err != nil {
		t.Fatal(err)
	}
	if err := s.writeGeneration(4, &Record{Schema: 1, Phase: PhaseConfirmed, Current: one}); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.path(".generations", "4")); err == nil {
		t.Error("Sweep left the unfinished generation")
	}
}

func TestEmptyStore(t *testing.T) {
	if _, err := newStore(t).Active(); !errors.Is(err, ErrEmpty) {
		t.Errorf("Active of a new store: %v, want ErrEmpty", err)
	}
	empty := &Store{dir: t.TempDir()}
	if _, err := empty.Active(); !errors.Is(err, ErrEmpty) {
		t.Errorf("Active of an empty directory: %v, want ErrEmpty", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of a missing directory: %v, want not exist", err)
	}
	if _, err := Create(filepath.Join(t.TempDir(), "not", "mounted")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Create below a missing directory: %v, want not exist", err)
	}
}

// A crash while the very first generation was written is no damage: nothing was
// ever made current, and the next install starts over, however often that goes so.
func TestFirstCommitUnfinished(t *testing.T) {
	for name, leave := range map[string]func(dir string) error{
		"a directory":  func(string) error { return nil },
		"an empty one": func(dir string) error { return os.WriteFile(filepath.Join(dir, recordFile), nil, 0o600) },
		"half a record": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, recordFile), []byte(`{"schema":1,"ph`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			one := addSnapshot(t, s, "1.0")
			dir := s.generation(1)
			if err := errors.Join(os.MkdirAll(dir, 0o755), leave(dir)); err != nil {
				t.Fatal(err)
			}
			if active, err := s.Active(); !errors.Is(err, ErrEmpty) {
				t.Fatalf("Active = %v, %v; want ErrEmpty", active, err)
			}
			// A device that had more than one generation is no new one.
			second := s.generation(2)
			if err := os.Mkdir(second, 0o755); err != nil {
				t.Fatal(err)
			}
			if active, err := s.Active(); err == nil || errors.Is(err, ErrEmpty) {
				t.Errorf("Active with two generations = %v, %v; want another error than ErrEmpty", active, err)
			}
			if err := os.Remove(second); err != nil {
				t.Fatal(err)
			}
			next := mustCommit(t, s, &Record{Schema: 1, Phase: PhaseConfirmed, Current: one})
			if next.Generation != 1 {
				t.Errorf("the first generation is %d, want 1: two unfinished ones would be damage", next.Generation)
			}
			if active := mustActive(t, s); active.Damage != "" || active.Record.Current.Version != "1.0" {
				t.Errorf("Active = %s, damage %q; want 1.0 and none", active.Record.Current, active.Damage)
			}
		})
	}
}

func TestUnknownKeysAreKept(t *testing.T) {
	r, err := ParseRecord([]byte(`{"schema":3,"phase":"probation","current":{"version":"1.0","digest":""},"probation":{"days":[1,2]},"note":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if got["note"] != "x" || fmt.Sprint(got["probation"]) != "map[days:[1 2]]" || got["schema"] != 3.0 || got["phase"] != "probation" {
		t.Errorf("written back: %s", out)
	}
	again, err := ParseRecord(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, again, cmp.AllowUnexported(Record{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("a second reading differs:\n%s", diff)
	}
	if _, err := ParseRecord([]byte(`{"schema":1,"phase":"probation","current":{"version":"1.0"}}`)); !errors.Is(err, ErrRecord) {
		t.Errorf("an unknown phase of our own schema: %v, want ErrRecord", err)
	}
}

func TestLock(t *testing.T) {
	s := newStore(t)
	unlock, err := s.Lock(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(t.Context(), 0); !errors.Is(err, ErrBusy) || Exit(err) != ExitBusy {
		t.Errorf("a second Lock: %v (exit %d), want busy", err, Exit(err))
	}
	if _, err := s.LockInstalls(t.Context()); err != nil {
		t.Errorf("the lock of installs is another one: %v", err)
	}
	done := make(chan error)
	go func() {
		unlock, err := s.Lock(context.Background(), lockPatience)
		if err == nil {
			unlock()
		}
		done <- err
	}()
	unlock()
	if err := <-done; err != nil {
		t.Errorf("a Lock that waits: %v", err)
	}
}

// Anything in the place of a lock is no reason to decide nothing for ever. What
// a directory holds is kept until the next Sweep.
func TestLockInTheWay(t *testing.T) {
	for what, put := range map[string]func(name string) error{
		"an empty directory": func(name string) error { return os.Mkdir(name, 0o755) },
		"a directory": func(name string) error {
			return errors.Join(os.MkdirAll(filepath.Join(name, "of", "another"), 0o755), os.WriteFile(filepath.Join(name, "file"), []byte("x"), 0o600))
		},
		"a link":                    func(name string) error { return os.Symlink("/etc/passwd", name) },
		"a link to a directory":     func(name string) error { return os.Symlink("/etc", name) },
		"a link that leads nowhere": func(name string) error { return os.Symlink("nowhere", name) },
		"a FIFO":                    func(name string) error { return unix.Mkfifo(name, 0o600) },
		"a socket": func(name string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Bind(fd, &unix.SockaddrUnix{Name: name})
		},
	} {
		for _, name := range []string{lockFile, installLock, lockFile + ".new"} {
			t.Run(what+" as "+name, func(t *testing.T) {
				t.Chdir(t.TempDir()) // the name of a socket is short
				s, err := Create("versions")
				if err != nil {
					t.Fatal(err)
				}
				lock := func() (func(), error) { return s.Lock(t.Context(), 0) }
				if name == installLock {
					lock = func() (func(), error) { return s.LockInstalls(t.Context()) }
				}
				if err := put(s.path(name)); err != nil {
					t.Fatal(err)
				}
				if name != lockFile && name != installLock { // and a lock that others can hold
					if err := os.WriteFile(s.path(lockFile), nil, 0o666); err != nil || os.Chmod(s.path(lockFile), 0o666) != nil {
						t.Fatal(err)
					}
					if unlock, err := lock(); err == nil { // it may have to be tried again
						unlock()
					}
				}
				unlock, err := lock()
				if err != nil {
					t.Fatalf("Lock: %v", err)
				}
				if _, err := lock(); !errors.Is(err, ErrBusy) {
					t.Errorf("a second Lock: %v, want busy", err)
				}
				unlock()
				if what == "a directory" {
					if data, err := os.ReadFile(s.path(trashDir, name[1:]+"-0", "file")); string(data) != "x" {
						t.Errorf("the directory's file in .trash is %q (%v)", data, err)
					}
				}
				if err := s.Sweep(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Two processes that find a directory in the place of the lock have one lock after it.
func TestLockInTheWayOfMany(t *testing.T) {
	s := newStore(t)
	for range 50 {
		if err := errors.Join(os.RemoveAll(s.path(lockFile)), os.MkdirAll(s.path(lockFile, "x"), 0o755)); err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		held := make(chan struct{})
		for range 4 {
			go func() {
				unlock, err := s.Lock(t.Context(), 0)
				got <- err
				<-held
				if err == nil {
					unlock()
				}
			}()
		}
		holders := 0
		for range 4 {
			switch err := <-got; {
			case err == nil:
				holders++
			case !errors.Is(err, ErrBusy):
				t.Fatal(err)
			}
		}
		close(held)
		if holders != 1 {
			t.Fatalf("%d have the lock, want one", holders)
		}
	}
}

// A file in the place of a directory of the store is no reason to install nothing.
func TestFileInPlaceOfADirectory(t *testing.T) {
	for what, put := range map[string]func(name string) error{
		"a file":                    func(name string) error { return os.WriteFile(name, nil, 0o600) },
		"a FIFO":                    func(name string) error { return unix.Mkfifo(name, 0o600) },
		"a link to a file":          func(name string) error { return os.Symlink("/etc/passwd", name) },
		"a link that leads nowhere": func(name string) error { return os.Symlink("no/where", name) },
	} {
		for _, name := range []string{trashDir, stagingDir} {
			s, _, _ := twoVersions(t)
			if err := errors.Join(os.RemoveAll(s.path(name)), put(s.path(name)), s.Sweep()); err != nil {
				t.Errorf("Sweep with %s as %s: %v", what, name, err)
			}
			addSnapshot(t, s, "3.0")
			if err := s.Remove(mustActive(t, s).Record, "3.0"); err != nil {
				t.Errorf("Remove with %s as %s: %v", what, name, err)
			}
		}
	}
}

// lockPatience is ten times what a loaded machine takes to hand a lock over.
const lockPatience = 30e9

func TestSweep(t *testing.T) {
	s, _, _ := twoVersions(t)
	ours := []string{".staging/v3.0", ".trash/v0.9-0", "..active123", ".current7"}
	for _, name := range []string{"..clean-shutdown12", "..hard-reboot7"} { // files, of a shutdown that was cut off
		if err := os.WriteFile(s.path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := os.Lstat(s.path(name)); err == nil {
				t.Errorf("%s is still there", name)
			}
		}()
	}
	foreign := []string{".activex", "..clean-shutdown", "..hard-reboot1", "clean-shutdown3", "..active", "notes", "..active12x"}
	for _, name := range append(ours, foreign...) {
		if err := os.MkdirAll(s.path(name, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sweep(); err != nil {
		t.Fatal(err)
	}
	for _, name := range ours {
		if _, err := os.Lstat(s.path(name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range foreign {
		if _, err := os.Lstat(s.path(name)); err != nil {
			t.Errorf("%s is gone: %v", name, err)
		}
	}
	if got := runsNow(t, s); got != "2.0" {
		t.Errorf("current runs %s, want 2.0", got)
	}
}

func TestRemove(t *testing.T) {
	s, _, _ := twoVersions(t)
	addSnapshot(t, s, "0.9")
	record := mustActive(t, s).Record
	for _, version := range []string{"1.0", "2.0"} {
		if err := s.Remove(record, version); err == nil {
			t.Errorf("Remove of %s, which is linked, succeeded", version)
		}
	}
	if err := s.Remove(record, "0.9"); err != nil {
		t.Fatal(err)
	}
	names, err := s.VersionNames()
	if err != nil || cmp.Diff([]string{"1.0", "2.0"}, names) != "" {
		t.Errorf("versions = %v (%v), want 1.0 2.0", names, err)
	}
}

func TestSurplus(t *testing.T) {
	s, one, _ := twoVersions(t)
	for _, v := range []string{"0.7", "0.8", "0.9", "3.0", "3.1"} {
		addSnapshot(t, s, v)
	}
	r := mustActive(t, s).Record.Clone()
	r.Confirmed = []Ref{{Version: "0.9"}, {Version: "0.8"}, *one}
	r.Block(Ref{Version: "3.1"}, CauseHealth, "")
	for keep, want := range map[int][]string{
		0: {"3.1", "0.9", "0.8", "0.7", "3.0"},
		2: {"3.1", "0.9", "0.8"},
		9: {},
	} {
		got, err := s.Surplus(r, keep)
		if err != nil || cmp.Diff(want, got, cmpopts.EquateEmpty()) != "" {
			t.Errorf("Surplus(keep %d) = %v (%v), want %v", keep, got, err, want)
		}
	}
}

func TestSealInPlace(t *testing.T) {
	s, one, _ := twoVersions(t)
	// Without root the test's directory could not be removed otherwise.
	t.Cleanup(func() {
		for _, dir := range []string{"", "bin", ".ota"} {
			os.Chmod(filepath.Join(s.VersionDir("1.0"), dir), 0o755)
		}
	})
	if _, made, err := s.Seal(t.Context(), one, false); err != nil || made {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o555, "bin": 0o555, "bin/app": 0o555, ".ota": 0o555, ".ota/manifest.json": 0o444} {
		info, err := os.Stat(filepath.Join(s.VersionDir("1.0"), name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: mode %v (%v), want %v", name, info.Mode(), err, want)
		}
	}
	if err := s.Verify(t.Context(), one, Full); err != nil {
		t.Errorf("read-only, the version is as whole as before: %v", err)
	}
}

func TestVerify(t *testing.T) {
	s, one, _ := twoVersions(t)
	app := filepath.Join(s.VersionDir("1.0"), "bin", "app")
	if err := s.Verify(t.Context(), one, Full); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), &Ref{Version: "1.0", Digest: "sha256:other"}, Quick); Exit(err) != ExitDamaged {
		t.Errorf("another manifest than the record knows: %v, want exit 5", err)
	}
	if err := os.WriteFile(app, []byte("THIS is 1.0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), one, Quick); err != nil {
		t.Errorf("same size: Quick says %v", err)
	}
	if err := s.Verify(t.Context(), one, Full); Exit(err) != ExitDamaged || !strings.Contains(err.Error(), "bin/app") {
		t.Errorf("changed content: Full says %v, want damaged bin/app", err)
	}
	if err := os.Truncate(app, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), one, Quick); Exit(err) != ExitDamaged {
		t.Errorf("truncated: Quick says %v, want damaged", err)
	}
	if err := s.Verify(t.Context(), &Ref{Version: "7.0"}, Quick); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v, want not exist", err)
	}
}

func TestCompareVersions(t *testing.T) {
	order := []string{"", "0.9", "1.0-rc1", "1.0-rc2", "1.0-rc10", "1.0", "1.0.1", "1.2", "1.9.9", "1.10", "1.10.1-a", "1.10.1", "2", "a", "b1", "b10"}
	for i, a := range order {
		for j, b := range order {
			got, want := CompareVersions(a, b), 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got != want {
				t.Errorf("CompareVersions(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestFind(t *testing.T) {
	s, _, _ := twoVersions(t)
	r := mustActive(t, s).Record
	for name, want := range map[string]string{"1.0": "1.0", "v1.0": "1.0", "current": "2.0", "previous": "1.0", "factory": "1.0", "7.0": "", "../etc": "", "-h": "", "": ""} {
		got, err := s.Find(r, name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Find(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}
