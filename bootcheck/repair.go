package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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

func (s *Store) repair(ctx context.Context, ref *Ref, read map[string]bool, check Depth) (repaired []string, err error) {
	r, err := s.openRepair(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.openPlaces(); err != nil {
		return nil, err
	}
	r.read = read
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

// Strip removes from the snapshot ref what its manifest does not list, and says
// what that was: the names as they were on disk, a folder without what was in it.
// It is out of the snapshot, durably, before it is deleted. The error has
// ExitDamaged when ref's manifest is damaged: then nothing is removed. The lock
// must be held.
func (s *Store) Strip(ref *Ref) (removed []string, err error) {
	r, err := s.openRepair(context.Background(), ref)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := r.openPlaces(); err != nil {
		return nil, err
	}
	listed := map[string]EntryType{ManifestDir: TypeDir, ManifestPath: TypeFile, SignaturePath: TypeFile}
	for _, e := range r.snapshot.Manifest.Entries {
		listed[e.Path] = e.Type
	}
	if err := r.strip(r.root, ".", listed); err != nil {
		return r.done, fmt.Errorf("cannot remove what is not of version %s: %w", ref.Version, err)
	}
	return r.done, nil
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
	wrong         []*Entry        // files whose content is not there yet
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
		_ = os.RemoveAll(r.store.path(stagingDir, repairFile))
	}
	for _, f := range []*os.File{r.root, r.staging, r.trash} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func openDir(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// ends reports whether err would end every further repair, too: it is of this
// process or of the whole disk, not of one file.
func ends(ctx context.Context, err error) bool {
	return ctx.Err() != nil || IsNoSpace(err) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) ||
		errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
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
	err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && err != unix.ENOENT {
		return false, err
	}
	there := err == nil && st.Mode&unix.S_IFMT == map[EntryType]uint32{TypeDir: unix.S_IFDIR, TypeFile: unix.S_IFREG, TypeLink: unix.S_IFLNK}[e.Type]
	switch e.Type {
	case TypeLink:
		if there && checkLink(dir, name, e.Target) == nil {
			return false, nil
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
		err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
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

// hash checks all that f has against e.
func (r *repair) hash(f *os.File, e *Entry) error {
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

// fillEmpty makes the files of r.wrong that are empty: nobody has to have them.
func (r *repair) fillEmpty() error {
	return r.fillWith(func(e *Entry) (bool, error) {
		if e.Size > 0 {
			return false, nil
		}
		return r.makeFile(e, func(*os.File) error { return nil })
	})
}

// fill makes the files of r.wrong from those that snapshots have, and leaves in
// r.wrong what none has. First this snapshot: no other is so likely to be in the
// cache. Then the newest versions: one manifest is in memory at a time, however
// many versions there are, and no more are read than are needed.
func (r *repair) fill() error {
	if len(r.wrong) == 0 {
		return nil
	}
	versions, err := r.store.VersionNames()
	if err != nil {
		return err
	}
	versions = slices.DeleteFunc(versions, func(version string) bool { return version == r.snapshot.Ref.Version })
	versions = append(versions, r.snapshot.Ref.Version)
	for _, version := range slices.Backward(versions) {
		if len(r.wrong) == 0 {
			break
		}
		if err := r.ctx.Err(); err != nil {
			return err
		}
		donor := r.snapshot
		if version != r.snapshot.Ref.Version {
			if donor, err = r.store.Snapshot(version); err != nil {
				continue // not a version to take anything from
			}
		}
		if err := r.fillFrom(donor); err != nil {
			return err
		}
	}
	return nil
}

// fillFrom makes what it can of r.wrong from donor.
func (r *repair) fillFrom(donor *Snapshot) error {
	has := make(map[string][]*Entry, len(r.wrong)) // by hash
	damaged := make(map[*Entry]bool, len(r.wrong))
	for _, e := range r.wrong {
		has[e.SHA256], damaged[e] = nil, true
	}
	some := false
	for i := range donor.Manifest.Entries {
		e := &donor.Manifest.Entries[i]
		if same, wanted := has[e.SHA256]; wanted && e.Type == TypeFile && !damaged[e] {
			has[e.SHA256], some = append(same, e), true
		}
	}
	if !some {
		return nil
	}
	root, err := openDir(donor.Dir)
	if err != nil {
		return nil // nothing to be had here
	}
	defer func() { _ = root.Close() }()
	return r.fillWith(func(e *Entry) (bool, error) {
		for _, source := range has[e.SHA256] {
			if source.Size != e.Size {
				continue
			}
			if ok, err := r.take(root, source, e); ok || err != nil {
				return ok, err
			}
		}
		return false, nil
	})
}

// fillWith lets f make each of r.wrong, and leaves those that it did not make.
func (r *repair) fillWith(f func(*Entry) (made bool, err error)) error {
	var still []*Entry
	for i, e := range r.wrong {
		made, err := f(e)
		if err != nil {
			if err := r.failure(e, err); err != nil {
				r.wrong = append(still, r.wrong[i:]...)
				return err
			}
			continue
		}
		if made {
			r.done = append(r.done, e.Path)
		} else {
			still = append(still, e)
		}
	}
	r.wrong = still
	return nil
}

// take makes e from source, a file below root. false: the source is damaged, too.
func (r *repair) take(root *os.File, source, e *Entry) (bool, error) {
	from, err := openBeneath(int(root.Fd()), source.Path)
	if err == nil {
		defer func() { _ = from.Close() }()
		var info fs.FileInfo
		if info, err = from.Stat(); err == nil && (!info.Mode().IsRegular() || info.Size() != e.Size) {
			return false, nil // a FIFO must not be read at all
		}
	}
	if err != nil {
		if ends(r.ctx, err) && !errors.Is(err, fs.ErrPermission) {
			return false, err
		}
		return false, nil
	}
	return r.makeFile(e, func(to *os.File) error {
		// Shared blocks, where the file system can: no time and no space. A later
		// change of one file is none of the other, as it would be with a hard link.
		if unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil {
			return nil
		}
		return r.copy(to, from, e.Size)
	})
}

// copy copies size bytes, in parts that ctx can end. The kernel copies
// (copy_file_range) where it can.
func (r *repair) copy(to, from *os.File, size int64) error {
	const part = 8 << 20
	for size > 0 {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(to, from, min(size, part))
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// makeFile makes the file e with what write writes, and gives it its name when it
// has the content that it must have. false: it has not.
func (r *repair) makeFile(e *Entry, write func(to *os.File) error) (bool, error) {
	var to *os.File
	err := r.stage(func(staging int) error {
		fd, err := unix.Openat(staging, repairFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			to = os.NewFile(uintptr(fd), repairFile)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	defer func() { _ = to.Close() }()
	err = write(to)
	if err == nil {
		// Of what was really copied: the source may be damaged, or change.
		err = r.hash(to, e)
	}
	if err != nil {
		if ends(r.ctx, err) {
			return false, err
		}
		return false, nil
	}
	if err := to.Chmod(r.mode(e)); err != nil {
		return false, err
	}
	MarkVerified(to, e.SHA256, time.Now())
	if err := to.Sync(); err != nil {
		return false, err // never a second time: the file is thrown away
	}
	dir, err := openBeneath(int(r.root.Fd()), path.Dir(e.Path))
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	if err := r.place(dir, path.Base(e.Path)); err != nil {
		return false, err
	}
	return true, nil
}

// mode is what e gets.
func (r *repair) mode(e *Entry) fs.FileMode {
	if r.sealed {
		return e.Mode.Perm() &^ 0o222
	}
	return e.Mode.Perm()
}

// chmod gives the file or folder name in dir the mode of e, durably.
func (r *repair) chmod(dir *os.File, name string, e *Entry) error {
	f, err := r.open(dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := f.Chmod(r.mode(e)); err != nil {
		return err
	}
	return f.Sync()
}

// stage lets f make repairFile in .staging, where nothing of this name is left.
func (r *repair) stage(f func(staging int) error) error {
	if err := os.RemoveAll(r.store.path(stagingDir, repairFile)); err != nil {
		return err
	}
	return f(int(r.staging.Fd()))
}

// place gives what was made in .staging its name in dir, durably, in the place of
// whatever is there.
func (r *repair) place(dir *os.File, name string) error {
	return r.change(dir, func() error {
		err := unix.Renameat(int(r.staging.Fd()), repairFile, int(dir.Fd()), name)
		if err != unix.EISDIR && err != unix.ENOTDIR {
			return err
		}
		// A folder and something else cannot replace each other. Power cut between
		// these two: the entry is missing, and the next Repair makes it again.
		if err := r.discard(dir, name); err != nil {
			return err
		}
		return unix.Renameat(int(r.staging.Fd()), repairFile, int(dir.Fd()), name)
	})
}

// discard moves name of dir into .trash.
func (r *repair) discard(dir *os.File, name string) error {
	if r.ordinaryOwner {
		// Moving a folder changes its "..", which its own mode may forbid.
		if f, err := r.open(dir, name); err == nil {
			if info, err := f.Stat(); err == nil && info.IsDir() {
				_ = f.Chmod(0o700) // if it cannot, the move says so
			}
			_ = f.Close()
		}
	}
	for ; ; r.trashed++ {
		to := "repair-" + strconv.Itoa(r.trashed)
		var st unix.Stat_t
		if err := unix.Fstatat(int(r.trash.Fd()), to, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			continue // a killed repair left it
		}
		if err := unix.Renameat(int(dir.Fd()), name, int(r.trash.Fd()), to); err != nil {
			return err
		}
		r.trashed++
		return nil
	}
}

// change lets f change what is in dir, and makes that durable. Root may write to
// a folder that is read-only; anybody else has to make it writable.
func (r *repair) change(dir *os.File, f func() error) error {
	if r.ordinaryOwner {
		info, err := dir.Stat()
		if err != nil {
			return err
		}
		if mode := info.Mode().Perm(); mode&0o200 == 0 {
			if err := dir.Chmod(mode | 0o200); err != nil {
				return err
			}
			defer func() { _ = dir.Chmod(mode) }()
		}
	}
	if err := f(); err != nil {
		return err
	}
	return dir.Sync()
}

// strip moves what is in the directory open as dir and not in listed to .trash.
func (r *repair) strip(dir *os.File, at string, listed map[string]EntryType) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		full := path.Join(at, name)
		kind, known := listed[full]
		if at == ManifestDir {
			// The manifest was read; something else in the signature's place goes.
			var st unix.Stat_t
			if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return fmt.Errorf("%q: %w", full, err)
			}
			known = known && st.Mode&unix.S_IFMT == unix.S_IFREG
		}
		switch {
		case !known:
			if err := r.change(dir, func() error { return r.discard(dir, name) }); err != nil {
				return fmt.Errorf("%q: %w", full, err)
			}
			r.done = append(r.done, full)
		case kind == TypeDir:
			sub, err := openNoFollow(int(dir.Fd()), name, unix.O_DIRECTORY)
			if err == unix.ENOTDIR || err == unix.ELOOP {
				continue // damaged: Repair's business
			}
			if err == nil {
				err = r.strip(sub, full, listed)
				_ = sub.Close()
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
