// Package bootcheck is what the guardian and the applier must agree on: the
// version store, the record of which version is current and why, the manifest that says what a
// version consists of. It holds the facts; guardian decides, applier changes.
//
// The store is one directory:
//
//	/opt/tope/versions/
//	  v1.0.0/ v1.1.0/ v1.2.0/           snapshots; each holds .ota/manifest.json and its signature
//	  v1.2.0~1/                         1.2.0, rebuilt after damage (versions.go)
//	  current  -> .active/current       fixed links, made once, never touched again
//	  previous -> .active/previous
//	  factory  -> .active/factory
//	  .active  -> .generations/42       THE switch: replacing this link changes everything at once
//	  .generations/41/ 42/              each holds record.json, its backup and the links current, previous, factory -> ../../v1.2.0
//	  .generations/44/ 42.fallback/     while 42 is a trial: what rolls it back, and its link (prepared.go)
//	  .staging/  .trash/                what is being unpacked, what is being deleted
//	  .revoked.json                     keys whose bundles are refused; not there while no key was revoked
//	  .clean-shutdown  .hard-reboot     marks that a boot leaves behind: the generation that was active when it ended so
//	  .follow.json                      what a server asked for, and what it has still to be told (applier/follow); only where one is followed
//	  .installs.json                    how installs ended, for the fleet; only where [metrics] asks for it
//	  .lock                             flock of the program that changes the store
//	  .install.lock                     flock of the one install, from its first byte to the end of its trial
//
// Commit is the only transaction. What it needs is written beside the current version
// and made durable; then one rename replaces .active. Before the rename nothing
// changed, after it everything did.
package bootcheck

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

const (
	activeLink     = ".active"
	generationsDir = ".generations"
	stagingDir     = ".staging"
	trashDir       = ".trash"
	lockFile       = ".lock"
	installLock    = ".install.lock"
	recordFile     = "record.json"
	backupFile     = "record.backup.json"
	revokedFile    = ".revoked.json"
	installsFile   = ".installs.json" // of package metrics
	followFile     = ".follow.json"   // of applier/follow

	// keepGenerations is how many are kept: they are the history an operator
	// reads and the backup of a damaged record. At 4 KiB blocks a generation
	// is about 16 KiB, so the history is about 512 KiB.
	keepGenerations = 32
)

// A Store is the directory of all versions of one device. Its methods that change
// something are called with the lock held (see Lock).
type Store struct {
	dir string
	// Run is the directory that a reboot empties. Active looks there for the cause of a
	// rollback that the disk had no room for (see RollBack). Empty: nowhere.
	Run string
}

