package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// A recipe bakes a bundle in memory, signed, with one thing or another done
// wrong. Without changes it is the bundle that Create would make. Each change
// is made after the step before it was done right, so that everything else fits:
// hashes are of the changed bytes, and the signature is good.
type recipe struct {
	entries []bootcheck.Entry // without hashes and the frames
	content map[string]string // of the files

	member   func(path string, tar []byte) []byte // one member, header to padding
	stream   func(tar []byte) []byte              // all members, without the end
	end      func(tar []byte) []byte              // the archive's end
	cuts     func(sizes []int64) []int64          // the sizes of the frames
	frame    func(i int, tar []byte) []byte       // compresses one frame
	payload  func(frames [][]byte) [][]byte       // after they are in the manifest
	manifest func(m *bootcheck.Manifest)
	json     func(raw []byte) []byte // before it is signed
	signed   func(raw, sig []byte) ([]byte, []byte)
	head     func(tar []byte) []byte
	headZstd func(head []byte) []byte
	bundle   func(b []byte) []byte
}

// testKey is the same in every run, as the golden bundle is signed with it. It
// signs nothing outside of tests.
var testKey = func() (key minisign.PrivateKey) {
	text, err := os.ReadFile("testdata/test.key")
	if err == nil {
		err = key.UnmarshalText(text)
	}
	if err != nil {
		panic(err)
	}
	return key
}()

func testKeys() *trust.Keys {
	return trust.These(testKey.Public().(minisign.PublicKey))
}

// bigFile needs several frames; its content does not shrink to nothing.
var bigFile = func() string {
	b := make([]byte, 0, 9<<20)
	sum := sha256.Sum256(nil)
	for len(b) < 9<<20-100 {
		sum = sha256.Sum256(sum[:])
		b = append(b, bytes.Repeat(sum[:], 16)...)
	}
	return string(b) + "and padding"
}()

// baseRecipe has files, directories, links, a long name and a file of several
// frames.
func baseRecipe() *recipe {
	long := "long/" + string(bytes.Repeat([]byte("n"), 120))
	return &recipe{
		entries: []bootcheck.Entry{
			{Path: "bin", Type: bootcheck.TypeDir, Mode: 0o755},
			{Path: "bin/app", Type: bootcheck.TypeFile, Mode: 0o755},
			{Path: "bin/link", Type: bootcheck.TypeLink, Target: "../etc/conf"},
			{Path: "etc", Type: bootcheck.TypeDir, Mode: 0o750},
			{Path: "etc/conf", Type: bootcheck.TypeFile, Mode: 0o640},
			{Path: "etc/empty", Type: bootcheck.TypeFile, Mode: 0o644},
			{Path: "long", Type: bootcheck.TypeDir, Mode: 0o755},
			{Path: long, Type: bootcheck.TypeFile, Mode: 0o644},
			{Path: "ünïcode", Type: bootcheck.TypeLink, Target: long},
		},
		content: map[string]string{"bin/app": "#!/bin/sh\n", "etc/conf": "answer = 42\n", "etc/empty": "", long: "x"},
	}
}

// bigRecipe adds a file of three frames in the middle.
func bigRecipe() *recipe {
	r := baseRecipe()
	r.entries = append(r.entries[:5:5], append([]bootcheck.Entry{{Path: "etc/big", Type: bootcheck.TypeFile, Mode: 0o644}}, r.entries[5:]...)...)
	r.content["etc/big"] = bigFile
	return r
}

func (r *recipe) bake(t testing.TB) []byte {
	t.Helper()
	m := &bootcheck.Manifest{Format: 1, Models: []string{"tope-x1"}, Version: "1.2.0", Release: 3, Entries: append([]bootcheck.Entry(nil), r.entries...)}
	var stream []byte
	for i := range m.Entries {
		e := &m.Entries[i]
		content := r.content[e.Path]
		if e.Type == bootcheck.TypeFile {
			sum := sha256.Sum256([]byte(content))
			e.Size, e.SHA256 = int64(len(content)), hex.EncodeToString(sum[:])
			m.Size += e.Size
		}
		tar := entryMember(e).appendHeader(nil)
		tar = append(tar, content...)
		tar = append(tar, make([]byte, roundUp(e.Size)-e.Size)...)
		if r.member != nil {
			tar = r.member(e.Path, tar)
		}
		stream = append(stream, tar...)
	}
	if r.stream != nil {
		stream = r.stream(stream)
	}
	end := make([]byte, endSize)
	if r.end != nil {
		end = r.end(end)
	}
	stream = append(stream, end...)

	sizes := cutFrames(m.Entries, groupSize)
	if r.cuts != nil {
		sizes = r.cuts(sizes)
	}
	// What the changes made more or less goes to the frame before the end.
	var sum int64
	for _, n := range sizes {
		sum += n
	}
	if len(sizes) > 1 {
		sizes[len(sizes)-2] += int64(len(stream)) - sum
	}
	var frames [][]byte
	var offset int64
	for i, n := range sizes {
		n = min(n, int64(len(stream)))
		var packed []byte
		if r.frame != nil {
			packed = r.frame(i, stream[:n])
		}
		if packed == nil {
			packed = compress(t, stream[:n])
		}
		stream = stream[n:]
		sum := sha256.Sum256(packed)
		frames = append(frames, packed)
		m.Frames = append(m.Frames, bootcheck.Frame{Offset: offset, Length: int64(len(packed)), Size: n, SHA256: hex.EncodeToString(sum[:])})
		offset += int64(len(packed))
	}
	if r.payload != nil {
		frames = r.payload(frames)
	}
	if r.manifest != nil {
		r.manifest(m)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if r.json != nil {
		raw = r.json(raw)
	}
	sig := Sign(testKey, raw, m.Version)
	if r.signed != nil {
		raw, sig = r.signed(raw, sig)
	}
	head := append(headMember(bootcheck.ManifestPath, raw), headMember(bootcheck.SignaturePath, sig)...)
	if r.head != nil {
		head = r.head(head)
	}
	packed := compress(t, head)
	if r.headZstd != nil {
		packed = r.headZstd(packed)
	}
	b := append(encodePrefix(len(packed)), packed...)
	for _, f := range frames {
		b = append(b, f...)
	}
	if r.bundle != nil {
		b = r.bundle(b)
	}
	return b
}

// compressor is made once: its tables are large.
var compressor = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
})

func compress(t testing.TB, b []byte) []byte {
	t.Helper()
	enc, err := compressor()
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(b, nil)
}

// set changes bytes of a tar header and puts its checksum right.
func set(tar []byte, offset int, value string) []byte {
	tar = append([]byte(nil), tar...)
	copy(tar[offset:], value)
	copy(tar[fieldSum[0]:], fmt.Sprintf("%06o\x00 ", checksum(tar[:blockSize])))
	return tar
}

// header makes a bare header of any kind.
func header(name string, kind byte, size int64, link string) []byte {
	return member{name: name, mode: 0o644, kind: kind, size: size, link: link}.appendHeader(nil)
}
