// Package patch makes one version out of another: a file beside a bundle that holds all
// that a device which runs the old version lacks of the new one. This comment is the
// format, version 1, byte by byte.
//
// # The file
//
//	offset 0        prefix, 24 bytes        the beginning of a zstd skippable frame
//	offset 24       signature, S bytes      the rest of that frame
//	offset 24+S     head, L bytes           one zstd frame
//	offset 24+S+L   manifest, M bytes       zstd frames, one after another
//	then            payload                 zstd frames, one after another
//
// The file ends with the last frame. Its name is NEW.ota.from/FROM.otp: FROM is the SHA-256
// of the manifest of the old version, in hex.
//
// # The prefix
//
// All integers are little-endian.
//
//	0   4  0x184D2A50      magic of a zstd skippable frame
//	4   4  16+S            bytes that follow in that frame; S is 1 to [bootcheck.MaxSignature]
//	8   4  "OTP1"          this is a patch, format 1
//	12  4  L               length of the head, bytes; 1 to [MaxHead]
//	16  4  M               length of the manifest's frames, bytes; 1 to [MaxManifest]
//	20  4  0               flags; none is defined, so any is refused
//
// # The signature and the head
//
// The signature is that of minisign (Ed25519, prehashed) of the head's bytes as they are in
// the file: nothing else of a patch is looked at before. The head is a [Head], JSON, in a
// zstd frame that names its decoded size (at most [maxHeadSize]) and uses no dictionary.
//
// # The frames
//
// The first Head.Manifest frames make the new version's manifest, the others its files. A frame
// makes at most [maxOut] bytes, Out, from its own bytes and from a window, at most
// [maxWindow] bytes of the old version: parts of its files, one after another.
// Of files, Out is either one or more intact ones, or one part of one file, whose other parts are the
// frames just before and after it, in order. No file is made twice.
//
// Files and parts are ranges: three numbers, the number of an entry in the manifest (of the
// old version in a window, of the new one in Out; -1 is the manifest itself), offset and
// length. A file that the old version has, by its SHA-256, is not in a patch.
//
// A frame's SHA-256 is that of its compressed bytes. It is one zstd frame that names its
// decoded size. Its operation is a sum:
//
//	1  dict   the window is a raw dictionary of the zstd frame
//	2  add    what the zstd frame decodes to is a difference to the window
//
// # A difference
//
// Numbers are unsigned varints of encoding/binary, seek is a signed one (zigzag).
//
//	three numbers: the lengths of the next three parts, bytes
//	steps: seek, add, copy; repeatedly
//	gaps: a number for each byte that differs
//	differences: as many bytes, none of them 0
//	what is copied: the rest
//
// A step moves seek bytes in the window, forth or back, takes add bytes of the window,
// then copy bytes of what is copied. All bytes that were taken from the window are one row: a gap is how many of
// them, after the last that differs, are right; the difference is added to the next one, modulo 256.
// All parts are used up when all of Out is made, and no step is empty. This is bsdiff (Colin Percival,
// BSD-2-Clause), but for the gaps in the place of zeros.
package patch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/tope-ota/ota/bootcheck"
)

// PrefixSize is the length of what HeadSize needs, bytes.
const PrefixSize = 24

// Limits of a patch, bytes. klauspost/compress makes patches four to six times larger where
// the window is shorter than what is made of it.
const (
	MaxHead     = 4 << 20  // compressed
	MaxManifest = 16 << 20 // of compressed frames
	maxHeadSize = 4 << 20  // of JSON: 65,536 small files of 40 bytes each
	maxOut      = 1 << 20  // that one frame makes
	maxWindow   = 4 << 20  // twice as much gains 1 %, and costs as much memory
	maxRanges   = 256      // of one window: each is an open file
	diffSlack   = 64 << 10 // by which a difference may be longer than what it makes
	maxSize     = maxOut + diffSlack
	maxLength   = maxSize + 1<<12 // what zstd makes of that if it does not shrink

	maxFrames = 1 << 14 // 16 GiB of large files
	maxValues = 600_000 // of JSON: six for each of 65,536 small files, eight for each frame
)

const (
	skippableMagic = 0x184D2A50 // zstd: RFC 8878, 3.1.2
	prefixMagic    = "OTP1"
	formatVersion  = 1
	theManifest    = -1 // in the place of the number of an entry
)