// Open returns the store at dir, which must exist; nothing is written. A directory
// without a record is a store, an empty one.
func Open(dir string) (*Store, error) {
	info, err := stat(dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	if err != nil {
		return nil, noStore("cannot open the version store: %w", err)
	}
	return &Store{dir: dir}, nil
}

// Create opens the store at dir and makes what is missing of it: the directory
// itself if its parent exists (a missing parent is a disk that is not mounted),
// the directories inside and the three fixed links. When it returns they are
// durable. Something else in the place of a fixed link is an error, see RepairLinks.
func Create(dir string) (*Store, error) {
	made := false
	if err := os.Mkdir(dir, 0o755); err == nil {
		made = true
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, noStore("cannot make the version store: %w", err)
	}
	s, err := Open(dir)
	if err != nil {
		return nil, err
	}
	if target, foreign := s.foreign(); foreign {
		return nil, (&Error{Err: fmt.Errorf("cannot make the version store: %s is a link to %q, want %q", s.path("current"), target, fixedTarget("current"))}).
			WithAdvice("`ota-guardian adopt` takes over what another program installed here")
	}
	changed, err := s.makeDirs(generationsDir, stagingDir, trashDir)
	if err != nil {
		return nil, err
	}
	for _, name := range linkNames {
		err := s.checkFixed(name)
		if err == nil {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = os.Symlink(fixedTarget(name), s.path(name))
			if errors.Is(err, unix.EPERM) || errors.Is(err, errors.ErrUnsupported) {
				// Nothing is left of a store that cannot be; what holds something stays.
				for _, directory := range []string{generationsDir, stagingDir, trashDir} {
					_ = os.Remove(s.path(directory))
				}
				if made {
					_ = os.Remove(dir)
				}
				return nil, Unfit(dir, "has no symbolic links")
			}
		}
		if err != nil {
			return nil, (&Error{Err: fmt.Errorf("cannot make the version store: %w", err)}).
				WithAdvice("move %s away if it is not of this program", s.path(name))
		}
		changed = true
	}
	if changed {
		return s, syncDir(s.dir)
	}
	return s, nil
}

func noStore(format string, err error) error {
	return Errorf(0, "", format, err).WithAdvice("check that its disk is mounted and that `root` in the configuration is right")
}

// Unfit is the error of a file system of dir that lacks what a store needs.
func Unfit(dir, lacks string) error {
	return (&Error{Err: fmt.Errorf("the file system of %s %s", dir, lacks)}).
		WithAdvice("put `root` of the configuration on ext4, btrfs, xfs or f2fs, mounted without options that set modes or owners")
}

// makeDirs makes those of the directories that are missing; made: there was one. What
// is in the place of a directory stays.
func (s *Store) makeDirs(names ...string) (made bool, err error) {
	for _, name := range names {
		err := os.Mkdir(s.path(name), 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return made, err
		}
		made = made || err == nil
	}
	return made, nil
}

var linkNames = []string{"current", "previous", "factory"}

// fixedTarget is where the link name of the store points, for ever.
func fixedTarget(name string) string { return activeLink + "/" + name }

// checkFixed says why the link name of the store is not as it must be; nil: it is. What the
// read of it said is in the error.
func (s *Store) checkFixed(name string) error {
	got, err := readlink(s.path(name))
	if err == nil && got != fixedTarget(name) {
		err = fmt.Errorf("it leads to %q", got)
	}
	if err != nil {
		err = fmt.Errorf("%s is not the link to %q: %w", name, fixedTarget(name), err)
	}
	return err
}

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// Not inlined: it is called in some sixty places, of programs whose size is limited.
//
//go:noinline
func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// Active is what the store says at this moment.
type Active struct {
	// Record is never nil and never to be changed; Clone it.
	Record *Record
	// Damage says what was wrong and how Record was found all the same. Empty:
	// nothing. Committing Record's clone repairs it.
	Damage string
}

// ErrEmpty is a store in which no version was ever made current, as far as it
// remembers: it has neither the switch nor a finished generation. It may hold snapshots,
// of an install that a power cut ended before its switch, or of a device whose
// generations an operator deleted.
var ErrEmpty error = (&Error{Err: errors.New("no version is installed")}).WithAdvice("install one with `ota-apply install`")

// Record is that of Active; nil: nothing was ever installed.
func (s *Store) Record() (*Record, error) {
	active, err := s.Active()
	switch {
	case errors.Is(err, ErrEmpty):
		return nil, nil
	case err != nil:
		return nil, CannotRead(err)
	}
	return active.Record, nil
}

// Active reads the current version. One damaged or unreadable copy of the record loses
// nothing. Even a record that is lost is never a reason to change the current version: it is
// put together from the newest older generation that is intact and from the links,
// which say what this boot starts. The error is ErrEmpty, or one that says why
// nothing could be read at all.
func (s *Store) Active() (*Active, error) {
	n, err := s.activeGeneration()
	if err != nil {
		return s.recoverActive(err)
	}
	record, damage, err := s.readGeneration(n)
	if Inconclusive(err) {
		return nil, fmt.Errorf("cannot read generation %d: %w", n, err)
	}
	if err != nil {
		return s.rebuild(n, err)
	}
	record = s.withCause(record)
	for _, l := range record.Links() {
		got, err := s.readLink(n, l.Name)
		if got.Same(l.Ref) || got == nil && l.Ref == nil || Inconclusive(err) {
			continue
		}
		says := fmt.Sprintf("generation %d: the link %s says %s, the record %s", n, l.Name, got, l.Ref)
		if got != nil && s.holds(got) && (l.Ref == nil || !s.holds(l.Ref)) {
			// The link names something that is there. Of current that is the current version.
			if l.Name == "current" {
				return s.rebuild(n, errors.New(says))
			}
			record = record.Clone()
			record.setLink(l.Name, s.withDigest(got, record))
		}
		damage = cmp.Or(damage, says)
	}
	if damage != "" {
		return &Active{Record: record, Damage: damage}, nil
	}
	for _, name := range linkNames {
		if err := s.checkFixed(name); err != nil && !Inconclusive(err) {
			return &Active{Record: record, Damage: err.Error()}, nil
		}
	}
	return &Active{Record: record}, nil
}

// holds reports whether a snapshot is what ref says, as far as its manifest tells.
func (s *Store) holds(ref *Ref) bool {
	is, err := s.Ref(ref.Version)
	return err == nil && is.Same(ref)
}

// Commit makes next what the device runs, remembers and rolls back to: THE
// atomic switch. Its number is set in next.Generation.
//
// When Commit returns nil, the switch is durable: a power cut after it finds the
// new state. When it returns an error with ExitUnknown, the switch was made
// (a reader sees next from now on) but a power cut may undo it: Switched tells. Any
// other error: nothing changed. The lock must be held.
func (s *Store) Commit(next *Record) error {
	if err := s.committable(next); err != nil {
		return err
	}
	if err := s.RepairLinks(); err != nil {
		return fmt.Errorf("cannot repair the links of %s: %w", s.dir, err)
	}
	return s.commit(next)
}

// committable says why next cannot be what the device runs.
func (s *Store) committable(next *Record) error {
	next.Schema = max(next.Schema, Schema)
	if err := next.check(); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	// Only what is to run must be there. A previous or factory that was lost is no
	// reason to refuse the switch away from a version that fails.
	if err := s.isDirectory(s.newest(next.Current.Version)); Inconclusive(err) {
		return fmt.Errorf("cannot commit: current: %w", err)
	} else if err != nil {
		return fmt.Errorf("cannot commit: current: version %s is not in the store", next.Current.Version)
	}
	return nil
}

// commit is Commit of what is committable, for links that are right or not there yet.
func (s *Store) commit(next *Record) error {
	generations, err := s.generations()
	if err != nil {
		return err
	}
	before, err := linkTo(s.path(activeLink))
	if err != nil {
		return err
	}
	active, activeErr := s.activeGeneration()
	if Inconclusive(activeErr) {
		return activeErr
	}
	s.unprepare(active)
	switch {
	case activeErr == nil:
		// What a power cut left behind the active generation never was: it must
		// not become the backup of the one that is written now.
		generations = slices.DeleteFunc(generations, func(n uint64) bool {
			return n > active && RemoveAll(s.generation(n)) == nil // one that stays is stepped over
		})
	case s.neverSwitched(generations, activeErr):
		// The same of the very first, and of what is left of a store that was given up
		// for another program. It must go before there are two of them, which would
		// look like damage; all at once, and durably, as long as nothing has begun.
		if len(generations) > 0 {
			if err := s.trash(generationsDir); err != nil {
				return err
			}
		}
		generations = nil
	}
	n := uint64(1)
	if len(generations) > 0 {
		n = generations[len(generations)-1] + 1
	}
	dirs := func() []string { return []string{s.generation(n), s.generation(n + ahead), s.fallback(n)} }
	for first := n; slices.ContainsFunc(dirs(), there); n++ { // what cannot be removed is stepped over
		if n == first+keepGenerations {
			return fmt.Errorf("cannot make a generation: %s cannot be read, or has no room for generation %d", s.path(generationsDir), n)
		}
	}
	drop := func() {
		for _, dir := range dirs() {
			RemoveAll(dir)
		}
	}
	write := func() error {
		if err := s.prepare(n, next); err != nil {
			return err
		}
		return s.writeGeneration(n, next)
	}
	next.Generation = n

	// Power cut in here: an unfinished generation that nothing points to. The
	// next Sweep removes it.
	err = write()
	for keep := 2; keep > 0 && IsNoSpace(err); keep-- {
		// A full disk must not keep a bad version running: give up what was deleted already,
		// and the older part of the history; to leave a version, or end its trial, all that
		// lies before the active generation. What counts of that is in next.
		if keep == 1 && (activeErr != nil || !s.ends(active, next)) {
			break
		}
		drop()
		s.emptyDir(trashDir)
		for _, old := range generations[:max(0, len(generations)-keep)] {
			if activeErr != nil || old < active { // behind it there may be some that cannot be removed
				RemoveAll(s.generation(old))
			}
		}
		generations = generations[max(0, len(generations)-keep):]
		err = write()
	}
	if IsNoSpace(err) && s.ends(active, next) {
		// That comes before what may come after it.
		drop()
		err = s.writeGeneration(n, next)
	}
	if err != nil {
		drop()
		return fmt.Errorf("cannot write generation %d: %w", n, err)
	}
	if activeErr != nil {
		// The directory of the generations may be new, made just now or by a program that was
		// killed: without this a power cut could leave a switch that leads to nothing.
		if err := syncDir(s.dir); err != nil {
			drop()
			return fmt.Errorf("cannot write generation %d: %w", n, err)
		}
	}

	// The switch. A power cut before this rename leaves the old state, intact; one
	// after it leaves the old or the new one, intact.
	target := switchTarget(n)
	renameErr := renameio.Symlink(target, s.path(activeLink))
	if renameErr != nil {
		// renameio also reports an error of its own tidying up after the
		// rename: ask the disk what is true.
		if now, err := linkTo(s.path(activeLink)); err != nil || now != target {
			if err == nil && now == before {
				drop() // else the switch may lead there
			}
			return fmt.Errorf("cannot switch to generation %d: %w", n, renameErr)
		}
	}
	if err := s.syncSwitch(n); err != nil {
		return err
	}
	// Old generations go last; what remains of them after a power cut goes next time.
	s.unprepare(n)
	if len(generations) >= keepGenerations {
		for _, old := range generations[:len(generations)-keepGenerations+1] {
			RemoveAll(s.generation(old))
		}
	}
	return nil
}

// syncSwitch makes the switch to generation n durable: a rename alone, of which the
// directory is not synced, is undone by a power cut after success was said.
func (s *Store) syncSwitch(n uint64) error {
	if err := syncDir(s.dir); err != nil {
		return Errorf(ExitUnknown, "", "switched to generation %d, but it may not survive a power cut: %w", n, err).
			WithAdvice("look for errors of the disk in `dmesg`; after the next boot `ota-guardian status` says which one holds")
	}
	return nil
}

// there reports whether name is there, or cannot be looked at.
func there(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// Switched reports whether a Commit that returned err made its switch.
func Switched(err error) bool { return err == nil || Exit(err) == ExitUnknown }

// SyncSwitch makes the active switch durable. Call it before reporting another
// process's switch: that process can die between rename and fsync. It writes nothing where
// nothing is pending.
func (s *Store) SyncSwitch() error {
	if err := syncDir(s.dir); err != nil {
		return Errorf(ExitUnknown, "", "the current version may not survive a power cut: %w", err).
			WithAdvice("look for errors of the disk in `dmesg`; after the next boot `ota-guardian status` says which version runs")
	}
	return nil
}
