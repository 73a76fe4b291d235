// Package channel is a file on any web server that tells a fleet which versions to run:
// NAME.channel, text of at most 64 KiB, two signed parts one after the other.
//
//	line 1-4   signature of line 5 by a release key, as minisign writes it
//	line 5     the delegation, JSON: the channel keys, and how long they count
//	line 6-9   signature of the rest by one of these channel keys
//	line 10-   the channel, JSON: serial, date, releases, what is stopped
//
// It is one file, so that no cache serves halves of two. A release key is kept offline and
// signs bundles and delegations. A channel key is online, where it is promoted: it chooses
// among signed bundles and cannot make one. docs/CHANNEL.md has it byte by byte.
//
//	format.go   the two parts, and what is refused
//	file.go     the file: signatures, what was seen before, dates
//	choose.go   which release a device takes
package channel

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/bootcheck"
)

// Format is the only value of "format" that this program understands.
const Format = 1

// Limits of a file. One beyond any of them is refused.
const (
	MaxSize       = 64 << 10 // bytes
	maxDelegation = 4 << 10  // bytes of line 5
	maxKeys       = 8
	maxReleases   = 256
	maxStops      = 256
	maxAddresses  = 8
	maxAddress    = 4 << 10   // bytes; a presigned one has 1,500
	maxNumber     = 1<<53 - 1 // of what JSON readers keep exactly
	maxName       = 64        // bytes of a channel's name
)

// A Delegation says which keys may sign a channel. A release key signs it.
type Delegation struct {
	Format   int       `json:"format"`
	Channel  string    `json:"channel"`   // see CheckName
	Epoch    int64     `json:"epoch"`     // from 1; a device refuses one below the highest that it has seen
	Made     time.Time `json:"made"`      // UTC, seconds
	NotAfter time.Time `json:"not_after"` // the keys count until then, and no date of theirs is later
	Keys     []string  `json:"keys"`      // public keys, as line 2 of NAME.pub
}

// A Channel is what a channel key signs.
type Channel struct {
	Format   int       `json:"format"`
	Channel  string    `json:"channel"`
	Serial   int64     `json:"serial"`    // from 1; grows with each change, begins again with each epoch
	Made     time.Time `json:"made"`      // UTC, seconds
	NotAfter time.Time `json:"not_after"` // devices take nothing from it afterwards
	Releases []Release `json:"releases"`  // the highest first; in any order for a device
	Stop     []string  `json:"stop"`      // digests of manifests that no further device takes
}

// A Release is one bundle for the devices of some models.
type Release struct {
	Version     string   `json:"version"`
	Release     int64    `json:"release"` // of the bundle; 1 or more
	Models      []string `json:"models"`
	Manifest    string   `json:"manifest"` // digest of the manifest, sha256:HEX
	Bundle      []string `json:"bundle"`   // addresses: http, https, oci, or relative to the channel's
	Size        int64    `json:"size"`     // of the bundle, bytes
	Percent     int      `json:"percent"`  // of the devices, 0 to 100; never lowered
	FromRelease int64    `json:"from_release"`
	Barrier     bool     `json:"barrier"` // no device goes past it without having run it
	Urgent      bool     `json:"urgent"`  // an inhibitor does not hold it
}

// Ref names the version.
func (r *Release) Ref() *bootcheck.Ref { return &bootcheck.Ref{Version: r.Version, Digest: r.Manifest} }

// Encode is d as it is signed, with the end of its line. The same d gives the same bytes.
func (d *Delegation) Encode() ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(d)
	if err == nil && len(data) > maxDelegation {
		err = fmt.Errorf("the delegation is longer than %d bytes", maxDelegation)
	}
	return append(data, '\n'), err
}

