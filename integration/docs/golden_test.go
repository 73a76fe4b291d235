package docs

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/tope-ota/ota/integration/try"
)

// goldenDump is the golden bundle byte by byte. It shares no code with the package
// that reads bundles: whatever a line says was looked up in the file by its own
// means, and what does not hold fails the test.
func goldenDump(t *testing.T) string {
	defer try.Fatal(t)
	file := try.Get(os.ReadFile(filepath.Join(root(t), "applier/bundle/testdata/golden-v1.ota")))
	d := &dump{t: t}
	le := binary.LittleEndian
	d.b.WriteString("```text\n")
	d.title("The file, %d bytes", len(file))
	headLength := le.Uint64(file[16:])
	d.field(file, 0, 4, "magic of a zstd skippable frame, %#x", le.Uint32(file))
	d.field(file, 4, 4, "%d bytes follow in it", le.Uint32(file[4:]))
	d.field(file, 8, 4, "%q: a bundle, format 1", file[8:12])
	d.field(file, 12, 4, "flags, none")
	d.field(file, 16, 8, "length of the head, L = %d", headLength)
	payload := 24 + int(headLength)
	head := d.frame(file, 24, int(headLength), "the head")
	var manifest struct {
		Format  int
		Version string
		Size    int
		Frames  []struct {
			Offset, Length, Size int
			SHA256               string
		}
	}

	var all []byte
	rest := head
	var raw, sig []byte
	for _, name := range []string{".ota/manifest.json", ".ota/manifest.json.minisig"} {
		size := octal(t, rest[124:135])
		if got := string(bytes.TrimRight(rest[:100], "\x00")); got != name {
			t.Fatalf("the head has a member %q, want %q", got, name)
		}
		if raw == nil {
			raw = rest[512 : 512+size]
		} else {
			sig = rest[512 : 512+size]
		}
		rest = rest[512+(size+511)/512*512:]
	}
	if len(rest) != 0 {
		t.Fatalf("%d bytes follow the head's two members", len(rest))
	}
	try.Check(json.Unmarshal(raw, &manifest))
	at := payload
	for i, f := range manifest.Frames {
		if payload+f.Offset != at {
			t.Fatalf("frame %d begins at %d, want %d", i, payload+f.Offset, at)
		}
		sum := sha256.Sum256(file[at : at+f.Length])
		if hex.EncodeToString(sum[:]) != f.SHA256 {
			t.Fatalf("frame %d: sha256 %x, the manifest says %s", i, sum, f.SHA256)
		}
		data := d.frame(file, at, f.Length, fmt.Sprintf("frame %d of the payload, as the manifest says: offset %d, sha256 %.8s…", i, f.Offset, f.SHA256))
		if len(data) != f.Size {
			t.Fatalf("frame %d decodes to %d bytes, want %d", i, len(data), f.Size)
		}
		all = append(all, data...)
		at += f.Length
	}
	if at != len(file) {
		t.Fatalf("the file has %d bytes, its frames end at %d", len(file), at)
	}
	d.line(at, "", "the end: one more byte and the bundle is refused")

	d.title("The head, decoded: %d bytes", len(head))
	d.member(head, 0)
	d.line(512, "", "the manifest, %d bytes: format %d, version %s, %d bytes of files; then zeros", len(raw), manifest.Format, manifest.Version, manifest.Size)
	second := 512 + (len(raw)+511)/512*512
	d.member(head, second)
	d.line(second+512, "", "the signature, %d bytes: what minisign writes; then zeros", len(sig))
	key, err := base64.StdEncoding.DecodeString(strings.Split(string(sig), "\n")[1])
	if err != nil || len(key) != 74 || string(key[:2]) != "ED" {
		t.Fatalf("the signature is no minisign signature of a prehashed message: %q, %v", sig, err)
	}
	d.line(second+512, "", "  in base64: %q, key ID %016X, 64 bytes of Ed25519 over BLAKE2b-512", key[:2], le.Uint64(key[2:]))

	d.title("The payload, decoded: %d bytes", len(all))
	members := 0
	for at := 0; at < len(all)-1024; members++ {
		size := octal(t, all[at+124:at+135])
		name := string(bytes.TrimRight(all[at:at+100], "\x00"))
		what := map[byte]string{'0': "file", '2': "link", '5': "directory", 'x': "pax header"}[all[at+156]]
		text := fmt.Sprintf("%s %.40q, mode %s", what, name, all[at+100:at+107])
		switch {
		case all[at+156] == 'x':
			text += fmt.Sprintf(", %d bytes: %.24q…", size, all[at+512:at+512+size])
		case size > 0:
			text += fmt.Sprintf(", %d bytes at %08x", size, at+512)
		case all[at+156] == '2':
			text += fmt.Sprintf(" -> %q", bytes.TrimRight(all[at+157:at+257], "\x00"))
		}
		d.line(at, "", "%s", text)
		at += 512 + (size+511)/512*512
	}
	if members == 0 || len(bytes.Trim(all[len(all)-1024:], "\x00")) != 0 {
		t.Fatalf("%d members, and the end of the archive is not 1024 zeros", members)
	}
	d.line(len(all)-1024, "", "the end of the archive: 1024 zeros")
	d.b.WriteString("```\n")
	return d.b.String()
}

