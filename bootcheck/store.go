// Package bootcheck is what the guardian and the applier must agree on: the
// version store, the record of what runs and why, the manifest that says what a
// version consists of. It holds the facts; guardian judges, applier changes.
//
// The store is one folder:
//
//	/opt/tope/versions/
//	  v1.0.0/ v1.1.0/ v1.2.0/           snapshots; each holds .ota/manifest.json and its signature
//	  current  -> .active/current       fixed links, made once, never touched again
//	  previous -> .active/previous
//	  factory  -> .active/factory
//	  .active  -> .generations/42       THE switch: replacing this link changes everything at once
//	  .generations/41/ 42/              each holds record.json and the links current, previous, factory -> ../../v1.2.0
//	  .staging/  .trash/                what is being unpacked, what is being deleted
//	  .lock                             flock of whoever changes the store
//	  .install.lock                     flock of the one install, from its first byte to its verdict
//
// Commit is the only transaction. Whatever it needs is written beside what runs
// and made durable; then one rename replaces .active. Before the rename nothing
// changed, after it everything did.
package bootcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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

	// keepGenerations is how many are kept: they are the history a person
	// reads and the backup of a damaged record. At 4 KiB blocks a generation
	// is about 12 KiB, so the history is below 400 KiB.
	keepGenerations = 32
)

// A Store is the folder of all versions of one device. Its methods that change
// something are called with the lock held (see Lock).
type Store struct{ dir string }

// Open returns the store at dir, which must exist; nothing is written. A folder
// without a record is a store, an empty one.
func Open(dir string) (*Store, error) {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
	}
	if err != nil {
		return nil, (&Error{Err: fmt.Errorf("cannot open the version store: %w", err)}).
			WithAdvice("check that its disk is mounted and that `root` in the configuration is right")
	}
	return &Store{dir: dir}, nil
}

