package bootcheck

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Admission is what a device asks of a version before that runs here for the first
// time. Every way into it asks the same: an install, an activation, the boot that a
// version was activated for, a lost record, a factory version that was never confirmed.
// The guardian rolls back to a version that ran here without asking.
type Admission struct {
	Record         *Record   // nil: no version was ever installed
	Keys           []string  // files and directories of trusted keys, as in the configuration; empty: not asked
	Floor          int64     // the lowest accepted release, see Store.Floor
	Model          string    // of the device; empty: versions for every model may run
	Today          time.Time // the latest credible date
	AllowDowngrade bool      // releases below Floor may run
	Force          bool      // blocked versions may run
}

// MaxReleaseStep is how far the release counter may go up at once. Without a
// bound, one bundle of a stolen key with the counter 2^63-1 would make every later
// release a downgrade, for ever. 2^45 is more than any counter that people use
// (20261126120000, or milliseconds since 1970), so that a device's first version
// may have any of them, and it leaves room for 262,143 more such steps, each of
// which must have been confirmed here: a vendor can always go above a thief.
const MaxReleaseStep = 1 << 45

// Refuse says why ref, whose manifest is m, may not run here; nil: it may. It does not
// ask who signed it: the signature of a bundle comes before its manifest, and Admit asks
// it of a version in the store. Errors are *Error with ExitRefused.
func (a *Admission) Refuse(ref *Ref, m *Manifest) error {
	refuse := func(format string, args ...any) *Error {
		return Errorf(ExitRefused, CodeInvalidManifest, "version %s is refused: %s", m.Version, fmt.Sprintf(format, args...))
	}
	if a.Model != "" && !slices.Contains(m.Models, a.Model) {
		return refuse("it is for %s, this device is %q", strings.Join(m.Models, ", "), a.Model).
			WithAdvice("install a bundle that was made with --model %s; `ota-guardian config` shows where the model of this device is set", a.Model)
	}
	if m.NotAfter != nil && a.Today.After(*m.NotAfter) {
		return refuse("it expired at %s", m.NotAfter.Format(time.RFC3339)).
			WithAdvice("ask for a newer one; if it is not %s or later, set the device's clock", a.Today.UTC().Format(time.DateOnly))
	}
	if a.Record == nil || !a.Record.Current.Same(ref) {
		switch {
		case m.Release < a.Floor && !a.AllowDowngrade:
			return refuse("its release %d is older than release %d, which ran here", m.Release, a.Floor).
				WithAdvice("--allow-downgrade takes it all the same; `ota-guardian rollback` goes back to a version that is still here")
		case m.Release-a.Floor > MaxReleaseStep:
			return refuse("its release %d is %d beyond release %d, which ran here, and the limit is %d", m.Release, m.Release-a.Floor, a.Floor, int64(MaxReleaseStep)).
				WithAdvice("give releases numbers that count up: after this one, every later one would be a downgrade")
		}
	}
	if a.Record != nil && !a.Force {
		if b := a.Record.BlockedBy(ref); b != nil {
			err := refuse("%s", b.Failed()).
				WithAdvice("`ota-apply unblock %s` or --force allows it again", m.Version)
			err.Code = CodeDeploymentFailed // nothing is wrong with the manifest
			return err
		}
	}
	return nil
}

// Admit says why the version that ref names may not run here; nil: it may. A version
// that was confirmed here, or is factory, is not asked who signed it: it is bound by its
// digest, so it cannot have changed since. Refusals are *Error with ExitRefused;
// other errors are of what could not be read.
func (s *Store) Admit(ref *Ref, a *Admission) error {
	if ref.Digest == NoManifest {
		return nil // another program installed it, and nothing says what it is
	}
	snapshot, err := s.Snapshot(ref.Version)
	if err != nil {
		return err
	}
	if err := s.checkSigner(ref, a); err != nil {
		return err
	}
	return a.Refuse(ref, snapshot.Manifest)
}

// CheckRevoked says whether a revoked key signed ref, which was never confirmed here and
// is not factory; nil: none did. record may be nil. Errors are those of Admit. One that
// is ErrRevokedUnknown says nothing about ref.
func (s *Store) CheckRevoked(ref *Ref, record *Record) error {
	return s.checkSigner(ref, &Admission{Record: record})
}

