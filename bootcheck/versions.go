package bootcheck

import (
	"cmp"
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

	"golang.org/x/sys/unix"
)

// A version has the directory v<version>. Repair makes another one beside it, v<version>~1,
// then ~2: a version's name cannot have that character. The one with the highest number
// is what the next Commit links; it is intact from the moment when it has that name.

// dirName is the n-th directory of version.
func dirName(version string, n int) string {
	if n == 0 {
		return "v" + version
	}
	return fmt.Sprintf("v%s~%d", version, n)
}

// parseDirName is the opposite of dirName.
func parseDirName(name string) (version string, n int, ok bool) {
	version, ok = strings.CutPrefix(name, "v")
	version, number, _ := strings.Cut(version, "~")
	n, _ = strconv.Atoi(number)
	return version, n, ok && ValidVersion(version) && dirName(version, n) == name
}

// A versionDir is a directory of a version.
type versionDir struct {
	name, version string
	n             int // see dirName
}

// directories are those of versions that are there, damaged or not, by name.
func (s *Store) directories() (all []versionDir, err error) {
	entries, err := readDir(s.dir)
	for _, e := range entries {
		if version, n, ok := parseDirName(e.Name()); ok && e.IsDir() {
			all = append(all, versionDir{e.Name(), version, n})
		}
	}
	return all, err
}

// newest is the directory of version that the next Commit links. The error is that of
// the look at the store: then it is not known. Where the disk cannot list the store, it is
// the one that is linked now, so that a device can leave a version that fails, there too.
func (s *Store) newest(version string) (string, error) {
	all, err := s.directories()
	if err != nil && !Inconclusive(err) {
		if directory := s.linked(version); directory != "" {
			return directory, nil
		}
	}
	return newestOf(version, all), err
}

func newestOf(version string, all []versionDir) string {
	newest := 0
	for _, d := range all {
		if d.version == version {
			newest = max(newest, d.n)
		}
	}
	return dirName(version, newest)
}

// linked is the directory of version that the active generation leads to, as far as that can
// be read; empty: none.
func (s *Store) linked(version string) string {
	if active, err := s.activeGeneration(); err == nil {
		for _, name := range linkNames {
			if directory, v, _ := s.linkTarget(active, name); v == version {
				return directory
			}
		}
	}
	return ""
}

// dirOf is the directory of version: the one that is linked, as that is the current version;
// else the newest, see there.
func (s *Store) dirOf(version string) (string, error) {
	if directory := s.linked(version); directory != "" {
		return directory, nil
	}
	return s.newest(version)
}

// dirsOf are all directories of version that are there: first the one that counts, then the
// newest.
func (s *Store) dirsOf(version string) ([]versionDir, error) {
	first, _ := s.dirOf(version)
	all, err := s.directories()
	all = slices.DeleteFunc(all, func(d versionDir) bool { return d.version != version })
	slices.SortFunc(all, func(a, b versionDir) int {
		switch first {
		case a.name:
			return -1
		case b.name:
			return 1
		}
		return cmp.Compare(b.n, a.n)
	})
	return all, err
}

// nextDirName is the directory beside those that version has, and beside what is no directory
// and has such a name. Where a link leads to one that is gone, it is that one again: else the
// link would still say that the version is gone.
func (s *Store) nextDirName(version string, directories []versionDir) string {
	_, next, _ := parseDirName(s.linked(version)) // 0 if there is none
	for _, d := range directories {
		next = max(next, d.n+1)
	}
	for ; ; next++ {
		if _, err := os.Lstat(s.path(dirName(version, next))); err != nil {
			return dirName(version, next)
		}
	}
}

// VersionDir is the directory in which version is, or would be. There says whether that is
// known.
func (s *Store) VersionDir(version string) string {
	directory, _ := s.dirOf(version)
	return s.path(directory)
}

// VersionNames lists the versions whose directories are in the store, intact or not, oldest name first.
func (s *Store) VersionNames() ([]string, error) {
	all, err := s.directories()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range all {
		names = append(names, d.version)
	}
	slices.SortStableFunc(names, CompareVersions)
	return slices.Compact(names), nil
}

// Snapshot is a version on disk, with the manifest that says what it consists of.
type Snapshot struct {
	Ref      Ref // with the digest that the manifest on disk has
	Dir      string
	Manifest *Manifest
}

