// Package bundle reads and writes bundles: one version of the device's
// software, signed, in one file that can be checked before and while it is
// unpacked. This comment is the format, version 1, byte by byte.
//
// # The file
//
//	offset 0    prefix, 24 bytes            a zstd skippable frame
//	offset 24   head, L bytes               one zstd frame
//	offset 24+L payload                     one zstd frame after another
//
// Every part is a zstd frame and what they decode to, one after another, is one
// tar archive. So the usual tools read a bundle:
//
//	zstd -t x.ota
//	tar --zstd -tvf x.ota
//	tar --zstd -xOf x.ota .ota/manifest.json >manifest.json
//	tar --zstd -xOf x.ota .ota/manifest.json.minisig >manifest.json.minisig
//	minisign -Vm manifest.json -p release.pub
//
// The file ends with the last frame; one more byte and it is refused.
//
// # The prefix
//
// All integers are little-endian.
//
//	0   4  0x184D2A50      magic of a zstd skippable frame
//	4   4  16              bytes that follow in that frame
//	8   4  "OTA1"          this is a bundle, format 1
//	12  4  0               flags; none is defined, so any is refused
//	16  8  L               length of the head, bytes; 1 to [MaxHead]
//
// # The head
//
// One zstd frame that names its decoded size (at most [bootcheck.MaxManifest]
// and a little), uses no dictionary and decodes to two tar members, without the
// end of an archive:
//
//	.ota/manifest.json           [bootcheck.Manifest], JSON
//	.ota/manifest.json.minisig   its minisign signature (Ed25519, prehashed)
//
// The manifest may list keys that are no longer to be trusted, "revoked_keys":
// ["0123456789ABCDEF"], by the IDs that minisign gives them. A device that admits
// the bundle remembers them for ever. A manifest that revokes the key that signed
// it is refused.
//
// A reader decodes the head in bounded memory, checks the signature, and only
// then parses the manifest. Nothing else is trusted without a hash in it. As
// the head comes first, all that can be refused is refused before the payload
// is fetched.
//
// # The payload
//
// A tar archive of the manifest's entries, in the manifest's order, and the end
// of the archive (1024 zero bytes), cut into frames. The manifest lists each
// frame: its offset from the payload's start, the sha256 and length of its
// compressed bytes, which are checked before it is decoded, and the size that it
// decodes to. Offsets leave no gaps. Each frame is one zstd frame that names its
// decoded size, a multiple of 512 and at most 4 MiB, and uses no dictionary. It
// holds either
//
//   - one or more whole members, or
//   - a part of one file's member, whose other parts are the frames just before
//     and after it; the header is in the first part, whole, or
//   - the end of the archive: the last frame, and nothing else.
//
// So frames can be decoded on all cores in bounded memory, and a file that a
// device already has need not be fetched. The writer groups members up to 256
// KiB, at [LevelMax] up to 1 MiB, and gives a larger one frames of its own, full
// ones but for the last; a reader does not depend on that.
//
// # The members
//
// There is exactly one way to write a member, so two programs cannot read two
// different things from it. The reader makes the header that the manifest's
// entry must have and compares bytes; it has no tar parser that could be fooled.
//
// A ustar header, 512 bytes, unused ones zero, numbers in octal digits:
//
//	0    100  name      path; a directory's ends in "/"
//	100  8    mode      7 digits, NUL; a link's is 0777
//	108  8    uid       "0000000", NUL
//	116  8    gid       "0000000", NUL
//	124  12   size      11 digits, NUL; of a file its size, else 0
//	136  12   mtime     "00000000000", NUL
//	148  8    chksum    6 digits, NUL, space; the sum of all 512 bytes, these 8 as spaces
//	156  1    typeflag  '0' file, '5' directory, '2' symbolic link
//	157  100  linkname  a link's target
//	257  8    magic     "ustar", NUL, "00"
//	329  8    devmajor  "0000000", NUL
//	337  8    devminor  "0000000", NUL
//
// A file's content follows, and zeros up to a multiple of 512.
//
// A path (with a directory's "/") or target that is longer than 100 bytes or
// not ASCII is written, cut to 100 bytes and with "_" for each byte that is not
// ASCII, and a pax header stands before the member: a member of typeflag 'x',
// name "././@PaxHeader", mode 0644, whose content is the records "path" and
// "linkpath", in this order, only those needed, each "LENGTH KEY=VALUE\n".
//
// A symbolic link whose entry says "external" may be absolute or leave the tree; a
// reader makes it, and never follows it.
//
// There are no scripts in a bundle, no owners, times, extended attributes, hard
// links or devices, and no setuid. On the device a file belongs to the user that
// installs it (root), and its time is that of the installation, or of an earlier one
// where the file was reused.
package bundle

import (
	"encoding/binary"

	"github.com/tope-ota/ota/bootcheck"
)

// PrefixSize is the length of what HeadSize needs, bytes.
const PrefixSize = 24

// MaxHead is the longest head that is read, compressed bytes. It is what a
// downloader may have to keep before it knows who made it. A full manifest
// (65,536 entries and as many frames) has 4 MiB of hashes and some of names.
const MaxHead = 16 << 20

// maxHeadSize bounds what the head decodes to: two headers, two paddings.
const maxHeadSize = bootcheck.MaxManifest + bootcheck.MaxSignature + 4*blockSize

const (
	skippableMagic = 0x184D2A50 // zstd: RFC 8878, 3.1.2
	prefixMagic    = "OTA1"
)

// groupSize is up to how much tar stream the writer puts into one frame of
// small members: more compresses little better, and a device that has all but
// one of the files fetches more for nothing.
const groupSize = 256 << 10

func encodePrefix(head int) []byte {
	b := make([]byte, 0, PrefixSize)
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, PrefixSize-8)
	b = append(b, prefixMagic...)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, uint64(head))
}

// HeadSize says how long prefix and head are together, from the first
// PrefixSize bytes of a bundle: with so many bytes ReadHead can work. Errors are
// *bootcheck.Error with ExitDamaged.
func HeadSize(first []byte) (total int64, err error) {
	if len(first) < PrefixSize {
		return 0, damaged(bootcheck.CodeSizeMismatch, "not a bundle: it has %d bytes, the shortest beginning of one has %d", len(first), PrefixSize)
	}
	if binary.LittleEndian.Uint32(first) != skippableMagic ||
		binary.LittleEndian.Uint32(first[4:]) != PrefixSize-8 ||
		string(first[8:11]) != prefixMagic[:3] {
		return 0, damaged(bootcheck.CodeInvalidManifest, "not a bundle: its first bytes are not those of one")
	}
	if first[11] != prefixMagic[3] {
		return 0, damaged(bootcheck.CodeInvalidManifest, "the bundle's format is %q, only %q is known", first[8:12], prefixMagic)
	}
	if flags := binary.LittleEndian.Uint32(first[12:]); flags != 0 {
		return 0, damaged(bootcheck.CodeInvalidManifest, "the bundle has flags %#x, none is known", flags)
	}
	n := binary.LittleEndian.Uint64(first[16:])
	if n == 0 || n > MaxHead {
		return 0, damaged(bootcheck.CodeInvalidManifest, "the bundle's head has %d bytes, 1 to %d are allowed", n, MaxHead)
	}
	return PrefixSize + int64(n), nil
}

// damaged is what every refusal of this package is.
func damaged(code, format string, args ...any) error {
	return bootcheck.Errorf(bootcheck.ExitDamaged, code, format, args...)
}
