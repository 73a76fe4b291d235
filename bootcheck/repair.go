package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Repair makes the damaged snapshot ref what its manifest says, from what this
// device has: directories, links and modes from the manifest alone, files from
// any snapshot (also this one) that has a file with the same hash, wherever it is
// there and whatever its name. What the manifest does not list stays. In a
// snapshot whose root is read-only, as factory's is, all is made read-only.
//
// Every file is made anew in .staging and renamed over the damaged one, so a
// power cut at any moment leaves each file as it was or right, and running Repair
// again goes on. Only a folder in the place of a file has to be moved away first,
// when the file is there to take its place. No link is followed, even when
// somebody puts one in the place of a folder meanwhile.
//
// It returns the paths that were put right; all of it is durable, and with a nil
// error every byte of ref was checked.
//
// The error is an *Error with ExitDamaged when something is missing that no
// snapshot has or cannot be replaced, and when the manifest itself is damaged:
// then nothing says what is right. What could be repaired is, all the same. An
// error that says nothing about the snapshot (no space, no permission, ctx's) is
// no *Error and ends it at once. The lock must be held.
func (s *Store) Repair(ctx context.Context, ref *Ref) (repaired []string, err error) {
	return s.repair(ctx, ref, nil, Content)
}

// RepairFiles is Repair for a lock that others wait for: it reads the content of
// the files in damaged (see DamagedFiles) and of none else, so it takes as long as
// they are large and not as long as the whole version is. Whether every byte of
// ref is right, its caller has to see.
func (s *Store) RepairFiles(ctx context.Context, ref *Ref, damaged []string) (repaired []string, err error) {
	read := make(map[string]bool, len(damaged))
	for _, name := range damaged {
		read[name] = true
	}
	return s.repair(ctx, ref, read, Quick)
}