func (s *Store) checkSigner(ref *Ref, a *Admission) error {
	if ref.Digest == NoManifest || a.Record != nil && (a.Record.IsConfirmed(ref) || ref.Same(a.Record.Factory)) {
		return nil
	}
	refuse := func(format string, args ...any) *Error {
		return Errorf(ExitRefused, CodeSignatureInvalid, "version %s is refused: %w", ref.Version, fmt.Errorf(format, args...))
	}
	revoked, err := s.RevokedKeys(a.Record)
	if errors.Is(err, ErrRevokedUnknown) {
		return refuse("%w", err).WithAdvice(RevokedUnknownAdvice)
	}
	trusted := trustedIDs(a.Keys)
	if len(revoked) == 0 && len(trusted) == 0 {
		return nil
	}
	text, err := ReadSnapshotFile(s.VersionDir(ref.Version), SignaturePath, MaxSignature)
	if err != nil {
		return fmt.Errorf("cannot tell who signed version %s: %w", ref.Version, err)
	}
	id := keyID(text)
	const advice = "install a bundle that is signed with another key"
	switch {
	case id == "":
		return Errorf(ExitDamaged, CodeSignatureInvalid, "cannot tell who signed version %s: %s is damaged", ref.Version, SignaturePath)
	case slices.Contains(revoked, id):
		return refuse("it is signed with key %s, which was revoked", id).WithAdvice(advice)
	case len(trusted) > 0 && !slices.Contains(trusted, id):
		return refuse("it is signed with key %s, which is not trusted here", id).WithAdvice(advice)
	}
	return nil
}

// RevokedUnknownAdvice ends what ErrRevokedUnknown makes impossible.
const RevokedUnknownAdvice = "remove the public keys that were revoked from the directory of keys, then remove the damaged file"

// trustedIDs are the IDs of the public keys in paths; none if a file that may hold another
// cannot be read: only what is known speaks against a version.
func trustedIDs(paths []string) (ids []string) {
	for _, file := range KeyFiles(paths) {
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || info.Size() > MaxSignature || Exit(CheckOwner(file)) == ExitRefused {
			continue // no key, or none that is trusted
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil
		}
		if id := keyID(text); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// KeyFiles are paths, and instead of a directory its files *.pub.
func KeyFiles(paths []string) (files []string) {
	for _, p := range paths {
		list, err := os.ReadDir(p)
		if err != nil {
			files = append(files, p) // a file; or its reader says what is wrong
		}
		for _, d := range list {
			if strings.HasSuffix(d.Name(), ".pub") {
				files = append(files, filepath.Join(p, d.Name()))
			}
		}
	}
	return files
}

// keyID is the ID of the key in text, a public key or a signature of minisign; empty: it
// is neither. Both begin with an algorithm of two bytes and the ID. By hand: package
// minisign would bring its arithmetic into the guardian.
func keyID(text []byte) string {
	line, rest, _ := bytes.Cut(text, []byte("\n"))
	if bytes.HasPrefix(line, []byte("untrusted comment:")) {
		line, _, _ = bytes.Cut(rest, []byte("\n"))
	}
	raw, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(line)))
	if err != nil || len(raw) < 10 || raw[0] != 'E' {
		return ""
	}
	return fmt.Sprintf("%016X", binary.LittleEndian.Uint64(raw[2:]))
}

// Floor is the lowest accepted release: the highest that was confirmed here. A record
// that was put together from the links alone does not know it; then it is that of the
// current version, if that was confirmed, and that of factory. record nil: 0.
func (s *Store) Floor(record *Record) int64 {
	if record == nil {
		return 0
	}
	floor := max(0, record.Floor)
	if floor > 0 {
		return floor
	}
	for _, ref := range []*Ref{record.Current, record.Factory} {
		if ref == nil || !record.IsConfirmed(ref) && !ref.Same(record.Factory) {
			continue
		}
		if snapshot, err := s.Snapshot(ref.Version); err == nil && snapshot.Ref.Same(ref) {
			floor = max(floor, snapshot.Manifest.Release)
		}
	}
	return floor
}
