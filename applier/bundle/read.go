package bundle

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A Head is the beginning of a bundle, as ReadHead leaves it: nothing in it is
// to be trusted before Verify.
type Head struct {
	RawManifest   []byte // JSON
	Signature     []byte // text of minisign; may be empty
	PayloadOffset int64  // where the payload begins in the bundle, bytes
	size          int64  // of the whole bundle; -1: not known
}

// NewHead is the head of a bundle that is not here: of its manifest and its signature alone.
// Where the payload begins is not known.
func NewHead(rawManifest, signature []byte) *Head {
	return &Head{RawManifest: rawManifest, Signature: signature, size: -1}
}

// ReadHead reads the head of the bundle in r. size is the length of the bundle,
// or -1 if that is not known yet: HeadSize bytes are enough. At most MaxHead
// bytes are read and bootcheck.MaxManifest and a little are decoded, also if
// the bundle says more. Errors are *bootcheck.Error with ExitDamaged, or those of r.
func ReadHead(r io.ReaderAt, size int64) (*Head, error) {
	var prefix [PrefixSize]byte
	n, err := r.ReadAt(prefix[:], 0)
	if n < PrefixSize && err != nil && err != io.EOF {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	total, err := HeadSize(prefix[:n])
	if err != nil {
		return nil, err
	}
	if size >= 0 && size < total {
		return nil, damaged(bootcheck.CodeSizeMismatch, "the bundle is cut off: it has %d bytes, its head alone %d", size, total)
	}
	compressed := make([]byte, total-PrefixSize)
	if err := ReadFull(r, "bundle", compressed, PrefixSize); err != nil {
		return nil, fmt.Errorf("cannot read the bundle's head: %w", err)
	}
	decoded, err := DecodeFrame(compressed, maxHeadSize)
	if err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "the bundle's head is damaged: %v", err)
	}
	raw, sig, err := splitHead(decoded)
	if err != nil {
		return nil, damaged(bootcheck.CodeInvalidManifest, "the bundle's head is damaged: %v", err)
	}
	return &Head{RawManifest: raw, Signature: sig, PayloadOffset: total, size: size}, nil
}

// A File is a bundle in a file.
type File struct {
	*os.File
	*Head
}

// OpenFile opens the bundle in the file name, and reads its head: see ReadHead.
func OpenFile(name string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	st, err := f.Stat()
	var h *Head
	if err == nil {
		h, err = ReadHead(f, st.Size())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &File{f, h}, nil
}

// splitHead takes the two members out of the decoded head.
func splitHead(tar []byte) (raw, sig []byte, err error) {
	raw, tar, err = cutMember(tar, bootcheck.ManifestPath, bootcheck.MaxManifest)
	if err != nil {
		return nil, nil, err
	}
	sig, tar, err = cutMember(tar, bootcheck.SignaturePath, bootcheck.MaxSignature)
	if err != nil {
		return nil, nil, err
	}
	if len(tar) != 0 {
		return nil, nil, fmt.Errorf("%d bytes follow the signature", len(tar))
	}
	return raw, sig, nil
}

// Verify checks the signature, then, and only then, parses the manifest and
// checks that its frames can hold its entries and, if the bundle's length is
// known, that they fill it, and that it does not revoke the key that signed it,
// keyID. Errors are
// *bootcheck.Error: ExitRefused for the signature, else ExitDamaged.
func (h *Head) Verify(keys *trust.Keys) (m *bootcheck.Manifest, keyID string, err error) {
	keyID, err = keys.Verify(h.RawManifest, h.Signature)
	if err != nil {
		return nil, "", err
	}
	m, err = h.Parse()
	if err != nil {
		return nil, "", err
	}
	// A device would lose the key that it is updated with, perhaps its last.
	if slices.Contains(keys.Twins(m.RevokedKeys), keyID) {
		return nil, "", bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeInvalidManifest,
			"version %s is refused: it revokes key %s, with which it is signed", m.Version, keyID).
			WithAdvice("a key is revoked by a bundle that is signed with another one")
	}
	return m, keyID, nil
}

// Parse is Verify without the signature, for programs that only show what a
// bundle says of itself.
func (h *Head) Parse() (*bootcheck.Manifest, error) {
	m, err := bootcheck.ParseManifest(h.RawManifest)
	if err != nil {
		return nil, err
	}
	if _, err := planFrames(m); err != nil {
		return nil, err
	}
	switch want := h.Size(m); {
	case h.size >= 0 && h.size < want:
		return nil, damaged(bootcheck.CodeSizeMismatch, "the bundle is cut off: it has %d bytes, its manifest says %d", h.size, want)
	case h.size > want:
		return nil, damaged(bootcheck.CodeSizeMismatch, "%d bytes follow the end of the bundle", h.size-want)
	}
	return m, nil
}

// ReadFile is the content of the file path, of the bundle r whose manifest is m. Frames and
// content are checked with m, and only those that hold it are read. path must be a file of
// m of at most max bytes, else the error says what is wrong; fs.ErrNotExist is in it if
// there is none.
func (h *Head) ReadFile(ctx context.Context, r io.ReaderAt, m *bootcheck.Manifest, path string, max int64) ([]byte, error) {
	i := slices.IndexFunc(m.Entries, func(e bootcheck.Entry) bool { return e.Path == path })
	if i < 0 || m.Entries[i].Type != bootcheck.TypeFile {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fs.ErrNotExist}
	}
	e := &m.Entries[i]
	if e.Size > max {
		return nil, fmt.Errorf("%s is %d bytes long, at most %d are allowed", path, e.Size, max)
	}
	files := newFiles(m, nil, slices.Repeat([]bool{true}, len(m.Entries)), nil)
	files.have[i] = false
	files.keep = make([]byte, e.Size)
	return files.keep, h.Maker(r, nil)(ctx, files)
}

// Size is the length of the whole bundle whose manifest is m, bytes.
func (h *Head) Size(m *bootcheck.Manifest) int64 { return h.PayloadOffset + payloadSize(m) }

func payloadSize(m *bootcheck.Manifest) int64 {
	if len(m.Frames) == 0 {
		return 0
	}
	last := m.Frames[len(m.Frames)-1]
	return last.Offset + last.Length
}

// ReadFull fills b from r, a "bundle" or a "patch", at offset. Its end is an *bootcheck.Error,
// every other error is r's own.
func ReadFull(r io.ReaderAt, what string, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case err == nil || err == io.EOF: // one that wraps it is of a download whose connection ended
		return damaged(bootcheck.CodeSizeMismatch, "the %s is cut off after %d bytes", what, offset+int64(n))
	}
	return err
}

// CheckEnd fails unless r, a "bundle" or a "patch", ends at offset, where what was signed does.
func CheckEnd(r io.ReaderAt, what string, offset int64) error {
	n, err := r.ReadAt(make([]byte, 1), offset)
	switch {
	case n > 0:
		return damaged(bootcheck.CodeSizeMismatch, "something follows the end of the %s", what)
	case err != nil && err != io.EOF:
		return fmt.Errorf("cannot read the %s: %w", what, err)
	}
	return nil
}