// Encode is c as it is signed, the highest release first, one a line. The same c gives the
// same bytes.
func (c *Channel) Encode() ([]byte, error) {
	slices.SortStableFunc(c.Releases, func(a, b Release) int { return cmp.Compare(b.Release, a.Release) })
	if err := c.check(); err != nil {
		return nil, err
	}
	head := *c
	head.Releases, head.Stop = nil, nil
	data, err := json.Marshal(&head)
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(bytes.TrimSuffix(data, []byte(`"releases":null,"stop":null}`)))
	list := func(name string, n int, at func(int) any) {
		fmt.Fprintf(b, "\n%q:[", name)
		for i := range n {
			line, e := json.Marshal(at(i))
			err = errors.Join(err, e)
			fmt.Fprintf(b, "\n  %s", line)
			if i < n-1 {
				b.WriteByte(',')
			}
		}
		b.WriteByte(']')
	}
	list("releases", len(c.Releases), func(i int) any { return &c.Releases[i] })
	b.WriteByte(',')
	list("stop", len(c.Stop), func(i int) any { return c.Stop[i] })
	b.WriteString("}\n")
	return b.Bytes(), err
}

func parseDelegation(raw []byte) (*Delegation, error) {
	d := new(Delegation)
	return d, parse(raw, "delegation", d, true)
}

func parseChannel(raw []byte) (*Channel, error) {
	c := new(Channel)
	return c, parse(raw, "channel", c, false)
}

// parse reads one JSON object, what, into v, which no other JSON reader reads in another way: keys
// are lower case and stand once. Keys that are not known are refused if strict; else a newer
// program may have written them.
func parse(raw []byte, what string, v interface{ check() error }, strict bool) error {
	var head struct {
		Format *int `json:"format"`
	}
	err := bootcheck.CheckKeys(raw)
	if err == nil {
		err = bootcheck.ReadJSON(raw, &head)
	}
	switch {
	case err != nil:
	case head.Format == nil:
		err = errors.New(`it has no "format"`)
	case *head.Format != Format:
		err = fmt.Errorf("format %d is not known, only %d is", *head.Format, Format)
	default:
		d := json.NewDecoder(bytes.NewReader(raw))
		if strict {
			d.DisallowUnknownFields()
		}
		err = bootcheck.JSONError(d.Decode(v))
	}
	if err != nil {
		return damaged("the %s is damaged: %w", what, err)
	}
	if err := v.check(); err != nil {
		return damaged("the %s is refused: %w", what, err)
	}
	return nil
}

// CheckName says what is wrong with the name of a channel; nil: nothing. It is a name like
// that of a version, as it is part of a file's name.
func CheckName(s string) error {
	if !bootcheck.ValidVersion(s) {
		return fmt.Errorf("the name of a channel is a letter or digit and then at most %d letters, digits, or any of ._+-, not %.80q", maxName-1, s)
	}
	return nil
}

// NameOf is the name of the channel at address, or in the file of that name; empty: the last
// part of address is not NAME.channel.
func NameOf(address string) string {
	name, ok := strings.CutSuffix(address[strings.LastIndex(address, "/")+1:], ".channel")
	if !ok || CheckName(name) != nil {
		return ""
	}
	return name
}

func checkDates(made, notAfter time.Time) error {
	for name, t := range map[string]time.Time{"made": made, "not_after": notAfter} {
		if _, offset := t.Zone(); t.IsZero() || offset != 0 || t.Nanosecond() != 0 || t.Year() > 9999 || t.Year() < 1970 {
			return fmt.Errorf("%s is not a time like 2027-12-31T12:00:00Z", name)
		}
	}
	if !made.Before(notAfter) {
		return fmt.Errorf("it was made at %s and counts until %s", made.Format(time.RFC3339), notAfter.Format(time.RFC3339))
	}
	return nil
}

func (d *Delegation) check() error {
	if err := CheckName(d.Channel); err != nil {
		return err
	}
	if d.Epoch < 1 || d.Epoch > maxNumber {
		return fmt.Errorf("epoch %d is not within 1 and %d", d.Epoch, int64(maxNumber))
	}
	if len(d.Keys) < 1 || len(d.Keys) > maxKeys {
		return fmt.Errorf("it names %d keys, and 1 to %d are possible", len(d.Keys), maxKeys)
	}
	if _, err := d.keys(); err != nil {
		return err
	}
	return checkDates(d.Made, d.NotAfter)
}

