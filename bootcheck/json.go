package bootcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// OutputSchema is the "schema" of every JSON object that the programs print. docs/schema
// describes the objects, one file a command.
const OutputSchema = 1

// WriteJSON writes v as the result of a command: indented, <, > and & as they are.
func WriteJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// ReadJSON is json.Unmarshal with an error in words: its own shows types of Go.
func ReadJSON(data []byte, v any) error { return JSONError(json.Unmarshal(data, v)) }

// JSONError is err, of encoding/json, in words.
func JSONError(err error) error {
	t, ok := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case !ok:
		return err
	case t.Field == "":
		return fmt.Errorf("it cannot be a JSON %s", t.Value)
	}
	return fmt.Errorf("%s cannot be a JSON %s", t.Field, t.Value)
}

// OrNull is a text that JSON has as null when it is empty.
type OrNull string

// MarshalJSON writes null for no text.
func (t OrNull) MarshalJSON() ([]byte, error) {
	if t == "" {
		return []byte("null"), nil
	}
	var b bytes.Buffer // json.Marshal would escape what WriteJSON does not
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(string(t))
	return b.Bytes(), err
}

// VersionInfo is a version as every JSON output shows it. nil: not known, as its
// manifest cannot be read.
type VersionInfo struct {
	Version string  `json:"version"`
	Digest  *string `json:"digest"` // "sha256:…" of its manifest
	Release *int64  `json:"release"`
	Size    *int64  `json:"size"` // sum of its files, bytes
}

// Info is m, whose bytes have the given digest, as JSON shows it.
func (m *Manifest) Info(digest string) VersionInfo {
	return VersionInfo{Version: m.Version, Digest: &digest, Release: &m.Release, Size: &m.Size}
}

// Info is ref as JSON shows it: what its manifest says as far as that can be read and is
// the one that ref names.
func (s *Store) Info(ref Ref) VersionInfo {
	if snapshot, err := s.Snapshot(ref.Version); err == nil && snapshot.Ref.Same(&ref) {
		return snapshot.Manifest.Info(snapshot.Ref.Digest)
	}
	return ref.info()
}

// info is ref as JSON shows it, of which no manifest is known.
func (r *Ref) info() VersionInfo {
	info := VersionInfo{Version: r.Version}
	if r.Digest != "" {
		info.Digest = &r.Digest
	}
	return info
}

// Verified is what a look at every byte of a version found, for JSON.
type Verified struct {
	VersionInfo
	File OrNull `json:"file"` // the bundle that it is in; empty: the store
	// State is intact, damaged, unknown (it could not be looked at), repaired (it was
	// damaged), replaced or gone (meanwhile), or unlisted (it has no manifest).
	State string   `json:"state"`
	Why   OrNull   `json:"why"`   // of what is damaged or unknown, and what was repaired
	Extra []string `json:"extra"` // files that are not in the release
}

// NewVerified is what a look at info found that ended with err.
func NewVerified(info VersionInfo, extra []string, err error) Verified {
	v := Verified{VersionInfo: info, State: "intact", Extra: append([]string{}, extra...)}
	if err != nil {
		v.Why = OrNull(Line(err))
		if v.State = "unknown"; Exit(err) == ExitDamaged {
			v.State = "damaged"
		}
	}
	return v
}

// LinkInfo is each of current, previous and factory of record as JSON shows it; nil: there
// is none. record nil: nothing was ever installed.
func (s *Store) LinkInfo(record *Record) map[string]*VersionInfo {
	links := map[string]*VersionInfo{"current": nil, "previous": nil, "factory": nil}
	if record != nil {
		for _, l := range record.Links() {
			if l.Ref != nil {
				links[l.Name] = new(s.Info(*l.Ref))
			}
		}
	}
	return links
}
