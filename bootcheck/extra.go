package bootcheck

// Extra files: what an application writes beside its own files, such as __pycache__, logs
// and sockets. They are not damage. `verify` lists them; `verify --prune` and
// `factory create` remove them.

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// Extra lists what the directory of version has and its manifest does not list: sorted
// paths, a directory without its content. What is mounted on a directory of the manifest
// is no part of the version. Empty also if the manifest cannot be read.
func (s *Store) Extra(version string) []string {
	snapshot, err := s.Snapshot(version)
	if err != nil {
		return nil
	}
	extra, _ := extraIn(snapshot.Dir, snapshot.Manifest, false)
	return extra
}

// Prune deletes what Extra lists, durably. It follows no link and enters no mount. What
// cannot be deleted does not keep the rest: the error is about the first of it. No
// service may run from version, and the lock must be held.
func (s *Store) Prune(version string) (removed []string, err error) {
	snapshot, err := s.Snapshot(version)
	if err != nil {
		return nil, err
	}
	return extraIn(snapshot.Dir, snapshot.Manifest, true)
}

// ErrInUse says that extra files of version stay, as unit runs from it.
func ErrInUse(version, unit string) error {
	return Errorf(ExitBusy, "", "cannot remove files from version %s: %s runs from it", version, unit).
		WithAdvice("`systemctl stop %s` stops it", unit)
}

// ErrExtra is what --strict says of versions that are intact and have extra files.
func ErrExtra(versions string) error {
	return Errorf(ExitDamaged, "", "intact, but with files that are not in the release: %s", versions).
		WithAdvice("`verify --prune` removes them")
}

// ExtraText is what follows "intact" in the result for a version with n extra files.
func ExtraText(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "; 1 file is not in the release"
	}
	return fmt.Sprintf("; %d files are not in the release", n)
}

// extraIn lists what is below dir and not in m, and deletes it if remove is set: then
// the list is of what was deleted.
func extraIn(dir string, m *Manifest, remove bool) ([]string, error) {
	x := extras{dir: dir, remove: remove,
		listed: map[string]bool{ManifestDir: true, ManifestPath: true, SignaturePath: true}}
	for i := range m.Entries {
		x.listed[m.Entries[i].Path] = true
	}
	root, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	x.in(root, ".")
	return x.found, notRemoved(x.errs)
}

type extras struct {
	dir    string
	listed map[string]bool
	remove bool
	found  []string
	errs   []error
}

// in looks at the directory open as d, whose path in the version is name.
func (x *extras) in(d *os.File, name string) {
	names, err := namesIn(d)
	x.errs = append(x.errs, err)
	slices.Sort(names)
	before := len(x.found)
	for _, base := range names {
		p := path.Join(name, base)
		if x.listed[p] {
			// Nothing else has something in it. What is mounted there is not the version's.
			if sub, err := openHere(int(d.Fd()), base); err == nil {
				x.in(sub, p)
				sub.Close()
			}
			continue
		}
		if x.remove {
			if err := removeAt(int(d.Fd()), filepath.Join(x.dir, p)); err != nil {
				x.errs = append(x.errs, err)
				continue
			}
		}
		x.found = append(x.found, p)
	}
	if x.remove && len(x.found) > before {
		x.errs = append(x.errs, d.Sync())
	}
}