type dump struct {
	t *testing.T
	b strings.Builder
}

func (d *dump) title(format string, args ...any) {
	if d.b.Len() > len("```text\n") {
		d.b.WriteString("\n")
	}
	fmt.Fprintf(&d.b, format+"\n\n", args...)
}

func (d *dump) line(at int, bytes, format string, args ...any) {
	fmt.Fprintf(&d.b, "%08x  %-23s  %s\n", at, bytes, fmt.Sprintf(format, args...))
}

// field shows n bytes at an offset, at most 8 of them.
func (d *dump) field(data []byte, at, n int, format string, args ...any) {
	shown := fmt.Sprintf("% x", data[at:at+min(n, 8)])
	if n > 8 {
		shown = fmt.Sprintf("% x …", data[at:at+7])
	}
	d.line(at, shown, format, args...)
}

// frame shows a zstd frame of n bytes and returns what it decodes to.
func (d *dump) frame(file []byte, at, n int, what string) []byte {
	d.t.Helper()
	frame := file[at : at+n]
	var h zstd.Header
	if err := h.Decode(frame); err != nil || h.Skippable || !h.HasFCS || h.DictionaryID != 0 {
		d.t.Fatalf("%s: no zstd frame that names its size and no dictionary: %+v, %v", what, h, err)
	}
	r, err := zstd.NewReader(nil)
	if err != nil {
		d.t.Fatal(err)
	}
	defer r.Close()
	data, err := r.DecodeAll(frame, nil)
	if err != nil || uint64(len(data)) != h.FrameContentSize {
		d.t.Fatalf("%s: %d bytes, %v, it says %d", what, len(data), err, h.FrameContentSize)
	}
	d.field(file, at, 4, "%s: a zstd frame of %d bytes", what, n)
	d.field(file, at+4, h.HeaderSize-4, "  its header: decodes to %d bytes, no dictionary", h.FrameContentSize)
	d.field(file, at+h.HeaderSize, n-h.HeaderSize, "  its blocks%s", map[bool]string{true: ", and a checksum"}[h.HasCheckSum])
	return data
}

// member shows a tar header, field by field.
func (d *dump) member(data []byte, at int) {
	h := data[at : at+512]
	for _, f := range []struct {
		at, n int
		what  string
	}{
		{0, 100, "name %q"}, {100, 8, "mode %q"}, {108, 8, "uid %q"}, {116, 8, "gid %q"}, {124, 12, "size %q, octal"},
		{136, 12, "mtime %q"}, {148, 8, "checksum %q"}, {156, 1, "type %q: a file"}, {257, 8, "magic %q"},
	} {
		d.field(data, at+f.at, f.n, f.what, strings.TrimRight(string(h[f.at:f.at+f.n]), "\x00 "))
	}
}

func octal(t *testing.T, digits []byte) int {
	t.Helper()
	n, err := strconv.ParseInt(string(digits), 8, 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}