// Snapshot reads the manifest of version. It does not look at the tree: see
// Verify. The error wraps fs.ErrNotExist if there is no such version.
func (s *Store) Snapshot(version string) (*Snapshot, error) {
	if !ValidVersion(version) {
		return nil, Errorf(ExitUsage, "", "%q cannot be a version", version)
	}
	dir := s.VersionDir(version)
	if err := s.There(version); errors.Is(err, fs.ErrNotExist) {
		return nil, absent(version)
	} else if err != nil {
		return nil, damage("", fmt.Errorf("version %s cannot be used: %w", version, err))
	}
	raw, m, err := ReadManifest(dir)
	if err != nil {
		return nil, damage("", fmt.Errorf("version %s cannot be used: %w", version, err))
	}
	if m.Version != version {
		return nil, Errorf(ExitDamaged, "", "version %s cannot be used: its manifest is that of version %s", version, m.Version)
	}
	return &Snapshot{Ref: Ref{Version: version, Digest: Digest(raw)}, Dir: dir, Manifest: m}, nil
}

// Release is the release counter that the manifest of version says; 0: it does not
// count, or it cannot be read. Of a manifest that this project's programs made, only
// the first lines are read: it is asked for in each boot. Nothing that matters may
// depend on it, as nothing else of the manifest was looked at.
func (s *Store) Release(version string) int64 {
	f, err := os.OpenFile(filepath.Join(s.VersionDir(version), ManifestPath), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, 64<<10)) // of 32 MiB that are one value, all would be kept
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return 0
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return 0
		}
		if key == "release" {
			var release int64
			if dec.Decode(&release) != nil {
				return 0
			}
			return release
		}
		var other json.RawMessage
		if dec.Decode(&other) != nil {
			return 0
		}
	}
	return 0
}

// Verify checks that ref is on disk, is the content that the record knows and
// is intact. depth says how closely. What it returns nil for may be run. Of a version
// without a manifest (NoManifest) it only sees that it is there.
func (s *Store) Verify(ctx context.Context, ref *Ref, depth Depth) error {
	if ref.Digest == NoManifest {
		return s.checkUnlisted(ref.Version)
	}
	snapshot, err := s.Snapshot(ref.Version)
	if err != nil {
		return err
	}
	if !snapshot.Ref.Same(ref) {
		return Errorf(ExitDamaged, CodeHashMismatch, "version %s has the manifest %s, want %s", ref.Version, snapshot.Ref.Digest, ref.Digest)
	}
	if err := CheckTree(ctx, snapshot.Dir, snapshot.Manifest, depth); Inconclusive(err) {
		return fmt.Errorf("cannot check version %s: %w", ref.Version, err)
	} else if err != nil {
		return fmt.Errorf("version %s is damaged: %w", ref.Version, err)
	}
	return nil
}

// absent is the error for a version that is not in the store. It is fs.ErrNotExist, and
// does not say so twice.
type absent string

func (v absent) Error() string { return fmt.Sprintf("version %s is not in the store", string(v)) }

func (absent) Is(target error) bool { return target == fs.ErrNotExist }

// Find is the version that an operator means by name: "1.2.0", its directory's name
// "v1.2.0", or one of the links "current", "previous", "factory".
func (s *Store) Find(record *Record, name string) (string, error) {
	var names []string
	if record != nil {
		for _, l := range record.Links() {
			if l.Ref != nil {
				names = append(names, l.Name)
			}
			if l.Name == name {
				if l.Ref == nil {
					return "", Errorf(ExitFailed, "", "there is no %s version", name).WithAdvice("`ota-apply list` shows the versions")
				}
				return l.Ref.Version, nil
			}
		}
	}
	for _, version := range []string{name, strings.TrimPrefix(name, "v")} {
		if !ValidVersion(version) {
			continue
		}
		if err := s.There(version); err == nil {
			return version, nil
		} else if Inconclusive(err) {
			return "", err
		}
	}
	if !ValidVersion(name) {
		return "", Errorf(ExitUsage, "", "%q cannot be a version", name)
	}
	advice := "`ota-apply list` shows the versions"
	versions, _ := s.VersionNames() // without them the advice is shorter
	if like := Nearest(name, append(names, versions...)); like != "" {
		advice = "did you mean `" + like + "`? " + advice
	}
	return "", (&Error{Err: absent(name)}).WithAdvice("%s", advice)
}

// Stage makes the empty directory .staging/v<version> to unpack into and returns
// it; what was there is gone. The caller closes it.
func (s *Store) Stage(version string) (*os.Root, error) {
	staged, err := s.stage(dirName(version, 0))
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(s.path(staged))
}

// stage makes the empty directory name in .staging, and returns its path in the store;
// what was there is gone.
func (s *Store) stage(name string) (staged string, err error) {
	staged = filepath.Join(stagingDir, name)
	if _, err = s.makeDirs(stagingDir); err == nil {
		err = s.clear(staged)
	}
	if err == nil {
		err = os.Mkdir(s.path(staged), 0o755)
	}
	return staged, err
}

// Unstage throws a staged version away.
func (s *Store) Unstage(version string) error {
	return RemoveAll(s.path(stagingDir, dirName(version, 0)))
}

