package bootcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A generation is a directory with one record, twice, and the links that say the
// same. It is written once and never changed.
//
// record.json and record.backup.json are two copies of one text. Its last key, seal,
// is the digest of all bytes before it. So a damaged byte, a lost file or a failed
// read of one copy changes nothing: the other one is intact. A generation without the
// backup was made by an older program, which knows neither the backup nor the seal.

func (s *Store) generation(n uint64) string {
	return s.path(generationsDir, strconv.FormatUint(n, 10))
}

// activeGeneration reads the switch.
func (s *Store) activeGeneration() (uint64, error) {
	target, err := readlink(s.path(activeLink))
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

// readLink reads a link of generation n. Anything but ../../v<version> is nil:
// this program makes no target that is absolute or climbs elsewhere. The error is
// that of the read.
func (s *Store) readLink(n uint64, name string) (*Ref, error) {
	_, version, err := s.linkTarget(n, name)
	if version == "" {
		return nil, err
	}
	return &Ref{Version: version}, nil
}

// linkTarget is readLink, and the directory.
func (s *Store) linkTarget(n uint64, name string) (directory, version string, err error) {
	target, err := readlink(filepath.Join(s.generation(n), name))
	directory, ok := strings.CutPrefix(target, "../../")
	version, _, valid := parseDirName(directory)
	if !ok || !valid {
		return "", "", err
	}
	return directory, version, nil
}

// readGeneration reads the record of generation n, from whichever copy is intact.
// damage says what is wrong with the other one, empty: nothing. An error is either
// ErrRecord or Inconclusive.
func (s *Store) readGeneration(n uint64) (r *Record, damage string, err error) {
	name := filepath.Join(s.generation(n), recordFile)
	text, err := ReadRegular(name, maxRecord)
	backup, backupErr := ReadRegular(filepath.Join(s.generation(n), backupFile), maxRecord)
	switch {
	case errors.Is(err, fs.ErrPermission): // a user who may not read it gets no answer, not even from the backup
	case intact(text):
		if !bytes.Equal(text, backup) && !Inconclusive(backupErr) {
			damage = fmt.Sprintf("generation %d: the backup of the record is damaged", n)
		}
	case intact(backup):
		if !Inconclusive(err) {
			damage = fmt.Sprintf("generation %d: the record is damaged; using its backup", n)
		}
		text, err = backup, nil
	case err == nil && errors.Is(backupErr, fs.ErrNotExist): // an older program made it
	case Inconclusive(backupErr):
		err = backupErr
	case err == nil:
		err = fmt.Errorf("%s and its backup are damaged", name)
	}
	switch {
	case Inconclusive(err):
		return nil, "", err
	case err != nil:
		return nil, "", fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if r, err = ParseRecord(text); err != nil {
		return nil, "", err
	}
	r.Generation = n
	return r, damage, nil
}

// sealKey begins the last key of a record's text. At this depth only that key can follow a line's end.
const sealKey = ",\n  \"seal\": \""

// sealRecord is text, an indented object, with the digest of all before it as the last key.
func sealRecord(text []byte) []byte {
	text = bytes.TrimSuffix(text, []byte("\n}"))
	return fmt.Appendf(nil, "%s%s%s\"\n}\n", text, sealKey, Digest(text))
}

// intact reports whether text is what sealRecord made, to the last byte.
func intact(text []byte) bool {
	i := bytes.LastIndex(text, []byte(sealKey))
	return i > 0 && bytes.Equal(text, sealRecord(text[:i]))
}

// numbered lists the numbers in the directory of the generations, oldest first: those
// of generations, and those that have something prepared that rolls them back.
func (s *Store) numbered() (generations, prepared []uint64, err error) {
	entries, err := readDir(s.path(generationsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	for _, e := range entries {
		name, fallback := strings.CutSuffix(e.Name(), fallbackSuffix)
		n, err := strconv.ParseUint(name, 10, 63)
		switch {
		case err != nil:
		case fallback:
			prepared = append(prepared, n)
		default:
			generations = append(generations, n)
		}
	}
	slices.Sort(generations)
	return generations, prepared, err
}

// generations lists the numbers of all generations, oldest first, without those that
// are prepared and were not switched to.
func (s *Store) generations() ([]uint64, error) {
	all, prepared, err := s.numbered()
	active, _ := s.activeGeneration()
	for _, n := range prepared {
		if p, _ := s.prepared(n); p != active {
			all = slices.DeleteFunc(all, func(g uint64) bool { return g == p })
		}
	}
	return all, err
}

// History returns the records of the generations up to the active one, oldest first,
// without those that are damaged. The error says that there is one that this process
// may not or cannot read.
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
		r, _, err := s.readGeneration(n)
		if Inconclusive(err) {
			return nil, err
		}
		if err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

// writeGeneration writes generation n whole and makes it durable.
func (s *Store) writeGeneration(n uint64, r *Record) error {
	dir := s.generation(n)
	if _, err := s.makeDirs(generationsDir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	text = sealRecord(text)
	for _, name := range []string{backupFile, recordFile} {
		if err := writeDurable(filepath.Join(dir, name), text); err != nil {
			return err // never a second fsync of this file: the whole generation is thrown away
		}
	}
	for _, l := range r.Links() {
		if l.Ref == nil {
			continue
		}
		directory, err := s.newest(l.Ref.Version)
		if err == nil {
			err = os.Symlink("../../"+directory, filepath.Join(dir, l.Name))
		}
		if err != nil {
			return err
		}
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return syncDir(s.path(generationsDir))
}
