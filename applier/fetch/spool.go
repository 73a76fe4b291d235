package fetch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

const (
	partSuffix = ".part"
	elseSuffix = ".part1" // where a partial file is that cannot be deleted
	noteSuffix = ".json"
	lockName   = ".lock"
	nameLen    = 32 // hex digits: 128 bits, so that no two addresses meet by chance
)

// ours knows the names that Fetch makes, the temporary ones of renameio (which a
// kill leaves behind) included: 32 hex digits, the ending, maybe a dot before and
// digits behind.
func ours(name string) bool {
	sum, kind, _ := strings.Cut(strings.TrimPrefix(name, "."), ".")
	kind = "." + strings.TrimRight(kind, "0123456789")
	return len(sum) == nameLen && strings.Trim(sum, "0123456789abcdef") == "" && (kind == partSuffix || kind == noteSuffix)
}

// syncInterval is how often what has arrived is made durable, and so how much of a
// download a power cut can cost. More often wears the flash: a sync also writes
// the sidecar and two blocks of metadata, and a bundle that arrives within seconds
// is deleted again before any of it has to be written.
const syncInterval = 15 * time.Second

// roomStep is how much may arrive between two looks at the room left, bytes.
const roomStep = 4 << 20

// A spool is the directory, locked, with the partial file of one origin.
type spool struct {
	from *origin
	dir  *os.File // held open to be synced
	part string
	json string
	file *os.File // the partial file, read-only; grab opens it again for writing
	left int64    // bytes of it that an earlier call left

	unlock func()
	looked int64     // have when the room was looked at
	synced time.Time // when the last sync began

	syncing sync.WaitGroup // the sync in the background, at most one
	mu      sync.Mutex     // for what a sync changes: mark.Synced, and what follows
	mark    mark
	busy    bool
	syncErr error
}

// A mark is the sidecar of a partial file: what must be known to continue.
type mark struct {
	URL    string `json:"url"`              // as printed: no credentials, no query
	SHA256 string `json:"sha256,omitempty"` // of the whole file, if the caller knew it
	Size   int64  `json:"size"`             // bytes of the whole file; -1: unknown
	Synced int64  `json:"synced"`           // bytes that a power cut cannot take
	Boot   string `json:"boot"`             // boot ID in which the partial file was last written
	Holes  []Part `json:"holes,omitempty"`  // of the partial file, in order; those behind Synced may not be all
}

// readMark reads a sidecar. Anything odd in it is an error: the download
// then starts over.
func readMark(name string) (*mark, error) {
	data, err := bootcheck.ReadRegular(name, maxMark)
	if err != nil {
		return nil, err
	}
	m := new(mark)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, err
	}
	end := int64(1)
	for _, h := range m.Holes {
		if h.First < end || h.End <= h.First {
			return nil, fmt.Errorf("%q names holes that cannot be", name)
		}
		end = h.End
	}
	return m, nil
}

// maxMark bounds what is read of a sidecar, bytes. A hole is at least minGap wide
// and takes 50 bytes, so the largest file, 8 GB, can have more than that: then it
// is fetched again.
const maxMark = 1 << 20