// A Head says what a patch is for and what each frame does.
type Head struct {
	Format    int    `json:"format"`    // 1
	From      string `json:"from"`      // SHA-256 of the old manifest's bytes, hex
	To        string `json:"to"`        // and of the new one's
	Size      int64  `json:"size"`      // of the new manifest, bytes
	Signature string `json:"signature"` // of the new manifest: text of minisign
	Bundle    int64  `json:"bundle"`    // length of the new bundle, bytes; 0: not known
	// Manifest is how many of the Frames make the new manifest.
	Manifest int     `json:"manifest"`
	Frames   []Frame `json:"frames"`
}

// A Frame is one zstd frame and what is made of it.
type Frame struct {
	Length int64  `json:"length"` // compressed bytes
	Size   int64  `json:"size"`   // bytes that they decode to
	SHA256 string `json:"sha256"` // of the compressed bytes
	Op     Op     `json:"op"`
	Window ranges `json:"window,omitempty"`
	Out    ranges `json:"out"`
}

// An Op is how a frame is made.
type Op int

// Operations, which can be added.
const (
	OpDict Op = 1
	OpAdd  Op = 2
)

// ranges are parts of files: each is entry, offset, length.
type ranges []int64

type part struct{ entry, offset, length int64 }

func (r ranges) count() int { return len(r) / 3 }

func (r ranges) parts() iter.Seq[part] {
	return func(yield func(part) bool) {
		for ; len(r) > 0 && yield(part{r[0], r[1], r[2]}); r = r[3:] {
		}
	}
}

// total is how long all parts are together. They were checked.
func (r ranges) total() (n int64) {
	for p := range r.parts() {
		n += p.length
	}
	return n
}

// check fails if r is more than max parts, or longer than limit, or if a part is not in its
// file; size is -1 for an entry that is no file.
func (r ranges) check(max int, limit int64, size func(entry int64) int64) error {
	if len(r)%3 != 0 || r.count() > max {
		return fmt.Errorf("%d numbers are not at most %d ranges", len(r), max)
	}
	for p := range r.parts() {
		is := size(p.entry)
		if p.offset < 0 || p.length < 1 || p.length > is || p.offset > is-p.length {
			return fmt.Errorf("entry %d has no %d bytes at %d", p.entry, p.length, p.offset)
		}
		if limit -= p.length; limit < 0 {
			return errors.New("its ranges are too long")
		}
	}
	return nil
}

// lengths are what a prefix says, bytes.
type lengths struct{ signature, head, manifest int64 }

func (l lengths) total() int64 { return PrefixSize + l.signature + l.head + l.manifest }

func (l lengths) prefix() []byte {
	b := binary.LittleEndian.AppendUint32(nil, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(PrefixSize-8+l.signature))
	b = append(b, prefixMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(l.head))
	b = binary.LittleEndian.AppendUint32(b, uint32(l.manifest))
	return binary.LittleEndian.AppendUint32(b, 0)
}

func parsePrefix(first []byte) (l lengths, err error) {
	if len(first) < PrefixSize {
		return l, damaged(bootcheck.CodeSizeMismatch, "not a patch: it has %d bytes", len(first))
	}
	word := func(at int) int64 { return int64(binary.LittleEndian.Uint32(first[at:])) }
	l = lengths{word(4) - (PrefixSize - 8), word(12), word(16)}
	refuse := func(format string, args ...any) (lengths, error) {
		return lengths{}, damaged(bootcheck.CodeInvalidManifest, format, args...)
	}
	switch {
	case word(0) != skippableMagic || string(first[8:11]) != prefixMagic[:3]:
		return refuse("not a patch: its first bytes are not those of one")
	case first[11] != prefixMagic[3]:
		return refuse("the patch's format is %q, only %q is known", first[8:12], prefixMagic)
	case word(20) != 0:
		return refuse("the patch has flags %#x, none is known", word(20))
	case l.signature < 1 || l.signature > bootcheck.MaxSignature:
		return refuse("the patch's signature has %d bytes, 1 to %d are allowed", l.signature, bootcheck.MaxSignature)
	case l.head < 1 || l.head > MaxHead:
		return refuse("the patch's head has %d bytes, 1 to %d are allowed", l.head, MaxHead)
	case l.manifest < 1 || l.manifest > MaxManifest:
		return refuse("the manifest in the patch has %d bytes, 1 to %d are allowed", l.manifest, MaxManifest)
	}
	return l, nil
}

// HeadSize says how much of a patch, bytes from its beginning, Open reads, from the first
// PrefixSize ones. Errors are *bootcheck.Error with ExitDamaged.
func HeadSize(first []byte) (total int64, err error) {
	l, err := parsePrefix(first)
	if err != nil {
		return 0, err
	}
	return l.total(), nil
}

