package bootcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// MaxRevokedKeys is how many revoked keys a store remembers: more than anybody
// has, and 20 KiB of each record. One is never forgotten for another.
const MaxRevokedKeys = 1024

// ErrRevokedUnknown is a list of revoked keys that is there and cannot be read,
// and that no record has either. Whom the device no longer believes is not known:
// the caller must refuse to believe anybody.
var ErrRevokedUnknown = errors.New("it is not known which keys were revoked")

// The list of revoked keys is kept twice: in a file of its own and in the record.
//
// The file is what counts. It can be written before a device has a record, while
// a version is on trial, and when a Commit is impossible; no lost generation, no
// rebuilt record and no older program can shorten it. But a file can be lost, and
// one that is not there looks like one that never was. So each record carries the
// list too, with 32 generations behind it. What is read is both together: a key
// is believed again only if both copies are lost at once. Nothing ever takes a
// key out.
//
// The seal tells a file with a flipped bit, which would name another key, from
// one that is whole.
type revokedList struct {
	Schema int      `json:"schema"`
	Keys   []string `json:"keys"`
	Seal   string   `json:"seal"`
}

func seal(keys []string) string { return Digest([]byte(strings.Join(keys, "\n"))) }

// RevokedKeys are the IDs of all keys that were revoked here, in order; record is
// what Active gave, nil if there is none. An error that is ErrRevokedUnknown comes
// without keys, any other error with those that the record has.
func (s *Store) RevokedKeys(record *Record) ([]string, error) {
	var known []string
	if record != nil {
		known = record.RevokedKeys
	}
	kept, err := s.readRevoked()
	if err != nil && len(known) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrRevokedUnknown, err)
	}
	return union(known, kept), err
}

// readRevoked reads the file; none is no key.
func (s *Store) readRevoked() ([]string, error) {
	data, err := readRegular(s.path(revokedFile), 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list revokedList
	switch err := json.Unmarshal(data, &list); {
	case err != nil:
		return nil, fmt.Errorf("%s is damaged: %v", s.path(revokedFile), err)
	case list.Seal != seal(list.Keys) || len(list.Keys) == 0:
		return nil, fmt.Errorf("%s is damaged: its keys are not those that were sealed", s.path(revokedFile))
	}
	return list.Keys, nil
}

// Revoke remembers keys, besides all that record and the store's file know. When
// it returns, that is durable. record is left as it is: give its clone the same
// keys (AddRevoked) and commit that. The lock must be held, or that of installs.
func (s *Store) Revoke(record *Record, keys []string) error {
	all, err := s.RevokedKeys(record)
	if errors.Is(err, ErrRevokedUnknown) {
		return err
	}
	all = union(all, keys)
	if len(all) == 0 {
		return nil // and so no file
	}
	if len(all) > MaxRevokedKeys {
		return fmt.Errorf("cannot remember %d revoked keys, at most %d", len(all), MaxRevokedKeys)
	}
	if kept, err := s.readRevoked(); err == nil && slices.Equal(kept, all) {
		return nil
	}
	data, err := json.Marshal(revokedList{Schema: Schema, Keys: all, Seal: seal(all)})
	if err != nil {
		return err
	}
	// Power cut before the rename: the old list, and a leftover that the next call
	// removes. After it: the old or the new one.
	temp := s.path(revokedFile + ".new")
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
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
	if err == nil {
		err = os.Rename(temp, s.path(revokedFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(s.dir)
}

// AddRevoked puts keys into the record and reports whether it had not known them all.
func (r *Record) AddRevoked(keys []string) (changed bool) {
	all := union(r.RevokedKeys, keys)
	changed = !slices.Equal(all, r.RevokedKeys)
	r.RevokedKeys = all
	return changed
}

// union is all valid IDs of both, each once, in order. What is no ID can revoke
// nothing.
func union(a, b []string) []string {
	all := slices.DeleteFunc(slices.Concat(a, b), func(id string) bool { return !ValidKeyID(id) })
	slices.Sort(all)
	return slices.Compact(all)
}