func (d *Delegation) keys() ([]minisign.PublicKey, error) {
	keys := make([]minisign.PublicKey, len(d.Keys))
	for i, text := range d.Keys {
		if err := keys[i].UnmarshalText([]byte(text)); err != nil || strings.ContainsAny(text, "\r\n") {
			return nil, fmt.Errorf("key %.80q is not a public key of minisign", text)
		}
		for _, other := range keys[:i] {
			if other.ID() == keys[i].ID() {
				return nil, fmt.Errorf("key %.80q has the ID of another one", text)
			}
		}
	}
	return keys, nil
}

func (c *Channel) check() error {
	if err := CheckName(c.Channel); err != nil {
		return err
	}
	if c.Serial < 1 || c.Serial > maxNumber {
		return fmt.Errorf("serial %d is not within 1 and %d", c.Serial, int64(maxNumber))
	}
	if err := checkDates(c.Made, c.NotAfter); err != nil {
		return err
	}
	if len(c.Releases) > maxReleases {
		return fmt.Errorf("it has more than %d releases", maxReleases)
	}
	for i := range c.Releases {
		r := &c.Releases[i]
		if err := r.check(); err != nil {
			return fmt.Errorf("version %.80q: %w", r.Version, err)
		}
		for j := range c.Releases[:i] {
			other := &c.Releases[j]
			if r.Manifest == other.Manifest {
				return fmt.Errorf("versions %s and %s are one manifest", other.Version, r.Version)
			}
			same := slices.ContainsFunc(r.Models, func(m string) bool { return slices.Contains(other.Models, m) })
			if same && (r.Release == other.Release || r.Version == other.Version) {
				return fmt.Errorf("version %s, release %d, and version %s, release %d, are for one model: neither may be the same", other.Version, other.Release, r.Version, r.Release)
			}
		}
	}
	if len(c.Stop) > maxStops {
		return fmt.Errorf("it stops more than %d versions", maxStops)
	}
	for i, s := range c.Stop {
		if !bootcheck.ValidDigest(s) || slices.Contains(c.Stop[:i], s) {
			return fmt.Errorf("stop %.80q is not the digest of a manifest, once", s)
		}
	}
	return nil
}

func (r *Release) check() error {
	switch {
	case !bootcheck.ValidVersion(r.Version):
		return errors.New("that cannot be a version")
	case r.Release < 1:
		return fmt.Errorf("release %d: a device does not know whether it is newer; 1 or more", r.Release)
	case !bootcheck.ValidDigest(r.Manifest):
		return fmt.Errorf("manifest %.80q is not the digest of one", r.Manifest)
	case r.Size < 1 || r.Size > bootcheck.MaxTreeSize:
		return fmt.Errorf("size %d is not within 1 and %d", r.Size, int64(bootcheck.MaxTreeSize))
	case r.Percent < 0 || r.Percent > 100:
		return fmt.Errorf("percent %d is not within 0 and 100", r.Percent)
	case r.FromRelease < 0 || r.FromRelease >= r.Release:
		return fmt.Errorf("from_release %d is not within 0 and its own release, %d", r.FromRelease, r.Release)
	case len(r.Models) == 0 || len(r.Models) > 64:
		return errors.New("it is for no model, or for more than 64")
	case len(r.Bundle) == 0 || len(r.Bundle) > maxAddresses:
		return fmt.Errorf("it has %d addresses, and 1 to %d are possible", len(r.Bundle), maxAddresses)
	}
	for i, m := range r.Models {
		if err := bootcheck.CheckModel(m); err != nil || slices.Contains(r.Models[:i], m) {
			return fmt.Errorf("model %.80q is not a name, once", m)
		}
	}
	for _, a := range r.Bundle {
		if err := CheckAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// CheckAddress says why s cannot be the address of a bundle; nil: it can. It does not show s,
// which may be a presigned one.
func CheckAddress(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || s == "" || len(s) > maxAddress || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
	case u.User != nil:
	case u.Scheme == "" && u.Host == "" && u.Path != "":
		return nil
	case slices.Contains([]string{"http", "https", "oci"}, u.Scheme) && u.Host != "" && u.Opaque == "":
		return nil
	}
	return errors.New("an address is not http, https, oci or relative to the channel's, in ASCII, without a user")
}
