package bootcheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// A version on trial may fill the disk, and fill it again whenever room is made. So
// all that it takes to roll back that version is made together with generation n that puts
// it on trial:
//
//	.generations/44/            the generation that rolls 42 back, complete
//	.generations/42.fallback/   what makes it the active one
//	  active -> .generations/44   one rename of this link onto .active is the rollback
//	  boot-1 boot-2               boots that may go uncounted; each is an unlink
//	  room-1 room-2               btrfs alone: space that the rename may need
//
// It counts only as long as 42 is the active generation and the link is there. Sweep and
// the next Commit remove what no longer counts.
const (
	fallbackSuffix = ".fallback"
	preparedLink   = "active"
)

const (
	// ahead is what the number of the prepared generation is above that of its own. The
	// next Commit has the number between them.
	ahead = 2

	// SpareBoots is how many boots of a trial may go uncounted, on a disk that is too
	// full to count them; the next one rolls back. With it they are 3, as the smallest
	// limit of counted boots.
	SpareBoots = 2

	// On btrfs a rename reserves metadata: 11 items, of two nodes on each of 8 levels.
	// With nodes of 4 KiB, as on a small disk (mixed block groups), 2 MiB are too
	// little and 3 MiB are enough. Of two pieces one is enough even while another
	// program takes all that is free.
	rooms    = 2
	roomSize = 4 << 20
)

func (s *Store) fallback(n uint64, elem ...string) string {
	return s.path(append([]string{generationsDir, strconv.FormatUint(n, 10) + fallbackSuffix}, elem...)...)
}

// switchTarget is what the switch says for generation n.
func switchTarget(n uint64) string { return generationsDir + "/" + strconv.FormatUint(n, 10) }

// prepared is the generation that rolls back generation n; 0: none. If its link cannot be
// read, the error says so, and the number is the one that it would have: what may be prepared
// is no history, and what it leads to is not removed.
func (s *Store) prepared(n uint64) (uint64, error) {
	target, err := linkTo(s.fallback(n, preparedLink))
	if err == nil && target != switchTarget(n+ahead) {
		return 0, nil
	}
	return n + ahead, err
}

// switchable is prepared, but 0 where the disk cannot read the link: it must not become the switch.
func (s *Store) switchable(n uint64) uint64 {
	p, err := s.prepared(n)
	if err != nil && !Inconclusive(err) {
		return 0
	}
	return p
}

// rolledBack is the record of a device that rolled back from r, as far as it is known
// before: not why. nil: r is not on trial, or there is nothing to roll back to.
func (r *Record) rolledBack(intact func(*Ref) bool) *Record {
	target, level := r.RollbackTarget(intact)
	if !r.Phase.Counted() || target == nil {
		return nil
	}
	next := r.Clone()
	next.Trial, next.HardStreak = nil, nil
	next.RolledBack(&Rollback{From: r.Current.Version, To: target.Version, Level: level,
		Cause: CauseUnrecorded, Attempts: r.Trial.Attempts(), BootIDs: append([]string{}, r.Trial.BootIDs...)})
	next.Block(*r.Current, CauseUnrecorded, "")
	next.SwitchTo(target, level, "", r.Trial.Baseline, func(ref *Ref) bool {
		// Any other version may be removed before this counts.
		return (ref.Same(r.Previous) || ref.Same(r.Factory)) && intact(ref)
	})
	return next
}

// prepare makes what rolls back generation n, whose record is r, as generation
// n+ahead. All of it is durable when the directory of the generations is synced.
func (s *Store) prepare(n uint64, r *Record) error {
	next := r.rolledBack(func(ref *Ref) bool {
		err := s.There(ref.Version)
		return err == nil || Inconclusive(err)
	})
	if next == nil {
		return nil
	}
	next.Generation = n + ahead
	if err := s.writeGeneration(n+ahead, next); err != nil {
		return err
	}
	dir := s.fallback(n)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i := 1; i <= SpareBoots; i++ {
		if err := os.Symlink(".", filepath.Join(dir, fmt.Sprint("boot-", i))); err != nil {
			return err
		}
	}
	if err := os.Symlink(switchTarget(n+ahead), filepath.Join(dir, preparedLink)); err != nil {
		return err
	}
	s.makeRoom(dir)
	return syncDir(dir)
}

// makeRoom keeps space for the rename, where it needs some. As much as there is.
func (s *Store) makeRoom(dir string) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || uint32(st.Type) != unix.BTRFS_SUPER_MAGIC {
		return
	}
	for i := 1; i <= rooms; i++ {
		name := filepath.Join(dir, fmt.Sprint("room-", i))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return
		}
		err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, roomSize), f.Sync(), f.Close())
		if err != nil {
			_ = os.Remove(name)
		}
	}
}

