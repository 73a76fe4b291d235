package bootcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// MaxRevokedKeys is how many revoked keys a store remembers: more than any vendor
// has, and 20 KiB of each record.
const MaxRevokedKeys = 1024

// ErrRevokedUnknown is a list of revoked keys that is there and cannot be read,
// and that no record has either. Whom the device no longer trusts is not known:
// the caller must not trust any key.
var ErrRevokedUnknown = errors.New("it is not known which keys were revoked")

// The list of revoked keys is kept twice: in a file of its own and in the record.
//
// The file is what counts. It can be written before a device has a record, while
// a version is on trial, and when a Commit is impossible; no lost generation, no
// rebuilt record and no older program can shorten it. But a file can be lost, and
// one that is not there looks like one that never was. So each record carries the
// list too, with 32 generations behind it. What is read is both together: a key
// is trusted again only if both copies are lost at once.
//
// A full list must not protect a key: a thief can fill the list with made-up
// IDs. So the keys that the device trusted when they were revoked come first, then the
// others as they arrived, and what is beyond MaxRevokedKeys is dropped from the end. A
// dropped ID is of a key that the device does not trust.
//
// The seal tells a file with a flipped bit, which would name another key, from
// one that is intact.
type revokedList struct {
	Schema int      `json:"schema"`
	Keys   []string `json:"keys"`
	Seal   string   `json:"seal"`
}

func seal(keys []string) string { return Digest([]byte(strings.Join(keys, "\n"))) }

// RevokedKeys are the IDs of all keys that were revoked here; record is what Active
// gave, nil if there is none. An error that is ErrRevokedUnknown comes
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
	return union(kept, known), err
}

// readRevoked reads the file; none is no key.
func (s *Store) readRevoked() ([]string, error) {
	data, err := ReadRegular(s.path(revokedFile), 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list revokedList
	switch err := ReadJSON(data, &list); {
	case err != nil:
		return nil, fmt.Errorf("%s is damaged: %v", s.path(revokedFile), err)
	case list.Seal != seal(list.Keys) || len(list.Keys) == 0:
		return nil, fmt.Errorf("%s is damaged: its keys are not those that were sealed", s.path(revokedFile))
	}
	return list.Keys, nil
}

// Revoke remembers keys, besides all that record and the store's file know, and
// returns what is remembered now: at most MaxRevokedKeys, first those of trusted, the
// IDs that this device trusts. When it returns, that is durable. record is left as it
// is: give its clone the same list (AddRevoked) and commit that. The lock must be held,
// or that of installs.
func (s *Store) Revoke(record *Record, keys, trusted []string) ([]string, error) {
	all, err := s.RevokedKeys(record)
	if errors.Is(err, ErrRevokedUnknown) || Inconclusive(err) {
		return nil, err // the file may have more than record: it is not replaced
	}
	all = union(all, keys)
	first := slices.DeleteFunc(slices.Clone(trusted), func(id string) bool { return !slices.Contains(all, id) })
	all = bounded(union(first, all))
	if len(all) == 0 {
		return nil, nil // and so no file
	}
	if kept, err := s.readRevoked(); err == nil && len(kept) == len(union(kept, all)) {
		return kept, nil // in any order
	}
	data, err := json.Marshal(revokedList{Schema: Schema, Keys: all, Seal: seal(all)})
	if err != nil {
		return nil, err
	}
	if err := ReplaceFile(s.path(revokedFile), append(data, '\n'), 0o644, true); err != nil {
		return nil, err
	}
	return all, nil
}

// AddRevoked puts keys, all that Revoke or RevokedKeys returned, into the record and
// reports whether it had not known them all.
func (r *Record) AddRevoked(keys []string) (changed bool) {
	all := bounded(union(keys, r.RevokedKeys))
	changed = slices.ContainsFunc(all, func(id string) bool { return !slices.Contains(r.RevokedKeys, id) })
	if changed {
		r.RevokedKeys = all
	}
	return changed
}

// bounded is what of all a store remembers.
func bounded(all []string) []string { return all[:min(len(all), MaxRevokedKeys)] }

// union is all valid IDs of both, each once, as they come. What is no ID can revoke
// nothing.
func union(a, b []string) []string {
	var all []string
	seen := make(map[string]bool)
	for _, id := range slices.Concat(a, b) {
		if ValidKeyID(id) && !seen[id] {
			seen[id] = true
			all = append(all, id)
		}
	}
	return all
}