// Publish makes the staged version a snapshot, beside a damaged one of the same content,
// if there is one: then the next Commit links it. sealed: no user gets the right to write
// to it. Everything in it must be durable already: a snapshot that has its final name is
// intact, after any power cut. When Publish returns nil its name is durable too. The lock
// must be held.
func (s *Store) Publish(version string, sealed bool) error {
	staged := filepath.Join(stagingDir, dirName(version, 0))
	if sealed {
		if err := sealTree(s.path(staged)); err != nil {
			return fmt.Errorf("cannot publish version %s: %w", version, err)
		}
	}
	is, err := s.dirsOf(version)
	if err == nil {
		err = s.publish(staged, s.nextDirName(version, is))
	}
	if err != nil {
		return fmt.Errorf("cannot publish version %s: %w", version, err)
	}
	return nil
}

// publish gives what is staged its name as a directory of a version.
func (s *Store) publish(staged, directory string) error {
	if _, err := os.Lstat(s.path(directory)); err == nil {
		return &fs.PathError{Op: "rename", Path: s.path(directory), Err: fs.ErrExist}
	}
	// Power cut before this rename: a leftover in .staging. After it: a snapshot
	// that nothing names, or none.
	if err := os.Rename(s.path(staged), s.path(directory)); err != nil {
		if errors.Is(err, unix.EXDEV) {
			return (&Error{Err: err}).WithAdvice("%s must be on one file system with its directory %s", s.dir, stagingDir)
		}
		return err
	}
	// Both directories changed; and Commit must not name a version whose own name
	// may be lost.
	return errors.Join(syncDir(s.dir), syncDir(s.path(stagingDir)))
}

// Remove deletes the snapshot of version: out of sight first, durably, so that
// a half that a power cut leaves is never taken for a version. One that the
// record links to is refused. With an error, part of it is left: in .trash, or, where
// it cannot be moved, as a damaged version under its name; or nothing was done. With
// ErrUndurable, a power cut may bring it back. The lock must be held.
func (s *Store) Remove(record *Record, version string) error {
	if l := record.Linked(version); l.Ref != nil {
		return fmt.Errorf("cannot remove version %s: it is %s", version, l.Name)
	}
	// The one that counts last: what was replaced must not be taken for the version.
	directories, err := s.dirsOf(version)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range slices.Backward(directories) {
		to, err := s.moveToTrash(d.name)
		if err != nil {
			return err
		}
		if to != "" {
			errs = append(errs, RemoveAll(to))
		}
	}
	return notRemoved(errs)
}

// Surplus lists the versions that may go when keep snapshots are kept beside
// current, previous, factory and what the next boot runs, the ones to go first first: versions that
// failed here, then those that once were confirmed, oldest first, then those
// that were never run.
func (s *Store) Surplus(record *Record, keep int) ([]string, error) {
	names, err := s.VersionNames()
	if err != nil {
		return nil, err
	}
	rank := func(version string) int {
		for _, b := range record.Blocked {
			if b.Version == version {
				return -1
			}
		}
		for i, c := range record.Confirmed {
			if c.Version == version {
				return i
			}
		}
		return len(record.Confirmed)
	}
	names = slices.DeleteFunc(names, func(v string) bool {
		return record.Next != nil && record.Next.Version == v || record.Linked(v).Ref != nil
	})
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	return names[:max(0, len(names)-max(0, keep))], nil
}

// CompareVersions orders version names as people do: runs of digits by their
// value, everything else by its characters; "1.10.0" is newer than "1.9.0", and
// "1.0" is newer than "1.0-rc1". It only sorts: what may be installed is decided
// by the release counter.
func CompareVersions(a, b string) int {
	digits := func(s string) int {
		n := 0
		for n < len(s) && '0' <= s[n] && s[n] <= '9' {
			n++
		}
		return n
	}
	x, y := a, b
	for x != "" && y != "" {
		i, j := digits(x), digits(y)
		if i > 0 && j > 0 {
			p, q := strings.TrimLeft(x[:i], "0"), strings.TrimLeft(y[:j], "0")
			if c := cmp.Or(cmp.Compare(len(p), len(q)), strings.Compare(p, q)); c != 0 {
				return c
			}
			x, y = x[i:], y[j:]
			continue
		}
		if x[0] != y[0] {
			break
		}
		x, y = x[1:], y[1:]
	}
	// What continues with "-", a pre-release, is before everything else.
	rest := cmp.Or(cmp.Compare(pre(x), pre(y)), strings.Compare(x, y))
	return cmp.Or(rest, strings.Compare(a, b))
}

func pre(rest string) int {
	if strings.HasPrefix(rest, "-") {
		return 0
	}
	return 1
}
