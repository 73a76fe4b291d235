package channel

import (
	"bytes"
	"fmt"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A File is a channel file in its parts.
type File struct {
	Delegation *Delegation
	Channel    *Channel
	KeyID      string // who signed the channel
	ReleaseKey string // who signed the delegation

	Delegated    []byte // lines 1 to 5, which are also a file of their own, NAME.delegation
	delegatedSig []byte
	delegation   []byte
	sig          []byte
	channel      []byte // what the channel key signed
}

// Open verifies data, the file of the channel name, and returns what it says. Nothing is
// parsed before its signature is found good. release are the keys that sign bundles;
// revoked are IDs of keys that do not count, also where they are delegated to. What was seen
// before, and dates, are not looked at. Errors have ExitDamaged or ExitRefused.
func Open(data []byte, name string, release *trust.Keys, revoked []string) (*File, error) {
	f, err := cut(data)
	if err != nil {
		return nil, err
	}
	if f.ReleaseKey, err = release.VerifyAs("the delegation", f.delegation, f.delegatedSig); err != nil {
		return nil, err
	}
	if f.Delegation, err = parseDelegation(f.delegation); err != nil {
		return nil, err
	}
	if f.Delegation.Channel != name {
		return nil, refused("its keys are delegated for channel %q, not %q", f.Delegation.Channel, name)
	}
	if err := f.openChannel(name, revoked); err != nil {
		return nil, err
	}
	return f, nil
}

// CheckSigned refuses what Open refuses of data, but for the signature of its delegation: the
// release keys are not known where a channel is signed.
func CheckSigned(data []byte) error {
	f, err := Read(data)
	if err != nil {
		return err
	}
	return f.openChannel(f.Delegation.Channel, nil)
}

// openChannel is Open, from line 6 on.
func (f *File) openChannel(name string, revoked []string) error {
	pub, err := f.Delegation.keys()
	if err != nil {
		return damaged("%w", err)
	}
	keys := trust.These(pub...)
	keys.Revoke(revoked)
	if f.KeyID, err = keys.VerifyAs("the channel", f.channel, f.sig); err != nil {
		return err
	}
	if f.Channel, err = parseChannel(f.channel); err != nil {
		return err
	}
	switch c, d := f.Channel, f.Delegation; {
	case c.Channel != name:
		return refused("it is channel %q, not %q", c.Channel, name)
	case c.Made.After(d.NotAfter):
		// Else a stolen channel key could set the calendar of every device ahead, without end.
		return refused("it was made at %s, and its key counts until %s", c.Made.Format(time.RFC3339), d.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// Read is Open for a caller without keys: nothing is verified.
func Read(data []byte) (*File, error) {
	f, err := cut(data)
	if err == nil {
		f.Delegation, err = parseDelegation(f.delegation)
	}
	if err == nil {
		f.Channel, err = parseChannel(f.channel)
	}
	if err != nil {
		return nil, err
	}
	f.KeyID, f.ReleaseKey = trust.SignedBy(f.sig), trust.SignedBy(f.delegatedSig)
	return f, nil
}

// ReadDelegation reads lines 1 to 5, from the file that they are.
func ReadDelegation(data []byte) (d *Delegation, keyID string, err error) {
	sig, rest, ok := signature(data)
	if !ok || len(rest) > maxDelegation {
		return nil, "", damaged("it is not a delegation, or was cut off")
	}
	d, err = parseDelegation(rest)
	return d, trust.SignedBy(sig), err
}

func damaged(format string, args ...any) error {
	return bootcheck.Errorf(bootcheck.ExitDamaged, bootcheck.CodeInvalidManifest, "channel refused: "+format, args...)
}

func refused(format string, args ...any) *bootcheck.Error {
	return bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest, "channel refused: "+format, args...)
}

// cut finds the parts of data; it looks at nothing but ends of lines.
func cut(data []byte) (*File, error) {
	if len(data) > MaxSize {
		return nil, damaged("it is longer than %d bytes", MaxSize)
	}
	f := new(File)
	sig, rest, ok := signature(data)
	if end := bytes.IndexByte(rest, '\n') + 1; ok && 0 < end && end <= maxDelegation {
		f.delegatedSig, f.delegation, rest = sig, rest[:end], rest[end:]
		f.Delegated = data[:len(data)-len(rest)]
		if f.sig, f.channel, ok = signature(rest); ok && len(f.channel) > 0 {
			return f, nil
		}
	}
	return nil, damaged("it is not a channel, or was cut off")
}

// signature is the first four lines of data.
func signature(data []byte) (sig, rest []byte, ok bool) {
	end := 0
	for range 4 {
		n := bytes.IndexByte(data[end:], '\n') + 1
		if end += n; n == 0 || end > bootcheck.MaxSignature {
			return nil, nil, false
		}
	}
	return data[:end], data[end:], bytes.HasPrefix(data, []byte("untrusted comment:"))
}

// Expired is an error if today is after the date until which f counts, or its key.
func (f *File) Expired(today time.Time) error {
	for _, part := range []struct {
		name string
		end  time.Time
	}{{"it", f.Channel.NotAfter}, {"the delegation of its key", f.Delegation.NotAfter}} {
		if today.After(part.end) {
			return refused("%s expired at %s", part.name, part.end.Format(time.RFC3339)).
				WithAdvice("sign the channel again; if it is not %s or later, set the device's clock", today.UTC().Format(time.DateOnly))
		}
	}
	return nil
}

// Seen is what a device remembers of a channel.
type Seen struct {
	Channel string    `json:"channel"`
	Epoch   int64     `json:"epoch"`
	Serial  int64     `json:"serial"`
	Made    time.Time `json:"made"`
}

// Seen is what is to be remembered of f.
func (f *File) Seen() Seen {
	return Seen{f.Channel.Channel, f.Delegation.Epoch, f.Channel.Serial, f.Channel.Made}
}

// Admit refuses a file that is older than the one that s is of: it is another epoch, serial,
// or, as two jobs may have given one serial twice, date. A new epoch lets serials begin
// again. s of another channel, and the zero Seen, admit every file.
func (s Seen) Admit(f *File) error {
	n := f.Seen()
	switch {
	case s.Channel != n.Channel || n.Epoch > s.Epoch:
		return nil
	case n.Epoch < s.Epoch:
		return refused("its keys are of epoch %d, and epoch %d was here before: they were replaced", n.Epoch, s.Epoch)
	case n.Serial < s.Serial || n.Serial == s.Serial && n.Made.Before(s.Made):
		return refused("serial %d of %s is older than serial %d of %s, which was here before", n.Serial, n.Made.Format(time.RFC3339), s.Serial, s.Made.Format(time.RFC3339))
	}
	return nil
}

// Join makes the file of delegated (lines 1 to 5), and of what Encode made of the channel with
// its signature.
func Join(delegated, sig, channel []byte) ([]byte, error) {
	data := bytes.Join([][]byte{delegated, line(sig), channel}, nil)
	if len(data) > MaxSize {
		return nil, fmt.Errorf("the channel would be longer than %d bytes: take out releases that no device needs to pass", MaxSize)
	}
	return data, nil
}

// Delegated makes lines 1 to 5 of what Encode made of a delegation, with its signature.
func Delegated(sig, delegation []byte) []byte { return append(line(sig), delegation...) }

// line ends a signature with the end of its last line, which minisign.Signature does not.
func line(sig []byte) []byte { return append(bytes.TrimRight(sig, "\n"), '\n') }