// Create opens the store at dir and makes what is missing of it: the folder
// itself if its parent exists (a missing parent is a disk that is not mounted),
// the folders inside and the three fixed links. When it returns they are
// durable. Something else in the place of a fixed link is an error, see Mend.
func Create(dir string) (*Store, error) {
	if err := os.Mkdir(dir, 0o755); err == nil {
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, (&Error{Err: fmt.Errorf("cannot make the version store: %w", err)}).
			WithAdvice("check that its disk is mounted and that `root` in the configuration is right")
	}
	s, err := Open(dir)
	if err != nil {
		return nil, err
	}
	changed := false
	for _, name := range []string{generationsDir, stagingDir, trashDir} {
		err := os.Mkdir(s.path(name), 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		changed = changed || err == nil
	}
	for _, name := range linkNames {
		want := fixedTarget(name)
		got, err := os.Readlink(s.path(name))
		switch {
		case err == nil && got == want:
			continue
		case err == nil:
			err = fmt.Errorf("%s is a link to %q, want %q", s.path(name), got, want)
		case errors.Is(err, fs.ErrNotExist):
			err = os.Symlink(want, s.path(name))
		default:
			err = fmt.Errorf("%s is not a link to %q: %w", s.path(name), want, err)
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

var linkNames = []string{"current", "previous", "factory"}

// fixedTarget is where the link name of the store points, for ever.
func fixedTarget(name string) string { return activeLink + "/" + name }

// Dir is the folder of the store.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Store) generation(n uint64) string {
	return s.path(generationsDir, strconv.FormatUint(n, 10))
}

// ErrBusy is returned by Lock: another program changes the store. Asking again later is right.
var ErrBusy = errors.New("another install or the guardian is at work")

// Lock takes the store's lock, waiting for it at most wait. The lock dies with
// its holder, so nobody ever has to clear it by hand. The error is an *Error
// with ExitBusy that wraps ErrBusy, or ctx's.
func (s *Store) Lock(ctx context.Context, wait time.Duration) (unlock func(), err error) {
	return lockAt(ctx, s.path(lockFile), wait)
}

// LockInstalls takes the lock that one install holds from its first byte to its
// verdict. It is not the store's lock: the guardian confirms and falls back
// while an install downloads or waits.
func (s *Store) LockInstalls(ctx context.Context) (unlock func(), err error) {
	// A moment of patience, as `status` looks at this lock too.
	return lockAt(ctx, s.path(installLock), 200*time.Millisecond)
}

func lockAt(ctx context.Context, name string, wait time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ELOOP) {
		// Nothing of ours: in its place nobody could ever decide anything.
		if err = os.Remove(name); err == nil {
			return lockAt(ctx, name, wait)
		}
	}
	if errors.Is(err, unix.EROFS) {
		f, err = os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot lock the version store: %w", err)
	}
	deadline := time.Now().Add(wait)
	for {
		if err := ctx.Err(); err != nil {
			f.Close()
			return nil, err
		}
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case err == unix.EINTR:
			continue
		case err != unix.EWOULDBLOCK:
			f.Close()
			return nil, &fs.PathError{Op: "flock", Path: name, Err: err}
		case !time.Now().Before(deadline):
			f.Close()
			return nil, Errorf(ExitBusy, "", "busy: %w", ErrBusy).WithAdvice("try again when it is done; `ota-apply status` says what it does")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Active is what the store says at this moment.
type Active struct {
	// Record is never nil and never to be changed; Clone it.
	Record *Record
	// Damage says what was wrong and how Record was found all the same. Empty:
	// nothing. Committing Record's clone mends it.
	Damage string
}

// ErrEmpty is a store in which no version was ever made current, as far as it
// remembers: it has neither the switch nor a generation. It may hold snapshots,
// of an install that a power cut ended before its switch, or of a device whose
// generations somebody deleted.
var ErrEmpty = errors.New("no version is installed")

// Active reads what runs. A record that is lost or damaged is never a reason to
// change what runs: it is put together from the newest older generation that is
// whole and from the links, which say what this boot starts. The error is
// ErrEmpty, or one that says why nothing could be read at all.
func (s *Store) Active() (*Active, error) {
	n, err := s.activeGeneration()
	if err != nil {
		return s.recoverActive(err)
	}
	record, err := s.readGeneration(n)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
		return nil, fmt.Errorf("cannot read generation %d: %w", n, err) // this says nothing about the record
	}
	if err != nil {
		return s.rebuild(n, err)
	}
	for _, l := range record.links() {
		if got := s.readLink(n, l.name); !got.Same(l.ref) && (got != nil || l.ref != nil) {
			return &Active{Record: record, Damage: fmt.Sprintf("generation %d: the link %s says %s, the record %s", n, l.name, got, l.ref)}, nil
		}
	}
	for _, name := range linkNames {
		if got, _ := os.Readlink(s.path(name)); got != fixedTarget(name) {
			return &Active{Record: record, Damage: fmt.Sprintf("%s is not the link to %q", name, fixedTarget(name))}, nil
		}
	}
	return &Active{Record: record}, nil
}

// activeGeneration reads the switch.
func (s *Store) activeGeneration() (uint64, error) {
	target, err := os.Readlink(s.path(activeLink))
	if err != nil {
		return 0, err
	}
	dir, name := filepath.Split(target)
	n, err := strconv.ParseUint(name, 10, 63)
	if dir != generationsDir+"/" || err != nil || strconv.FormatUint(n, 10) != name {
		return 0, fmt.Errorf("%s points to %q, want %s/N", s.path(activeLink), target, generationsDir)
	}
	return n, nil
}

// recoverActive finds the newest whole generation of a store whose switch is lost.
func (s *Store) recoverActive(cause error) (*Active, error) {
	generations, err := s.generations()
	if err != nil {
		return nil, err
	}
	for _, n := range slices.Backward(generations) {
		if record, err := s.readGeneration(n); err == nil {
			record.recount()
			return &Active{Record: record, Damage: fmt.Sprintf("the switch is lost (%v); using generation %d", cause, n)}, nil
		}
	}
	if len(generations) == 0 && errors.Is(cause, fs.ErrNotExist) {
		return nil, ErrEmpty
	}
	return nil, fmt.Errorf("%w: no generation is whole (%v)", ErrRecord, cause)
}

// rebuild makes the record of generation n, which cannot be read, from the
// generations before it and from the links of n.
func (s *Store) rebuild(n uint64, cause error) (*Active, error) {
	current := s.readLink(n, "current")
	generations, err := s.generations()
	if err != nil {
		return nil, err
	}
	var base *Record
	for _, g := range slices.Backward(generations) {
		if g >= n {
			continue
		}
		if r, err := s.readGeneration(g); err == nil {
			base = r.Clone()
			break
		}
	}
	switch {
	case base == nil && current == nil:
		return nil, fmt.Errorf("%w: generation %d: %v; no older one is whole", ErrRecord, n, cause)
	case base == nil:
		// Links alone: whatever they name ran before, so it is not blamed.
		return &Active{
			Record: &Record{Schema: Schema, Generation: n, Phase: PhaseConfirmed,
				Current: current, Previous: s.readLink(n, "previous"), Factory: s.readLink(n, "factory"),
				Confirmed: []Ref{*current}},
			Damage: fmt.Sprintf("the record of generation %d is lost (%v); using its links", n, cause),
		}, nil
	}
	damage := fmt.Sprintf("the record of generation %d is lost (%v); using generation %d and the links", n, cause, base.Generation)
	if current == nil || current.Same(base.Current) {
		base.recount()
		return &Active{Record: base, Damage: damage}, nil
	}
	// Generation n switched versions and its record would say why. The links are
	// what runs, and nothing is rolled back because of a lost record: a version
	// that is known to be good is confirmed, any other is on trial again.
	if base.IsConfirmed(current) {
		base.Phase, base.Trial = PhaseConfirmed, nil
	} else {
		base.Phase, base.Trial = PhaseTrial, &Trial{}
	}
	base.Previous = s.readLink(n, "previous")
	base.Current = s.withDigest(current, base)
	base.Previous = s.withDigest(base.Previous, base)
	base.HoldReason = ""
	return &Active{Record: base, Damage: damage}, nil
}

// recount begins the count of a trial anew: a record that was lost may be the one
// that confirmed the version, and what was counted before that must not count
// against it now.
func (r *Record) recount() {
	if r.Phase.Counted() {
		r.Trial = &Trial{Baseline: r.Trial.Baseline}
	}
}

// withDigest fills in the digest of a version that was read from a link, from
// whatever the record knows of it.
func (s *Store) withDigest(ref *Ref, known *Record) *Ref {
	if ref == nil {
		return nil
	}
	for _, l := range known.links() {
		if ref.Same(l.ref) {
			return l.ref
		}
	}
	for i := range known.Confirmed {
		if ref.Same(&known.Confirmed[i]) {
			return &known.Confirmed[i]
		}
	}
	return ref
}

// readLink reads a link of generation n. Anything but ../../v<version> is nil:
// a target that is absolute or climbs elsewhere is nobody's of ours.
func (s *Store) readLink(n uint64, name string) *Ref {
	target, err := os.Readlink(filepath.Join(s.generation(n), name))
	if err != nil {
		return nil
	}
	version, ok := strings.CutPrefix(target, "../../v")
	if !ok || !ValidVersion(version) {
		return nil
	}
	return &Ref{Version: version}
}

// readGeneration reads the record of generation n.
func (s *Store) readGeneration(n uint64) (*Record, error) {
	data, err := readRegular(filepath.Join(s.generation(n), recordFile), maxRecord)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	r, err := ParseRecord(data)
	if err != nil {
		return nil, err
	}
	r.Generation = n
	return r, nil
}

// generations lists the numbers of all generations, oldest first.
func (s *Store) generations() ([]uint64, error) {
	entries, err := os.ReadDir(s.path(generationsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []uint64
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 63); err == nil {
			i, _ := slices.BinarySearch(all, n)
			all = slices.Insert(all, i, n)
		}
	}
	return all, nil
}

// History returns the records of the generations up to the active one that can be read, oldest first.
func (s *Store) History() ([]*Record, error) {
	active, err := s.activeGeneration()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	generations, err2 := s.generations()
	if err2 != nil {
		return nil, err2
	}
	var all []*Record
	for _, n := range generations {
		if err == nil && n > active {
			break // left by a power cut before its switch: it never was
		}
		if r, err := s.readGeneration(n); err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// Commit makes next what the device runs, remembers and falls back to: THE
// atomic switch. Its number is set in next.Generation.
//
// When Commit returns nil, the switch is durable: a power cut after it finds the
// new state. When it returns an error with ExitUnknown, the switch was made
// (whoever looks now sees next) but a power cut may undo it: Switched tells. Any
// other error: nothing changed. The lock must be held.
func (s *Store) Commit(next *Record) error {
	next.Schema = max(next.Schema, Schema)
	if err := next.check(); err != nil {
		return fmt.Errorf("cannot commit: %w", err)
	}
	// Only what is to run must be there. A previous or factory that was lost is no
	// reason to refuse the switch away from a version that fails.
	if info, err := os.Lstat(s.VersionDir(next.Current.Version)); err != nil || !info.IsDir() {
		return fmt.Errorf("cannot commit: current: version %s is not in the store", next.Current.Version)
	}
	if err := s.Mend(); err != nil {
		return fmt.Errorf("cannot mend the links of %s: %w", s.dir, err)
	}
	generations, err := s.generations()
	if err != nil {
		return err
	}
	before, err := os.Readlink(s.path(activeLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if active, err := s.activeGeneration(); err == nil {
		// What a power cut left behind the active generation never was: it must
		// not become the backup of the one that is written now.
		generations = slices.DeleteFunc(generations, func(n uint64) bool {
			return n > active && os.RemoveAll(s.generation(n)) == nil // one that stays is stepped over
		})
	}
	n := uint64(1)
	if len(generations) > 0 {
		n = generations[len(generations)-1] + 1
	}
	next.Generation = n

	// Power cut in here: an unfinished generation that nothing points to. The
	// next Sweep removes it.
	err = s.writeGeneration(n, next)
	if IsNoSpace(err) {
		// A full disk must not keep a bad version running: give up what was
		// deleted already and the older part of the history.
		os.RemoveAll(s.generation(n))
		s.emptyDir(trashDir)
		for _, old := range generations[:max(0, len(generations)-2)] {
			os.RemoveAll(s.generation(old))
		}
		generations = generations[max(0, len(generations)-2):]
		err = s.writeGeneration(n, next)
	}
	if err != nil {
		os.RemoveAll(s.generation(n))
		return fmt.Errorf("cannot write generation %d: %w", n, err)
	}

	// The switch. A power cut before this rename leaves the old state, whole; one
	// after it leaves the old or the new one, whole.
	target := generationsDir + "/" + strconv.FormatUint(n, 10)
	renameErr := renameio.Symlink(target, s.path(activeLink))
	if renameErr != nil {
		// renameio also reports an error of its own tidying up after the
		// rename: ask the disk what is true.
		if now, err := os.Readlink(s.path(activeLink)); err != nil || now != target {
			if now == before {
				os.RemoveAll(s.generation(n))
			}
			return fmt.Errorf("cannot switch to generation %d: %w", n, renameErr)
		}
	}
	// renameio does not fsync the folder. Without this a power cut after success
	// was said brings the old state back.
	if err := syncDir(s.dir); err != nil {
		return Errorf(ExitUnknown, "", "switched to generation %d, but it may not survive a power cut: %w", n, err).
			WithAdvice("look for errors of the disk in `dmesg`; after the next boot `ota-guardian status` says which one holds")
	}
	// Old generations go last; whatever remains of them after a power cut goes next time.
	if len(generations) >= keepGenerations {
		for _, old := range generations[:len(generations)-keepGenerations+1] {
			os.RemoveAll(s.generation(old))
		}
	}
	return nil
}

// Switched reports whether a Commit that returned err made its switch.
func Switched(err error) bool { return err == nil || Exit(err) == ExitUnknown }

// writeGeneration writes generation n whole and makes it durable.
func (s *Store) writeGeneration(n uint64, r *Record) error {
	dir := s.generation(n)
	if err := os.Mkdir(s.path(generationsDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, recordFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err // never a second fsync of this file: the whole generation is thrown away
	}
	for _, l := range r.links() {
		if l.ref == nil {
			continue
		}
		if err := os.Symlink("../../"+dirName(l.ref.Version), filepath.Join(dir, l.name)); err != nil {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return syncDir(s.path(generationsDir))
}

// Mend makes the fixed links what they must be, whatever was put in their place:
// a link is replaced, a file or folder is moved into .trash under its own name
// first (and stays there until the next Sweep). Links that are right are not
// touched. The lock must be held.
func (s *Store) Mend() error {
	for _, name := range linkNames {
		want := fixedTarget(name)
		got, err := os.Readlink(s.path(name))
		if err == nil && got == want {
			continue
		}
		if errors.Is(err, unix.EINVAL) { // not a link
			if err := s.trash(name); err != nil {
				return err
			}
		}
		if err := renameio.Symlink(want, s.path(name)); err != nil {
			return err
		}
		if err := syncDir(s.dir); err != nil {
			return err
		}
	}
	// A folder in the place of the switch would make every Commit fail.
	if info, err := os.Lstat(s.path(activeLink)); err == nil && info.Mode().Type() != fs.ModeSymlink {
		if err := s.trash(activeLink); err != nil {
			return err
		}
	}
	if info, err := os.Lstat(s.path(generationsDir)); err == nil && !info.IsDir() {
		return s.trash(generationsDir)
	}
	return nil
}

// Sweep removes what a crash or a power cut left: unpacked halves, deleted
// halves, temporary links, generations that were never switched to. Names that
// are not ours stay. The lock must be held, and no install may be unpacking:
// only the applier sweeps .staging (staging true).
func (s *Store) Sweep(staging bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		// renameio's temporary folder for the links: "." + name + digits.
		for _, link := range append([]string{activeLink}, linkNames...) {
			rest, ok := strings.CutPrefix(e.Name(), "."+link)
			if _, err := strconv.ParseUint(rest, 10, 64); ok && err == nil && e.IsDir() {
				errs = append(errs, os.RemoveAll(s.path(e.Name())))
			}
		}
	}
	errs = append(errs, s.emptyDir(trashDir))
	if staging {
		errs = append(errs, s.emptyDir(stagingDir))
	}
	if active, err := s.activeGeneration(); err == nil {
		generations, err := s.generations()
		errs = append(errs, err)
		for _, n := range generations {
			if n > active {
				errs = append(errs, os.RemoveAll(s.generation(n)))
			}
		}
	}
	return errors.Join(errs...)
}

func (s *Store) emptyDir(name string) error {
	entries, err := os.ReadDir(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(s.path(name, e.Name())))
	}
	return errors.Join(errs...)
}

// trash moves name of the store's folder into .trash, durably.
func (s *Store) trash(name string) error {
	if err := os.Mkdir(s.path(trashDir), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for i := 0; ; i++ {
		to := s.path(trashDir, fmt.Sprintf("%s-%d", strings.TrimPrefix(name, "."), i))
		if _, err := os.Lstat(to); err == nil {
			continue
		}
		if err := os.Rename(s.path(name), to); err != nil {
			return err
		}
		return errors.Join(syncDir(s.dir), syncDir(s.path(trashDir)))
	}
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// readRegular reads a file of at most limit bytes. A link, a FIFO, a device or a
// folder in its place is refused and never waited for.
func readRegular(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, nil
}
