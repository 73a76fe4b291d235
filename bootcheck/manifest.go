package bootcheck

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ManifestDir is the directory of a snapshot, and of a bundle's head, that holds
// the manifest and its signature. It is not an entry of the manifest and no
// entry may be in it.
const ManifestDir = ".ota"

// The two files of ManifestDir, as paths from the snapshot's root.
const (
	ManifestPath  = ManifestDir + "/manifest.json"
	SignaturePath = ManifestDir + "/manifest.json.minisig"
)

// SBOMPath is the file of a version that is its SBOM: what it is made of, CycloneDX or
// SPDX in JSON. To everything else it is a file as any other.
const SBOMPath = "sbom.json"

// MaxSBOM bounds it, bytes; a thousand components take about one MiB.
const MaxSBOM = 4 << 20

// ManifestFormat is the only value of "format" that this program understands.
const ManifestFormat = 1

// Limits of a manifest. A manifest beyond any of them is refused, so that even
// a hostile one with a good signature costs bounded memory, inodes and time.
const (
	MaxManifest  = 32 << 20      // bytes of JSON; 65,536 entries of 300 bytes are 20 MB
	MaxSignature = 4 << 10       // bytes; minisign's own are about 300
	MaxEntries   = 1 << 16       // the inodes of a 1 GiB ext4 partition
	MaxFrames    = 1 << 17       // a frame an entry, and as many again for large files
	MaxPath      = 1023          // bytes; below a root of 3 KiB it still fits Linux' PATH_MAX of 4096
	MaxName      = 255           // bytes of one component; NAME_MAX of ext4, xfs, btrfs
	MaxDepth     = 64            // components; each is a directory to walk through
	MaxFileSize  = 1<<33 - 1     // bytes; what the 11 octal digits of a tar header can say
	MaxTreeSize  = 1 << 40       // bytes; more than any device, less than any overflow
	MaxFrameSize = 4 << 20       // bytes of tar stream in one frame; bounds the memory of a decoder
	maxFrameLen  = 4<<20 + 1<<14 // compressed bytes: what zstd makes of 4 MiB that do not shrink
	maxParsed    = 44 << 20      // bytes in memory, the JSON included; with all else that an install needs, below 64 MiB
	maxString    = 6<<10 + 1<<11 // bytes of one string in JSON: each of a path's may be written as six
	maxNumber    = 64            // bytes of a number
	maxNesting   = 32            // objects and lists in one another; 3 are needed
	maxModels    = 64
	maxRevoked   = 64 // revoked keys in one manifest
	maxServices  = 64
	maxWord      = 64 // bytes of a model; of a version too
)

// A Manifest says what a version is, whom it is for and every byte of it. It is
// what the signature signs: everything else in a bundle or snapshot is checked
// against it. One made by ParseManifest holds what the doc of ParseManifest says.
type Manifest struct {
	Format   int        `json:"format"`              // ManifestFormat
	Models   []string   `json:"models"`              // the devices it is for; at least one
	Version  string     `json:"version"`             // see ValidVersion
	Release  int64      `json:"release"`             // counts up with each release, for "is it older?"; 0: not counted
	NotAfter *time.Time `json:"not_after,omitempty"` // nil: never expires
	Services []string   `json:"services,omitempty"`  // systemd services that start from it; empty: those of the device's configuration
	// RevokedKeys are the IDs of keys (see ValidKeyID) whose bundles a device
	// refuses from now on, also where the public key still lies in its directory. A
	// device remembers them for ever once it has admitted the bundle; the key that
	// signed the bundle cannot be among them.
	RevokedKeys []string `json:"revoked_keys,omitempty"`

	Size    int64   `json:"size"`             // sum of the file sizes, bytes
	Entries []Entry `json:"entries"`          // parents before what is in them, in the order of the bundle's members
	Frames  []Frame `json:"frames,omitempty"` // of the bundle's payload, in order and without gaps
}

// An EntryType is what an entry is. Nothing else can be in a snapshot.
type EntryType string

const (
	TypeDir  EntryType = "dir"  // a directory
	TypeFile EntryType = "file" // a regular file
	TypeLink EntryType = "link" // a symbolic link
)

// An Entry is one directory, file or symbolic link of a version.
type Entry struct {
	Path string    `json:"path"` // from the snapshot's root, slashes between components
	Type EntryType `json:"type"`
	Mode Mode      `json:"mode,omitzero"` // of files and directories; a link has none
	// External is a link that may be absolute or leave the tree. It is made as it is,
	// and ota-apply and ota-guardian do not follow it.
	External bool   `json:"external,omitempty"`
	Size     int64  `json:"size,omitempty"`   // of a file, bytes
	SHA256   string `json:"sha256,omitempty"` // of a file, 64 lower-case hex digits
	Target   string `json:"target,omitempty"` // of a link
}

// A Frame is one zstd frame of a bundle's payload.
type Frame struct {
	Offset int64  `json:"offset"` // of its first byte, from the payload's start
	Length int64  `json:"length"` // compressed bytes
	Size   int64  `json:"size"`   // bytes of tar stream that it decodes to, at most MaxFrameSize
	SHA256 string `json:"sha256"` // of the compressed bytes
}

// A Mode is the nine permission bits, in JSON four octal digits: "0755". There
// is no way to say setuid, setgid or sticky.
type Mode uint16

