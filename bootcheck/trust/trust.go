// Package trust is whom this device trusts: the public keys whose signature a
// manifest must have. Only what installs needs it. The guardian does not: what it
// runs was checked when it was installed and is bound to the record by its digest,
// so a key that is rotated away never makes a device that runs unbootable.
package trust

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/bootcheck"
)

// Keys are the public keys that this device trusts. Any one of them is enough.
// No keys is a state in which every signature is refused, never one in which
// none is needed.
type Keys struct {
	byID    map[uint64]minisign.PublicKey
	revoked map[string]bool // by KeyID; these are not trusted, wherever they lie
	paths   []string        // where they were looked for, for the message that there are none

	// Skipped has an error for each file that Load found and does not trust. It names the file.
	Skipped []error
}

// Load reads the minisign public keys that a device trusts. Each path is a file
// with one key, or a directory, whose files *.pub are read. A path that does not
// exist holds no keys. A file that is no public key, or that others than root can
// change, is not trusted and stands in Skipped; the other keys count.
func Load(paths []string) *Keys {
	k := &Keys{byID: make(map[uint64]minisign.PublicKey), paths: paths}
	for _, p := range bootcheck.KeyFiles(paths) {
		err := bootcheck.CheckOwner(p)
		if err == nil {
			err = k.load(p)
		}
		if err != nil && !(errors.Is(err, fs.ErrNotExist) && slices.Contains(paths, p)) {
			if !strings.Contains(err.Error(), p) { // of what a link leads to
				err = fmt.Errorf("%s: %w", p, err)
			}
			k.Skipped = append(k.Skipped, fmt.Errorf("key skipped: %w", err))
		}
	}
	return k
}

// Named reads the keys that an operator named: paths are those of Load, with any
// owner, and a file that holds no public key is an error.
func Named(paths []string) (*Keys, error) {
	k := &Keys{byID: make(map[uint64]minisign.PublicKey), paths: paths}
	for _, p := range bootcheck.KeyFiles(paths) {
		if err := k.load(p); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (k *Keys) load(file string) error {
	key, err := ReadKey(file)
	if err != nil {
		return err
	}
	if old, ok := k.byID[key.ID()]; ok && !old.Equal(key) {
		return fmt.Errorf("public key %s has the ID of another trusted key, %s", file, KeyID(key.ID()))
	}
	k.byID[key.ID()] = key
	return nil
}

// ReadKey reads a minisign public key from a file.
func ReadKey(file string) (minisign.PublicKey, error) {
	var key minisign.PublicKey
	text, err := bootcheck.ReadLinked(file, 4<<10) // minisign's own files have 114 bytes
	if err != nil {
		return key, fmt.Errorf("cannot read the public key: %w", err)
	}
	if key.UnmarshalText(text) != nil {
		return key, fmt.Errorf("%s is damaged: it is not a minisign public key", file)
	}
	return key, nil
}

// KeyID writes the ID of a key as minisign does.
func KeyID(id uint64) string { return fmt.Sprintf("%016X", id) }

// Len is the number of different keys.
func (k *Keys) Len() int { return len(k.byID) }

// IDs are the IDs of the keys, in order.
func (k *Keys) IDs() []string {
	var ids []string
	for id := range k.byID {
		ids = append(ids, KeyID(id))
	}
	slices.Sort(ids)
	return ids
}

// Twins are ids and the IDs of all trusted keys that are one of those keys under
// another ID. minisign does not bind an ID to its key: a user who copies a public key can
// give it any.
func (k *Keys) Twins(ids []string) []string {
	all := slices.Clone(ids)
	for id, key := range k.byID {
		if slices.Contains(ids, KeyID(id)) {
			for twin, other := range k.byID {
				if !slices.Contains(all, KeyID(twin)) && sameKey(key, other) {
					all = append(all, KeyID(twin))
				}
			}
		}
	}
	return all
}

// sameKey reports whether a and b verify the same signatures, also under other IDs.
func sameKey(a, b minisign.PublicKey) bool {
	bytes := func(key minisign.PublicKey) string {
		raw, err := base64.StdEncoding.DecodeString(key.String())
		if err != nil || len(raw) < 10 {
			return key.String()
		}
		return string(raw[10:]) // behind the algorithm and the ID
	}
	return bytes(a) == bytes(b)
}

// Revoke makes every signature of the keys with these IDs and of their Twins refused,
// for good: also where their public keys are among the trusted.
func (k *Keys) Revoke(ids []string) {
	if k.revoked == nil {
		k.revoked = make(map[string]bool)
	}
	for _, id := range k.Twins(ids) {
		k.revoked[id] = true
	}
}

// Verify checks that sig, the text of a minisign signature, is one of raw by a
// trusted key, and returns that key's ID. The signature's trusted comment is
// covered too. Nothing in raw may be looked at before that. Errors are *Error
// with bootcheck.ExitRefused and CodeSignatureInvalid.
func (k *Keys) Verify(raw, sig []byte) (keyID string, err error) {
	return k.VerifyAs("the manifest", raw, sig)
}

// VerifyAs is Verify of another text than a manifest; what is its name in errors.
func (k *Keys) VerifyAs(what string, raw, sig []byte) (keyID string, err error) {
	refuse := func(format string, args ...any) (string, error) {
		return "", bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, format, args...)
	}
	if len(k.byID) == 0 {
		e := bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "no trusted keys in %s: every install is refused", strings.Join(k.paths, ", "))
		return "", e.WithAdvice("copy the public key of your release engineer there, as NAME.pub")
	}
	if len(bytes.TrimSpace(sig)) == 0 {
		return refuse("%s is not signed", what)
	}
	var s minisign.Signature
	if len(sig) > bootcheck.MaxSignature || s.UnmarshalText(sig) != nil {
		return refuse("%s's signature is damaged: it is not a minisign signature", what)
	}
	id := KeyID(s.KeyID)
	if k.revoked[id] {
		e := bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "%s is signed with key %s, which was revoked", what, id)
		if what != "the manifest" {
			return "", e.WithAdvice("sign it with another key")
		}
		return "", e.WithAdvice("install a bundle that is signed with another key")
	}
	key, ok := k.byID[s.KeyID]
	if !ok {
		e := bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "%s is signed with key %s, which is not trusted here", what, id)
		return "", e.WithAdvice("if that key is yours, copy its public key, NAME.pub, to /etc/ota/keys of the device")
	}
	// The legacy kind signs the bytes themselves: what the key signed as something else
	// could be taken for it.
	if s.Algorithm != minisign.HashEdDSA {
		return refuse("%s's signature with key %s is of the legacy kind, want a prehashed one (minisign -H)", what, id)
	}
	if !minisign.Verify(key, raw, sig) {
		return refuse("%s's signature with key %s is wrong: one of them was changed", what, id)
	}
	return id, nil
}

// SignedBy is the ID of the key that claims to have made sig; empty: it is no signature.
func SignedBy(sig []byte) string {
	var s minisign.Signature
	if s.UnmarshalText(sig) != nil {
		return ""
	}
	return KeyID(s.KeyID)
}

// These makes Keys of keys that are not in files.
func These(keys ...minisign.PublicKey) *Keys {
	k := &Keys{byID: make(map[uint64]minisign.PublicKey), paths: []string{"the given keys"}}
	for _, key := range keys {
		k.byID[key.ID()] = key
	}
	return k
}