// repair is Repair. What is damaged is taken from donors first.
func (s *Store) repair(ctx context.Context, ref *Ref, read map[string]bool, check Depth, donors ...*Snapshot) (repaired []string, err error) {
	r, err := s.openRepair(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.openPlaces(); err != nil {
		return nil, err
	}
	r.read, r.donors = read, donors
	for _, step := range []func() error{r.frame, r.fillEmpty, r.fill} {
		if err := step(); err != nil {
			return r.done, err
		}
	}
	if err := r.remaining(); err != nil {
		return r.done, err
	}
	if err := CheckTree(ctx, r.snapshot.Dir, r.snapshot.Manifest, check); err != nil {
		return r.done, fmt.Errorf("version %s is still damaged: %w", ref.Version, err)
	}
	return r.done, nil
}

// DamagedFiles lists the files of ref that are there and whose content is not
// what the manifest says: what CheckTree would find if it did not end at the
// first. Nothing is changed, and no lock is needed for a version that is linked.
// The error has ExitDamaged when ref's manifest is damaged.
func (s *Store) DamagedFiles(ctx context.Context, ref *Ref) ([]string, error) {
	r, err := s.openRepair(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.close()
	var damaged []string
	for i := range r.snapshot.Manifest.Entries {
		e := &r.snapshot.Manifest.Entries[i]
		if e.Type != TypeFile {
			continue
		}
		f, err := openBeneath(int(r.root.Fd()), e.Path)
		if err == nil {
			err = r.hash(f, e)
			_ = f.Close()
		}
		switch {
		case err != nil && ends(ctx, err):
			return nil, fmt.Errorf("cannot check version %s: %s: %w", ref.Version, e.Path, err)
		case err != nil:
			damaged = append(damaged, e.Path)
		}
	}
	return damaged, nil
}

// repairFile is where an entry is made, in .staging. A leftover is swept there.
const repairFile = "repair"

type repair struct {
	ctx           context.Context
	store         *Store
	snapshot      *Snapshot
	root          *os.File // of the snapshot
	staging       *os.File
	trash         *os.File
	sealed        bool            // nobody may write to the snapshot
	read          map[string]bool // files whose content is looked at; nil: all
	donors        []*Snapshot     // where a file is looked for before the other versions
	wrong         []*Entry        // files whose content is not there yet
	unread        error           // why another version could not be asked for them, which says nothing about it
	failed        []string        // what else stays damaged: path and why
	done          []string        // paths that were put right
	trashed       int
	buf           []byte
	sum           hash.Hash
	ordinaryOwner bool // modes bind this process, as they do not bind root
}

// openRepair opens what a repair needs. Its error has ExitDamaged when the
// manifest of ref is not there to say what is right.
func (s *Store) openRepair(ctx context.Context, ref *Ref) (*repair, error) {
	snapshot, err := s.Snapshot(ref.Version)
	switch {
	case err != nil && ends(ctx, err):
		return nil, fmt.Errorf("cannot repair version %s: %v", ref.Version, err)
	case err != nil:
		return nil, Errorf(ExitDamaged, CodeInvalidManifest, "version %s cannot be repaired: its manifest is lost: %w", ref.Version, err)
	case !snapshot.Ref.Same(ref):
		return nil, Errorf(ExitDamaged, CodeHashMismatch, "version %s cannot be repaired: its manifest is %s, want %s", ref.Version, snapshot.Ref.Digest, ref.Digest)
	}
	r := &repair{ctx: ctx, store: s, snapshot: snapshot, buf: make([]byte, hashBuffer), sum: sha256.New(), ordinaryOwner: os.Geteuid() != 0}
	if r.root, err = openDir(snapshot.Dir); err != nil {
		return nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
	}
	info, err := r.root.Stat()
	if err != nil {
		r.close()
		return nil, fmt.Errorf("cannot repair version %s: %w", ref.Version, err)
	}
	r.sealed = info.Mode().Perm()&0o222 == 0
	return r, nil
}

// openPlaces opens the two folders that a change needs, and makes them.
func (r *repair) openPlaces() error {
	for _, place := range []struct {
		name string
		dir  **os.File
	}{{stagingDir, &r.staging}, {trashDir, &r.trash}} {
		err := os.Mkdir(r.store.path(place.name), 0o755)
		if err == nil || errors.Is(err, fs.ErrExist) {
			*place.dir, err = openDir(r.store.path(place.name))
		}
		if err != nil {
			return fmt.Errorf("cannot repair version %s: %w", r.snapshot.Ref.Version, err)
		}
	}
	return nil
}

// close removes what is left over. What cannot be, the next Sweep removes.
func (r *repair) close() {
	if r.trashed > 0 {
		if r.ordinaryOwner {
			// Only an owner who may write to a folder can empty it.
			_ = filepath.WalkDir(r.store.path(trashDir), func(name string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					return os.Chmod(name, 0o700)
				}
				return err
			})
		}
		_ = r.store.emptyDir(trashDir)
	}
	if r.staging != nil {
		_ = RemoveAll(r.store.path(stagingDir, repairFile))
	}
	for _, f := range []*os.File{r.root, r.staging, r.trash} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// openDir opens the directory name, which is no link, with Retry.
func openDir(name string) (f *os.File, err error) {
	err = Retry(func() (err error) {
		f, err = os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		return err
	})
	return f, err
}

// ends reports whether err would end every further repair, too: it is of this
// process or of the whole disk, not of one file.
func ends(ctx context.Context, err error) bool {
	return ctx.Err() != nil || IsNoSpace(err) || errors.Is(err, unix.EROFS) || Inconclusive(err)
}

// failure remembers that e stays damaged because of err, or returns an error that
// ends the repair.
func (r *repair) failure(e *Entry, err error) error {
	if ends(r.ctx, err) {
		return fmt.Errorf("cannot repair %s of version %s: %w", e.Path, r.snapshot.Ref.Version, err)
	}
	r.failed = append(r.failed, fmt.Sprintf("%s: %v", e.Path, err))
	return nil
}

// remaining says what could not be put right.
func (r *repair) remaining() error {
	const named = 3 // of each kind; the rest is counted
	if len(r.wrong) > 0 && r.unread != nil {
		return fmt.Errorf("cannot repair version %s: not every other version can be read: %w", r.snapshot.Ref.Version, r.unread)
	}
	var text []string
	if n := len(r.wrong); n > 0 {
		var names []string
		for _, e := range r.wrong[:min(named, n)] {
			names = append(names, e.Path)
		}
		text = append(text, fmt.Sprintf("no other version has what is damaged of version %s: %d files (%s)", r.snapshot.Ref.Version, n, strings.Join(names, ", ")))
	}
	if n := len(r.failed); n > 0 {
		text = append(text, fmt.Sprintf("%d entries of version %s cannot be replaced (%s)", n, r.snapshot.Ref.Version, strings.Join(r.failed[:min(named, n)], "; ")))
	}
	if len(text) == 0 {
		return nil
	}
	return Errorf(ExitDamaged, CodeHashMismatch, "%s", strings.Join(text, "; "))
}

// frame puts right everything but the content of files, and finds those that are
// wrong. It goes from the root down, so that what is below a directory is looked
// at when that is one.
func (r *repair) frame() error {
	for i := range r.snapshot.Manifest.Entries {
		e := &r.snapshot.Manifest.Entries[i]
		fixed, err := r.entry(e)
		if err == nil {
			err = r.ctx.Err()
		}
		if err != nil {
			if err := r.failure(e, err); err != nil {
				return err
			}
		}
		if fixed {
			r.done = append(r.done, e.Path)
		}
	}
	return nil
}

// entry puts e right and reports whether that was needed; a file whose content is
// wrong is only remembered.
func (r *repair) entry(e *Entry) (fixed bool, err error) {
	dir, err := openBeneath(int(r.root.Fd()), path.Dir(e.Path))
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	name := path.Base(e.Path)
	var st unix.Stat_t
	err = statAt(dir, name, &st)
	if err != nil && err != unix.ENOENT {
		return false, err
	}
	there := err == nil && st.Mode&unix.S_IFMT == map[EntryType]uint32{TypeDir: unix.S_IFDIR, TypeFile: unix.S_IFREG, TypeLink: unix.S_IFLNK}[e.Type]
	switch e.Type {
	case TypeLink:
		if there {
			if err := checkLink(dir, name, e.Target); err == nil {
				return false, nil
			} else if ends(r.ctx, err) {
				return false, err
			}
		}
		if err := r.stage(func(staging int) error { return unix.Symlinkat(e.Target, staging, repairFile) }); err != nil {
			return false, err
		}
		return true, r.place(dir, name)
	case TypeDir:
		if there {
			break
		}
		// Its own mode comes last: an ordinary user cannot move a folder that is read-only.
		if err := r.stage(func(staging int) error { return unix.Mkdirat(staging, repairFile, 0o700) }); err != nil {
			return false, err
		}
		if err := r.place(dir, name); err != nil {
			return false, err
		}
		return true, r.chmod(dir, name, e)
	case TypeFile:
		ok := false
		if there {
			ok, err = r.whole(dir, name, e)
			if err != nil {
				return false, err
			}
		}
		if !ok {
			r.wrong = append(r.wrong, e)
			return false, nil
		}
	}
	got, want := st.Mode&modeBits, uint32(e.Mode)
	if got == want&^0o222 || got == want && !r.sealed {
		return false, nil
	}
	return true, r.chmod(dir, name, e)
}

// whole reports whether the file name in dir has the content of e, as far as it is
// looked at. A file that the disk cannot read is not whole.
func (r *repair) whole(dir *os.File, name string, e *Entry) (bool, error) {
	if r.read != nil && !r.read[e.Path] {
		var st unix.Stat_t
		err := statAt(dir, name, &st)
		return err == nil && st.Size == e.Size, err
	}
	f, err := r.open(dir, name)
	if err == nil {
		defer func() { _ = f.Close() }()
		err = r.hash(f, e)
	}
	if err != nil && ends(r.ctx, err) {
		return false, err
	}
	return err == nil, nil
}

// open opens name in dir for reading, also if its own mode does not allow that to
// its owner; the caller gives it its mode.
func (r *repair) open(dir *os.File, name string) (*os.File, error) {
	f, err := openNoFollow(int(dir.Fd()), name, 0)
	if err != unix.EACCES || !r.ordinaryOwner {
		return f, err
	}
	// Through a descriptor that needs no permission: by name it follows links.
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), 0o700); err != nil {
		return nil, err
	}
	return openNoFollow(int(dir.Fd()), name, 0)
}

// hash checks all that f has against e, with Retry.
func (r *repair) hash(f *os.File, e *Entry) error {
	return Retry(func() error { return r.hashOnce(f, e) })
}

func (r *repair) hashOnce(f *os.File, e *Entry) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not a file")
	case info.Size() != e.Size:
		return fmt.Errorf("size %d, want %d", info.Size(), e.Size)
	}
	r.sum.Reset()
	for at := int64(0); at < e.Size; {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(r.buf[:min(int64(len(r.buf)), e.Size-at)], at)
		r.sum.Write(r.buf[:n])
		at += int64(n)
		if err != nil && at < e.Size {
			return err
		}
	}
	if got := hex.EncodeToString(r.sum.Sum(nil)); got != e.SHA256 {
		return fmt.Errorf("sha256 %s, want %s", got, e.SHA256)
	}
	return nil
}