// Perm is m as package os wants it.
func (m Mode) Perm() fs.FileMode { return fs.FileMode(m) & fs.ModePerm }

func (m Mode) String() string { return fmt.Sprintf("%04o", uint16(m)) }

// MarshalText makes "0755".
func (m Mode) MarshalText() ([]byte, error) {
	if m > 0o777 {
		return nil, fmt.Errorf("mode %v is more than permission bits", m)
	}
	return []byte(m.String()), nil
}

// UnmarshalText reads exactly what MarshalText makes.
func (m *Mode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 16)
	if err != nil || len(text) != 4 {
		return fmt.Errorf("mode %.20q is not four octal digits", text)
	}
	if n > 0o777 {
		return fmt.Errorf("mode %q has setuid, setgid or sticky", text)
	}
	*m = Mode(n)
	return nil
}

// ParseManifest reads a manifest and refuses one that could do harm or is not
// whole: wrong format; names that are absolute, hold "..", ".", an empty
// component, NUL or other control characters, are too long or not UTF-8; duplicates;
// an entry whose parent is missing, comes later or is not a directory; anything at
// or below .ota; links that are absolute or leave the tree, lexically or by way of
// other links, and are not External; sizes that are negative, too large or do not
// add up; frames that overlap, leave gaps or are too large. A link to nothing is
// allowed if it would be inside the tree. Names that differ only in case are: whether
// a store keeps them apart is seen there.
//
// Keys that it does not know are allowed, as a newer ota-bundle may write them;
// what must not be ignored gets a new "format". Keys are lower case and each
// stands once in its object, so that no other JSON reader sees another manifest.
// What a list holds is counted before anything is made of it.
//
// It says nothing about who made raw: check the signature first. Errors are
// *Error with ExitDamaged and CodeInvalidManifest.
func ParseManifest(raw []byte) (*Manifest, error) {
	m, err := parseManifest(raw)
	if err != nil {
		return nil, Errorf(ExitDamaged, CodeInvalidManifest, "manifest refused: %w", err)
	}
	return m, nil
}

func parseManifest(raw []byte) (*Manifest, error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("it is %d bytes long, at most %d are allowed", len(raw), MaxManifest)
	}
	// encoding/json would turn bad UTF-8 into U+FFFD: two names into one.
	if !utf8.Valid(raw) {
		return nil, errors.New("it is not UTF-8")
	}
	var scan jsonScan
	if err := scan.run(raw); err != nil {
		return nil, err
	}
	m := &Manifest{Entries: make([]Entry, 0, scan.listed["entries"]), Frames: make([]Frame, 0, scan.listed["frames"])}
	err := scan.badKey
	if err == nil {
		err = ReadJSON(raw, m)
	}
	if err != nil || m.Format != ManifestFormat {
		// A newer format may give the other fields other types: look at it alone.
		return nil, explainFormat(raw, err)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// explainFormat says why raw, for which ReadJSON gave err, is not a
// manifest of the known format.
func explainFormat(raw []byte, err error) error {
	var head struct {
		Format *int `json:"format"`
	}
	switch headErr := ReadJSON(raw, &head); {
	case headErr != nil:
		return fmt.Errorf("not a manifest: %v", headErr)
	case head.Format == nil:
		return errors.New(`it has no "format"`)
	case *head.Format != ManifestFormat:
		return fmt.Errorf("format %d is not known, only %d is", *head.Format, ManifestFormat)
	}
	return fmt.Errorf("not a manifest: %v", err)
}

// Digest names a version by its content, however it is called: "sha256:" and
// the hash of the manifest's bytes, which hold the hashes of all files.
func Digest(rawManifest []byte) string {
	sum := sha256.Sum256(rawManifest)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// ValidDigest reports whether s can be a Digest.
func ValidDigest(s string) bool {
	sum, ok := strings.CutPrefix(s, "sha256:")
	return ok && checkHash(sum) == nil
}

// ReadManifest reads the manifest of the snapshot in dir. It does not check the
// signature. It follows no link below dir and never blocks on a FIFO. Errors that are
// not Inconclusive are *Error with ExitDamaged; fs.ErrNotExist is in them if the file is
// missing.
func ReadManifest(dir string) (raw []byte, m *Manifest, err error) {
	raw, err = ReadSnapshotFile(dir, ManifestPath, MaxManifest)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, Errorf(ExitDamaged, CodeInvalidManifest, "cannot read the manifest: %w", err).
				WithAdvice("if version 0.1 of ota-guardian adopted it: `ota-guardian adopt` makes the manifest")
		}
		return nil, nil, damage(CodeInvalidManifest, fmt.Errorf("cannot read the manifest: %w", err))
	}
	m, err = ParseManifest(raw)
	if err != nil {
		return nil, nil, err
	}
	return raw, m, nil
}

// ReadSnapshotFile reads a small file of the snapshot in dir, at most max bytes.
// path must be a regular file and no component of it a link.
func ReadSnapshotFile(dir, path string, max int64) ([]byte, error) {
	root, err := openDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	dirs := Dirs{root: root}
	defer dirs.Close()
	name := filepath.Join(dir, path)
	return retried(func() ([]byte, error) {
		f, err := dirs.openFile(path, 0)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return readOpened(f, name, max)
	})
}