// openSpool locks dir, deletes what other downloads left there, and opens the
// partial file of from: what can be trusted of an earlier one, or a new one.
func openSpool(dir string, from *origin) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// Others could put a partial file there, or take this one away while it is read.
	if err := bootcheck.CheckOwner(dir); err != nil {
		return nil, fmt.Errorf("cannot keep a download in the spool: %w", err)
	}
	lock := filepath.Join(dir, lockName)
	unlock, err := bootcheck.LockFile(context.Background(), lock, 0)
	if err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, bootcheck.Errorf(bootcheck.ExitBusy, bootcheck.CodeDownloadFailed,
				"cannot download %q: another download uses %q", from.shown, dir)
		}
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		unlock()
		return nil, err
	}
	s := &spool{
		from: from, dir: d, synced: time.Now(),
		unlock: func() { os.Remove(lock); unlock() },
		part:   filepath.Join(dir, from.name+partSuffix),
		json:   filepath.Join(dir, from.name+noteSuffix),
	}
	s.sweep()
	if !s.adopt() {
		if err := s.reset(); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// sweep deletes the files of other origins and temporary ones. What cannot be
// deleted stays: a later call tries again.
func (s *spool) sweep() {
	names, _ := s.dir.Readdirnames(-1)
	for _, name := range names {
		if ours(name) && name != s.from.name+partSuffix && name != s.from.name+noteSuffix {
			_ = bootcheck.RemoveAll(filepath.Join(s.dir.Name(), name))
		}
	}
}

// adopt opens what an earlier call left, if this one can continue from it. Its length
// is trusted only in the boot in which it was written; after a power cut the
// end of a file may be zeros, and only what the sidecar calls synced is sure.
func (s *spool) adopt() bool {
	m, err := readMark(s.json)
	if err != nil {
		return false
	}
	if s.file, err = os.OpenFile(s.part, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0); err != nil {
		return false
	}
	fi, err := s.file.Stat()
	if err != nil || !private(fi) {
		return false
	}
	length, known := fi.Size(), s.from.sha256
	if boot := bootID(); boot == "" || boot != m.Boot || len(m.Holes) > 0 {
		length = min(length, m.Synced) // behind that there may be holes that are not noted
	}
	size := max(m.Size, s.from.size)
	switch {
	case length <= 0,
		size > 0 && fi.Size() > size,
		s.from.size > 0 && m.Size > 0 && s.from.size != m.Size,
		known != "" && m.SHA256 != "" && known != m.SHA256,
		length < fi.Size() && os.Truncate(s.dest(), length) != nil:
		return false
	}
	s.mark = *m
	s.left = length
	s.mark.Boot, s.mark.Size, s.mark.SHA256, s.mark.Synced, s.mark.Holes = bootID(), size, known, min(m.Synced, length), nil
	for _, h := range m.Holes {
		if h.End = min(h.End, length); h.First < h.End {
			s.mark.Holes = append(s.mark.Holes, h)
		}
	}
	return true
}

// private reports whether only this program can have changed the file, so that
// what was verified is what will be read.
func private(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 == 0 &&
		int(st.Uid) == os.Geteuid() && st.Nlink == 1
}

// reset throws the partial file away and makes an empty one: another file, so
// that a reader of the old one never sees it change.
func (s *spool) reset() error {
	s.syncing.Wait()
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	s.mark = mark{URL: s.from.shown, SHA256: s.from.sha256, Size: s.from.size, Boot: bootID()}
	noted := exists(s.json)
	if err := removeFiles(s.dir.Name(), s.from.name); err != nil {
		// A later call does not find it there, and starts over.
		if s.part = filepath.Join(s.dir.Name(), s.from.name+elseSuffix); exists(s.part) {
			return err
		}
	}
	if noted { // the old sidecar must not come back after a power cut and speak for the new file
		if err := s.dir.Sync(); err != nil {
			return err
		}
	}
	var err error
	s.file, err = os.OpenFile(s.part, os.O_RDONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	return err
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// removeFiles deletes the sidecar, then the partial file: the one without the
// other is never trusted. Its error is about the first that could not be deleted.
func removeFiles(dir, name string) (err error) {
	for _, suffix := range []string{noteSuffix, partSuffix, elseSuffix} {
		err = cmp.Or(err, bootcheck.RemoveAll(filepath.Join(dir, name+suffix)))
	}
	return err
}

// dest is the name under which grab opens the partial file. Through /proc it
// is the very file that we hold open, also if its name now means another.
func (s *spool) dest() string {
	if name := fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()); exists(name) {
		return name
	}
	return s.part // no /proc here
}

// skip makes the partial file, which ends at from, end at to, and notes the hole.
// The first one is noted on the disk before it is made: the length of a file with
// holes does not say what of it is there.
func (s *spool) skip(from, to int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark.Holes = append(s.mark.Holes, Part{from, to})
	if len(s.mark.Holes) == 1 {
		if err := s.writeMark(false); err != nil {
			return err
		}
	}
	return os.Truncate(s.dest(), to)
}

// cut lets the partial file end at length again, with holes before that.
func (s *spool) cut(length int64, holes []Part) error {
	s.syncing.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark.Holes = slices.Clone(holes)
	s.mark.Synced = min(s.mark.Synced, length)
	// Noted first: that the file is longer than the note says is no harm.
	if err := s.writeMark(true); err != nil {
		return err
	}
	return os.Truncate(s.dest(), length)
}

// note notes the length of the whole file, for a later call in this boot. After a power cut it
// does not matter whether that is there: what nothing was synced of is not trusted then.
func (s *spool) note(size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark.Size = size
	if err := s.writeMark(false); err != nil {
		return s.local(s.json, err)
	}
	return nil
}

// writeMark replaces the sidecar, durably if it is asked to.
func (s *spool) writeMark(durable bool) error {
	data, err := json.MarshalIndent(&s.mark, "", "  ")
	if err != nil {
		return err
	}
	return bootcheck.ReplaceFile(s.json, append(data, '\n'), 0o600, durable)
}

// keep starts to make the first have bytes durable if it is time for that. It
// does not wait. Its error is one of an earlier sync or of the room left.
func (s *spool) keep(have, reserve int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.syncErr != nil {
		return s.unsynced()
	}
	if have-s.looked >= roomStep || have < s.looked {
		if err := s.room(1, reserve); err != nil {
			return err // another writer, or a file of unknown length, has used it up
		}
		s.looked = have
	}
	if have <= s.mark.Synced || time.Since(s.synced) < syncInterval || s.busy {
		return nil
	}
	s.busy, s.synced = true, time.Now()
	f := s.file
	s.syncing.Go(func() { s.sync(f, have) })
	return nil
}

// sync makes the first have bytes durable, then says so in the sidecar. A
// failed sync is not tried again: the kernel may have dropped the pages.
func (s *spool) sync(f *os.File, have int64) {
	err := f.Sync()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if s.file != f || s.syncErr != nil {
		return // it is closed, or what of it is on the disk is not known
	}
	if err == nil {
		s.mark.Synced = have
		err = s.writeMark(true)
	}
	s.syncErr = err
}

// finish notes that the file is complete.
func (s *spool) finish(have int64) error {
	s.syncing.Wait()
	if s.syncErr != nil {
		return s.unsynced()
	}
	return s.note(have)
}

// save makes what has arrived durable for a later call if that is quick: a
// program that was told to stop should have stopped within 2 s.
func (s *spool) save(have int64) {
	s.mu.Lock()
	file, synced := s.file, s.mark.Synced
	s.mu.Unlock()
	if file == nil || have <= synced {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.syncing.Wait()
		s.sync(file, have)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
}

// room checks that need more bytes fit beside the reserve.
func (s *spool) room(need, reserve int64) error {
	var st syscall.Statfs_t
	if need <= 0 || syscall.Fstatfs(int(s.dir.Fd()), &st) != nil {
		return nil // unknown; the write itself will tell
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	if free-reserve >= need {
		return nil
	}
	return &fault{kind: final, err: bootcheck.Errorf(bootcheck.ExitNoSpace, bootcheck.CodeDiskFull,
		"cannot download %q: no room in %q (%d bytes to come, %d free, %d of them reserved)",
		s.from.shown, s.dir.Name(), need, free, reserve)}
}

// local makes a final fault of trouble with the disk. What arrived before the disk was
// full is as good as ever, unless it may not be what was written: see unsynced.
func (s *spool) local(where string, err error) *fault {
	return &fault{kind: final, err: s.from.localError(where, err), drop: !bootcheck.IsNoSpace(err)}
}

// unsynced makes a final fault of a sync that failed, also for want of room: what
// of the partial file is on the disk is not known.
func (s *spool) unsynced() *fault { return s.local(s.part, s.syncErr).dropping() }

// drop deletes the partial file: it is of no use to a later call.
func (s *spool) drop() {
	s.syncing.Wait()
	removeFiles(s.dir.Name(), s.from.name)
}

// close unlocks the directory. A sync that still runs notes nothing any more.
func (s *spool) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	s.dir.Close()
	s.unlock()
}

// bootID tells boots apart; empty if the kernel does not say. A variable so
// that tests can have a power cut.
var bootID = bootcheck.BootID
