package bootcheck

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// A Link is one of the three names that a generation gives to snapshots.
type Link struct {
	Name string
	Ref  *Ref // nil: the link is not there
}

// Links are current, previous and factory, in this order.
func (r *Record) Links() []Link {
	return []Link{{"current", r.Current}, {"previous", r.Previous}, {"factory", r.Factory}}
}

// Linked is the first link to version; the zero Link: there is none. r may be nil.
func (r *Record) Linked(version string) Link {
	if r != nil {
		for _, l := range r.Links() {
			if l.Ref != nil && l.Ref.Version == version {
				return l
			}
		}
	}
	return Link{}
}

func (r *Record) setLink(name string, ref *Ref) {
	switch name {
	case "current":
		r.Current = ref
	case "previous":
		r.Previous = ref
	case "factory":
		r.Factory = ref
	}
}

// RepairLinks makes the fixed links what they must be and replaces what was put in their place:
// a link is replaced, a file or directory is moved into .trash under its own name
// first (and stays there until the next Sweep). Links that are right are not
// touched. What it did need not be durable before the caller's next fsync of the
// store's directory: a link that a power cut damages again is repaired again. The lock
// must be held.
func (s *Store) RepairLinks() error {
	for _, name := range linkNames {
		err := s.checkFixed(name)
		if err == nil {
			continue
		}
		if errors.Is(err, unix.EINVAL) { // not a link
			if err := s.trash(name); err != nil {
				return err
			}
		}
		if err := renameio.Symlink(fixedTarget(name), s.path(name)); err != nil {
			return err
		}
	}
	// A directory in the place of the switch would make every Commit fail.
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

// Marks of the store that a boot leaves behind: each holds the generation that was
// active when the boot ended. The boot after it makes another generation, so a
// mark says something of one boot only, and never needs removing.
const (
	CleanMark = ".clean-shutdown" // an orderly shutdown
	HardMark  = ".hard-reboot"    // the guardian reset the machine
)

// Sweep removes what a crash or a power cut left: unpacked halves, deleted
// halves, temporary links and marks, generations that were never switched to; and what a
// repair replaced, of versions that are not current. Names that are not ours stay. What
// cannot be removed does not keep the rest: the error is about the first of it. The lock
// must be held, and that of installs: nothing may be unpacking.
func (s *Store) Sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		// What renameio makes first for a link is a directory; ReplaceFile makes a file.
		link := temporaryOf(e.Name(), append([]string{activeLink}, linkNames...)) && e.IsDir()
		if link || temporaryOf(e.Name(), []string{CleanMark, HardMark, revokedFile, installsFile, followFile}) && e.Type().IsRegular() {
			errs = append(errs, RemoveAll(s.path(e.Name())))
		}
	}
	errs = append(errs, s.dropReplaced())
	for _, name := range []string{trashDir, stagingDir} {
		// A file in its place would keep every version from being removed, or unpacked.
		if info, err := os.Stat(s.path(name)); err != nil || !info.IsDir() {
			errs = append(errs, RemoveAll(s.path(name)))
			_, err = s.makeDirs(name)
			errs = append(errs, err)
		}
		errs = append(errs, s.emptyDir(name))
	}
	if active, err := s.activeGeneration(); err == nil {
		s.unprepare(active)
		generations, err := s.generations()
		errs = append(errs, err)
		for _, n := range generations {
			if n > active {
				errs = append(errs, RemoveAll(s.generation(n)))
			}
		}
	}
	return notRemoved(errs)
}

// temporaryOf reports whether name is "." + one of names + digits.
func temporaryOf(name string, names []string) bool {
	return slices.ContainsFunc(names, func(of string) bool {
		rest, ok := strings.CutPrefix(name, "."+of)
		_, err := strconv.ParseUint(rest, 10, 64)
		return ok && err == nil
	})
}

func (s *Store) emptyDir(name string) error {
	entries, err := os.ReadDir(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, RemoveAll(s.path(name, e.Name())))
	}
	return notRemoved(errs)
}