// unprepare removes all that is prepared but for what rolls back generation
// active. A generation that was switched to stays.
func (s *Store) unprepare(active uint64) {
	_, prepared, _ := s.numbered()
	for _, n := range prepared {
		if n == active {
			continue
		}
		// The generation first: without its link it would have been switched to.
		if p, _ := s.prepared(n); p == 0 || p == active || RemoveAll(s.generation(p)) == nil {
			RemoveAll(s.fallback(n))
		}
	}
}

// ends reports whether next ends what generation n is in: it rolls back, confirms or holds.
// It does not count a boot or put a version on trial.
func (s *Store) ends(n uint64, next *Record) bool {
	runs, _ := s.readLink(n, "current")
	r, _, err := s.readGeneration(n)
	return next.Phase != PhaseTrial && (!next.Current.Same(runs) || err == nil && r.Phase != next.Phase)
}

// RollBack is Commit of next, which rolls back the current version, on a disk that
// has no room for it: what was prepared when the trial began is made the active
// generation by one rename. It says of the rollback what was known then, so not why.
// The errors are those of Commit; nothing that runs next.Current in next.Phase was
// prepared, fs.ErrNotExist. The lock must be held.
func (s *Store) RollBack(next *Record) error {
	active, err := s.activeGeneration()
	if err != nil {
		return err
	}
	p := s.switchable(active)
	r, _, err := s.readGeneration(p)
	if err != nil {
		return err
	}
	if !r.Current.Same(next.Current) || r.Phase != next.Phase {
		return fmt.Errorf("the rollback to %s (%s) is prepared: %w", r.Current, r.Phase, os.ErrNotExist)
	}
	next.Generation = p
	s.keepUnwritten(next)
	// A power cut before this rename leaves the old state, intact; one after it leaves
	// the old or the new one, intact.
	link := s.fallback(active, preparedLink)
	err = os.Rename(link, s.path(activeLink))
	for i := 1; i <= rooms && IsNoSpace(err); i++ {
		os.Remove(s.fallback(active, fmt.Sprint("room-", i)))
		err = os.Rename(link, s.path(activeLink))
	}
	if err != nil {
		if now, readErr := s.activeGeneration(); readErr != nil || now != p {
			return fmt.Errorf("cannot switch to generation %d: %w", p, err)
		}
	}
	return s.syncSwitch(p)
}

// unwritten is the file of Run with the record that a full disk had no room for: it
// says why the device rolled back, and is lost with the boot unless a later Commit has
// room for it.
const unwritten = "fallback.json"

// keepUnwritten writes next to that file, before the switch that makes it count. Without
// it only the cause is lost.
func (s *Store) keepUnwritten(next *Record) {
	if s.Run != "" {
		_, _ = keep(s.Run, unwritten, next)
	}
}

// withCause is r, or, where r was prepared and knows no cause, the record that was to be
// written in its place.
func (s *Store) withCause(r *Record) *Record {
	if l := r.LastRollback; s.Run == "" || l == nil || l.Cause != CauseUnrecorded {
		return r
	}
	name := filepath.Join(s.Run, unwritten)
	data, err := ReadRegular(name, maxRecord)
	if err != nil || CheckOwner(name) != nil {
		return r
	}
	kept, err := ParseRecord(data)
	if err != nil || kept.Generation != r.Generation || !kept.Current.Same(r.Current) || kept.Phase != r.Phase {
		return r
	}
	kept.Previous, kept.Factory = r.Previous, r.Factory // as the links say
	return kept
}

// SpareBoot lets the boot bootID go uncounted, durably: the disk has no room to count
// it. false: SpareBoots before it did. The error is fs.ErrNotExist where nothing is
// prepared to roll back to.
func (s *Store) SpareBoot(bootID string) (bool, error) {
	active, err := s.activeGeneration()
	if err != nil {
		return false, err
	}
	if s.switchable(active) == 0 {
		return false, os.ErrNotExist
	}
	// No boot twice, as far as Run can tell.
	boot := ReadBoot(s.Run)
	if bootID == "" || boot.ID != bootID {
		boot = Boot{ID: bootID}
	}
	if boot.Uncounted {
		return true, nil
	}
	for i := 1; i <= SpareBoots; i++ {
		err := os.Remove(s.fallback(active, fmt.Sprint("boot-", i)))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = syncDir(s.fallback(active))
		}
		if boot.Uncounted = true; s.Run != "" {
			_ = boot.Keep(s.Run)
		}
		return err == nil, err
	}
	return false, nil
}