// parseHead reads what was signed, and checks what can be without the manifests: old is how
// long that of the old version is.
func parseHead(raw []byte, l lengths, old int64) (*Head, error) {
	if err := countHead(raw); err != nil {
		return nil, err
	}
	h := new(Head)
	if err := bootcheck.ReadJSON(raw, h); err != nil {
		return nil, fmt.Errorf("not a head: %v", err)
	}
	switch {
	case h.Format != formatVersion:
		return nil, fmt.Errorf("format %d is not known, only %d is", h.Format, formatVersion)
	case !isSum(h.From) || !isSum(h.To):
		return nil, errors.New("a version is no SHA-256")
	case h.Size < 1 || h.Size > bootcheck.MaxManifest:
		return nil, fmt.Errorf("a manifest of %d bytes", h.Size)
	case h.Bundle < 0 || h.Bundle > bootcheck.MaxTreeSize:
		return nil, fmt.Errorf("a bundle of %d bytes", h.Bundle)
	case h.Manifest < 1 || h.Manifest > len(h.Frames):
		return nil, fmt.Errorf("%d of %d frames make the manifest", h.Manifest, len(h.Frames))
	}
	only := func(n int64) func(int64) int64 {
		return func(entry int64) int64 {
			if entry == theManifest {
				return n
			}
			return -1
		}
	}
	frames := h.Frames[:h.Manifest]
	if err := checkFrames(frames, only(old), only(h.Size)); err != nil {
		return nil, err
	}
	var made, length int64
	for i := range frames {
		made += frames[i].Out.total()
		length += frames[i].Length
	}
	if made != h.Size || length != l.manifest {
		return nil, fmt.Errorf("%d bytes make %d of the manifest, want %d and %d", length, made, l.manifest, h.Size)
	}
	return h, nil
}

// countHead fails if raw has more than there may be of what takes memory, before any of it is
// made.
func countHead(raw []byte) error {
	if n := bytes.Count(raw, []byte("{")); n > 1+maxFrames {
		return fmt.Errorf("%d frames, at most %d are allowed", n-1, maxFrames)
	}
	if n := bytes.Count(raw, []byte(",")); n > maxValues {
		return fmt.Errorf("%d values, at most %d are allowed", n, maxValues)
	}
	return nil
}

// checkFrames fails unless each frame can be made, of files whose lengths old and made say
// (-1: no file), and no file is made twice, or in part.
func checkFrames(frames []Frame, old, made func(entry int64) int64) error {
	seen := make(map[int64]bool)
	var open part // that the next frame continues with: up to where it was made
	for i := range frames {
		f := &frames[i]
		bad := func(format string, args ...any) error {
			return fmt.Errorf("frame %d: %s", i, fmt.Sprintf(format, args...))
		}
		if err := f.Window.check(maxRanges, maxWindow, old); err != nil {
			return bad("window: %v", err)
		}
		if err := f.Out.check(maxOut, maxOut, made); err != nil {
			return bad("%v", err)
		}
		longest := f.Out.total()
		if f.Op&OpAdd != 0 {
			longest += diffSlack
		}
		switch {
		case f.Op < 0 || f.Op > OpDict|OpAdd || (f.Op == 0) != (len(f.Window) == 0):
			return bad("operation %d with a window of %d ranges", f.Op, f.Window.count())
		case len(f.Out) == 0:
			return bad("it makes nothing")
		case f.Length < 1 || f.Length > maxLength || f.Size < 1 || f.Size > longest || f.Op&OpAdd == 0 && f.Size != longest:
			return bad("%d bytes that decode to %d do not make %d", f.Length, f.Size, f.Out.total())
		case !isSum(f.SHA256):
			return bad("%q is no SHA-256", f.SHA256)
		}
		for p := range f.Out.parts() {
			size := made(p.entry)
			switch goesOn := open.length > 0; {
			case goesOn && (p.entry != open.entry || p.offset != open.length):
				return bad("entry %d is not made to its end", open.entry)
			case !goesOn && (p.offset != 0 || seen[p.entry]):
				return bad("entry %d is made twice, or from byte %d on", p.entry, p.offset)
			case f.Out.count() > 1 && p.length != size:
				return bad("a part of entry %d is not alone", p.entry)
			}
			seen[p.entry] = true
			if open = (part{entry: p.entry, length: p.offset + p.length}); open.length == size {
				open = part{}
			}
		}
	}
	if open.length > 0 {
		return fmt.Errorf("entry %d is not made to its end", open.entry)
	}
	return nil
}

func isSum(s string) bool { return bootcheck.ValidDigest("sha256:" + s) }

// damaged is what every refusal of this package is.
func damaged(code, format string, args ...any) error {
	return bootcheck.Errorf(bootcheck.ExitDamaged, code, format, args...)
}
