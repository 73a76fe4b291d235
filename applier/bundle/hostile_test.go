package bundle

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/trust"
)

// install does what a device does with the bundle b, below a directory of its
// own, and says what it did outside the staging directory, if anything.
func install(t testing.TB, b []byte) (staged []string, err error) {
	t.Helper()
	outer := t.TempDir()
	staging := filepath.Join(outer, "versions", "staging")
	if err := os.MkdirAll(staging, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outer, "victim"), []byte("unharmed"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(staging)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	r := bytes.NewReader(b)
	sums := make(map[string]string)
	err = func() error {
		h, err := ReadHead(r, r.Size())
		if err != nil {
			return err
		}
		m, _, err := h.Verify(testKeys())
		if err != nil {
			return err
		}
		for _, e := range m.Entries {
			if e.Size < groupSize {
				sums[e.Path] = e.SHA256
			}
		}
		// The same must come out when nothing is written.
		checkErr := Check(t.Context(), r, h, m, nil)
		unpackErr := unpackTo(t.Context(), r, h, m, root, nil)
		if (checkErr == nil) != (unpackErr == nil) {
			t.Errorf("Check: %v, Unpack: %v, want both or none", checkErr, unpackErr)
		}
		if unpackErr == nil {
			if err := bootcheck.CheckTree(t.Context(), staging, m, bootcheck.Full); err != nil {
				t.Errorf("unpacked, but wrong: %v", err)
			}
		}
		return unpackErr
	}()
	walkErr := filepath.WalkDir(outer, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(outer, name)
		switch {
		case strings.HasPrefix(rel, "versions/staging/"):
			staged = append(staged, strings.TrimPrefix(rel, "versions/staging/"))
			if d.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 {
				t.Errorf("%s is a %v", rel, d.Type())
			}
			// Also if something else is wrong, a small file is right or is not there.
			if want, ok := sums[strings.TrimPrefix(rel, "versions/staging/")]; ok && want != "" {
				content, err := os.ReadFile(name)
				if got := strings.TrimPrefix(bootcheck.Digest(content), "sha256:"); err != nil || got != want {
					t.Errorf("%s was written with sha256 %s, %v, want %s", rel, got, err, want)
				}
			}
		case !slices.Contains([]string{".", "victim", "versions", "versions/staging"}, rel):
			t.Errorf("%s appeared outside the staging directory", rel)
		}
		return nil
	})
	if walkErr != nil {
		t.Error(walkErr)
	}
	if got, err := os.ReadFile(filepath.Join(outer, "victim")); err != nil || string(got) != "unharmed" {
		t.Errorf("the file outside is now %q, %v", got, err)
	}
	return staged, err
}

func TestGoodRecipes(t *testing.T) {
	for name, r := range map[string]*recipe{"base": baseRecipe(), "big": bigRecipe()} {
		t.Run(name, func(t *testing.T) {
			if _, err := install(t, r.bake(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

func entry(path string, typ bootcheck.EntryType, target string) bootcheck.Entry {
	e := bootcheck.Entry{Path: path, Type: typ, Target: target}
	if typ != bootcheck.TypeLink {
		e.Mode = 0o755
	}
	return e
}

func file(path string) bootcheck.Entry { return entry(path, bootcheck.TypeFile, "") }
func dir(path string) bootcheck.Entry  { return entry(path, bootcheck.TypeDir, "") }
func external(path, target string) bootcheck.Entry {
	e := link(path, target)
	e.External = true
	return e
}

func link(path, target string) bootcheck.Entry { return entry(path, bootcheck.TypeLink, target) }

func TestHostile(t *testing.T) {
	const (
		no      = bootcheck.CodeInvalidManifest
		badHash = bootcheck.CodeHashMismatch
		badSize = bootcheck.CodeSizeMismatch
		badSign = bootcheck.CodeSignatureInvalid
	)
	// Changes of a recipe, by what they touch.
	with := func(e ...bootcheck.Entry) func(r *recipe) {
		return func(r *recipe) { r.entries = append(r.entries, e...) }
	}
	manifest := func(f func(m *bootcheck.Manifest)) func(r *recipe) {
		return func(r *recipe) { r.manifest = f }
	}
	text := func(old, new string) func(r *recipe) {
		return func(r *recipe) {
			r.json = func(raw []byte) []byte {
				if !bytes.Contains(raw, []byte(old)) {
					t.Fatalf("%s is not in the manifest", old)
				}
				return bytes.Replace(raw, []byte(old), []byte(new), 1)
			}
		}
	}
	// app changes the member bin/app.
	app := func(f func(tar []byte) []byte) func(r *recipe) {
		return func(r *recipe) {
			r.member = func(path string, tar []byte) []byte {
				if path == "bin/app" {
					return f(tar)
				}
				return tar
			}
		}
	}
	at := func(offset int, value string) func(r *recipe) {
		return app(func(tar []byte) []byte { return set(tar, offset, value) })
	}
	frame0 := func(f func(tar []byte) []byte) func(r *recipe) {
		return func(r *recipe) {
			r.frame = func(i int, tar []byte) []byte {
				if i == 0 {
					return f(tar)
				}
				return nil
			}
		}
	}
	bundle := func(f func(b []byte) []byte) func(r *recipe) {
		return func(r *recipe) { r.bundle = f }
	}
	put32 := func(offset int, v uint32) func(r *recipe) {
		return bundle(func(b []byte) []byte { binary.LittleEndian.PutUint32(b[offset:], v); return b })
	}
	head := func(f func(tar []byte) []byte) func(r *recipe) { return func(r *recipe) { r.head = f } }
	many := make([]bootcheck.Entry, 100_000)
	for i := range many {
		many[i] = file(fmt.Sprint("f", i))
	}

	for _, row := range []struct {
		name   string
		change func(r *recipe)
		exit   bootcheck.ExitCode // 0: ExitDamaged
		code   string
		want   string
		writes bool // it may write in the staging directory before it is refused
	}{
		// The first 24 bytes.
		{name: "nothing", change: bundle(func([]byte) []byte { return nil }), code: badSize, want: "not a bundle: it has 0 bytes"},
		{name: "a web page", change: bundle(func([]byte) []byte { return []byte("<!DOCTYPE html><html><body>log in first</body></html>") }), code: no, want: "not a bundle: its first bytes are not those of one"},
		{name: "a plain .tar.zst", change: bundle(func(b []byte) []byte { return b[PrefixSize:] }), code: no, want: "not a bundle"},
		{name: "a skippable frame of another length", change: put32(4, 17), code: no, want: "not a bundle"},
		{name: "a later format", change: bundle(func(b []byte) []byte { b[11] = '2'; return b }), code: no, want: `format is "OTA2"`},
		{name: "an unknown flag", change: put32(12, 1), code: no, want: "flags 0x1"},
		{name: "a head of nothing", change: put32(16, 0), code: no, want: "head has 0 bytes"},
		{name: "a head of 2 GiB", change: put32(16, 1<<31), code: no, want: "1 to 16777216 are allowed"},
		{name: "a head of 2^63 bytes", change: put32(20, 1<<31), code: no, want: "1 to 16777216 are allowed"},
		{name: "a head longer than the file", change: put32(16, 1<<20), code: badSize, want: "cut off"},
		{name: "a head one byte short", change: bundle(func(b []byte) []byte { b[16]--; return b }), code: no, want: "cut off"},
		{name: "a head one byte long", change: bundle(func(b []byte) []byte { b[16]++; return b }), code: no, want: "after the end of a zstd frame"},

		// The head.
		{name: "random bytes as a head", change: func(r *recipe) {
			r.headZstd = func(h []byte) []byte { return bytes.Repeat([]byte{0xa5}, len(h)) }
		}, code: no, want: "not a zstd frame"},
		{name: "a skippable frame as a head", change: func(r *recipe) {
			r.headZstd = func(h []byte) []byte { return encodePrefix(1) }
		}, code: no, want: "skippable"},
		{name: "two frames as a head", change: func(r *recipe) {
			r.headZstd = func(h []byte) []byte { return append(h, h...) }
		}, code: no, want: "after the end of a zstd frame"},
		{name: "a head that says it decodes to 2^62 bytes", change: func(r *recipe) {
			r.headZstd = func([]byte) []byte { return zstdHeader(1<<62, 1<<20) }
		}, code: no, want: "are allowed"},
		{name: "a head that does not say what it decodes to", change: func(r *recipe) {
			r.headZstd = func([]byte) []byte { return zstdNoSize() }
		}, code: no, want: "does not say"},
		{name: "a head that lies about what it decodes to", change: func(r *recipe) {
			r.headZstd = func([]byte) []byte { return zstdRLE(2048, 100_000) }
		}, code: no, want: "cannot decode it"},
		{name: "a head with a huge window", change: func(r *recipe) {
			r.headZstd = func([]byte) []byte { return zstdHeader(2048, 1<<31) }
		}, code: no, want: "damaged"},
		{name: "a bomb as a head", change: func(r *recipe) {
			r.headZstd = func([]byte) []byte { return zstdRLE(1<<30, 1<<30) }
		}, code: no, want: "decodes to 1073741824 bytes"},
		{name: "a head of zeros", change: head(func(tar []byte) []byte { return make([]byte, 4096) }), code: no, want: "head is damaged"},
		{name: "a head without a signature", change: head(func(tar []byte) []byte { return tar[:len(tar)-2*blockSize] }), code: no, want: "its header is cut off"},
		{name: "a head with the members in the other order", change: head(func(tar []byte) []byte {
			return append(append([]byte(nil), tar[len(tar)-2*blockSize:]...), tar[:len(tar)-2*blockSize]...)
		}), code: no, want: ".ota/manifest.json"},
		{name: "a head with a third member", change: head(func(tar []byte) []byte { return append(tar, header(".ota/x", '0', 0, "")...) }), code: no, want: "512 bytes follow the signature"},
		{name: "a head with the end of an archive", change: head(func(tar []byte) []byte { return append(tar, make([]byte, endSize)...) }), code: no, want: "1024 bytes follow the signature"},
		{name: "a manifest that is a link", change: head(func(tar []byte) []byte { return set(tar, typeOffset, "2") }), code: no, want: "it is a symbolic link"},
		{name: "a manifest of another name", change: head(func(tar []byte) []byte { return set(tar, 0, ".ota/manifest.jsom") }), code: no, want: `in its place is ".ota/manifest.jsom"`},
		{name: "a manifest with a negative size", change: head(func(tar []byte) []byte { return set(tar, fieldSize[0], "-0000000001\x00") }), code: no, want: "is not octal"},
		{name: "a manifest with a size in base 256", change: head(func(tar []byte) []byte {
			return set(tar, fieldSize[0], "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00")
		}), code: no, want: "is not octal"},
		{name: "a manifest with a size beyond the head", change: head(func(tar []byte) []byte { return set(tar, fieldSize[0], "00000777777\x00") }), code: no, want: "its content is cut off"},
		{name: "a manifest with a size beyond all bounds", change: head(func(tar []byte) []byte { return set(tar, fieldSize[0], "77777777777\x00") }), code: no, want: "at most 33554432 are allowed"},
		{name: "a manifest with something in its padding", change: func(r *recipe) {
			r.head = func(tar []byte) []byte { tar[len(tar)-2*blockSize-1] = 1; return tar }
		}, code: no, want: "padding is not zero"},

		// The signature.
		{name: "unsigned", change: func(r *recipe) {
			r.signed = func(raw, sig []byte) ([]byte, []byte) { return raw, nil }
		}, exit: bootcheck.ExitRefused, code: badSign, want: "is not signed"},
		{name: "signed by a stranger", change: func(r *recipe) {
			r.signed = func(raw, sig []byte) ([]byte, []byte) {
				_, key, _ := minisign.GenerateKey(nil)
				return raw, minisign.Sign(key, raw)
			}
		}, exit: bootcheck.ExitRefused, code: badSign, want: "not trusted here"},
		{name: "the signature of another manifest", change: func(r *recipe) {
			r.signed = func(raw, sig []byte) ([]byte, []byte) {
				return bytes.Replace(raw, []byte("1.2.0"), []byte("1.2.1"), 1), sig
			}
		}, exit: bootcheck.ExitRefused, code: badSign, want: "is wrong"},
		{name: "a bad signature and a hostile manifest: the signature is checked first", change: func(r *recipe) {
			r.signed = func(raw, sig []byte) ([]byte, []byte) { return []byte(strings.Repeat("[", 1<<20)), sig }
		}, exit: bootcheck.ExitRefused, code: badSign, want: "is wrong"},
		{name: "the signature of another bundle's manifest", change: func(r *recipe) {
			r.signed = func(raw, sig []byte) ([]byte, []byte) { return raw, Sign(testKey, []byte("{}"), "1.2.0") }
		}, exit: bootcheck.ExitRefused, code: badSign, want: "is wrong"},
		{name: "a key that revokes itself", change: manifest(func(m *bootcheck.Manifest) {
			m.RevokedKeys = []string{trust.KeyID(testKey.ID())}
		}), exit: bootcheck.ExitRefused, code: no, want: "with which it is signed"},
		{name: "a revoked key that is none", change: manifest(func(m *bootcheck.Manifest) { m.RevokedKeys = []string{"../x"} }), code: no, want: "is not the ID of a key"},

		// The manifest. The table in package bootcheck has every refusal; here are
		// those that a bundle is made of, signed and with members that agree.
		{name: "a path with ..", change: with(file("../victim")), code: no, want: `the component ".."`},
		{name: "an absolute path", change: with(file("/tmp/victim")), code: no, want: "is absolute"},
		{name: "an empty path", change: with(file("")), code: no, want: "empty path"},
		{name: "a path with NUL", change: with(file("a\x00b")), code: no, want: "holds NUL"},
		{name: "a path of 4 KiB", change: with(file(strings.Repeat("a", 4096))), code: no, want: "longer than"},
		{name: "a path that is not UTF-8", change: text(`bin/app`, "bin/\xff\xfe"), code: no, want: "it is not UTF-8"},
		{name: "a path twice", change: with(file("bin/app")), code: no, want: "listed twice"},
		{name: "a file, then a directory of that name", change: with(dir("bin/app")), code: no, want: "listed twice"},
		{name: "a file through a link", change: with(link("l", "."), file("l/x")), code: no, want: "which is a link"},
		{name: "a file through a link out", change: with(link("l", ".."), file("l/victim")), code: no, want: "which is a link"},
		{name: "a link out", change: with(link("l", "../../victim")), code: no, want: "leaves the tree"},
		{name: "an absolute link", change: with(link("l", "/etc/passwd")), code: no, want: "is absolute"},
		{name: "a link out through another", change: with(link("bin/d", "."), link("m", "bin/d/../..")), code: no, want: "leaves the tree"},
		{name: "a link with a slash at its end", change: with(link("l", "bin/")), code: no, want: "ends in a slash"},
		{name: "a file through an external link", change: with(external("l", ".."), file("l/victim")), code: no, want: "which is a link"},
		{name: "a link through an external one", change: with(external("l", ".."), link("m", "l/victim")), code: no, want: "goes through the external link"},
		{name: "an external file", change: manifest(func(m *bootcheck.Manifest) { m.Entries[1].External = true }), code: no, want: "a file is not external"},
		{name: "links in a loop", change: with(link("l", "m"), link("m", "l")), code: no, want: "loop"},
		{name: "a manifest inside", change: with(file(".ota/manifest.json")), code: no, want: "manifest's own directory"},
		{name: "a missing parent", change: with(file("no/x")), code: no, want: "not listed before it"},
		{name: "setuid", change: text(`"0755"`, `"4755"`), code: no, want: "setuid"},
		{name: "sticky", change: text(`"0755"`, `"1755"`), code: no, want: "setuid, setgid or sticky"},
		{name: "a device in the manifest", change: text(`"type":"file"`, `"type":"char"`), code: no, want: "is not dir, file or link"},
		{name: "100,000 empty files", change: func(r *recipe) { r.entries = append(r.entries, many...) }, code: no, want: "lists more than 65536 entries"},
		{name: "another format", change: text(`"format":1`, `"format":2`), code: no, want: "format 2 is not known"},
		{name: "two versions", change: text(`"version":"1.2.0"`, `"version":"1.2.0","version":"9.9.9"`), code: no, want: "stands twice"},
		{name: "a total that lies", change: manifest(func(m *bootcheck.Manifest) { m.Size++ }), code: no, want: "but it says"},
		{name: "sizes that overflow", change: manifest(func(m *bootcheck.Manifest) { m.Entries[1].Size = 1<<63 - 1 }), code: no, want: "is not within"},

		// The frames.
		{name: "no frames", change: manifest(func(m *bootcheck.Manifest) { m.Frames = nil }), code: no, want: "lists no frames"},
		{name: "frames that overlap", change: manifest(func(m *bootcheck.Manifest) { m.Frames[1].Offset-- }), code: no, want: "frame 1 begins at"},
		{name: "frames out of order", change: manifest(func(m *bootcheck.Manifest) { m.Frames[0], m.Frames[1] = m.Frames[1], m.Frames[0] }), code: no, want: "frame 0 begins at"},
		{name: "a frame too few", change: manifest(func(m *bootcheck.Manifest) { m.Frames = m.Frames[:1] }), code: no, want: "no end of the archive"},
		{name: "a frame more", change: manifest(func(m *bootcheck.Manifest) {
			f := m.Frames[1]
			f.Offset += f.Length
			m.Frames = append(m.Frames, f)
		}), code: no, want: "after the last entry comes one frame"},
		{name: "a frame that is not a whole number of blocks", change: manifest(func(m *bootcheck.Manifest) { m.Frames[0].Size++ }), code: no, want: "not a multiple of 512"},
		{name: "a frame that is cut inside a small member", change: func(r *recipe) {
			r.cuts = func(s []int64) []int64 { return []int64{2 * blockSize, s[0] - 2*blockSize, s[1]} }
		}, code: no, want: "frame 0 ends inside"},
		{name: "a frame that is cut inside a header", change: func(r *recipe) {
			r.entries = []bootcheck.Entry{file(strings.Repeat("n", 200))}
			r.content = map[string]string{r.entries[0].Path: "x"}
			r.cuts = func(s []int64) []int64 { return []int64{blockSize, s[0] - blockSize, s[1]} }
		}, code: no, want: "frame 0 ends inside"},
		{name: "one frame with everything and the end", change: func(r *recipe) {
			r.cuts = func(s []int64) []int64 { return []int64{s[0] + s[1]} }
		}, code: no, want: "too many for the entries"},
		{name: "a frame that is changed by one bit", change: func(r *recipe) {
			r.payload = func(f [][]byte) [][]byte { f[0][len(f[0])-1] ^= 1; return f }
		}, code: badHash, want: "frame 0 of the bundle is damaged", writes: true},
		{name: "frames that were swapped", change: func(r *recipe) {
			r.payload = func(f [][]byte) [][]byte { f[0], f[1] = f[1], f[0]; return f }
		}, code: badHash, want: "of the bundle is damaged", writes: true},
		{name: "a length that lies", change: manifest(func(m *bootcheck.Manifest) { m.Frames[0].Length--; m.Frames[1].Offset--; m.Frames[1].Length++ }), code: badHash, want: "is damaged", writes: true},
		{name: "a frame that decodes to less", change: frame0(func(tar []byte) []byte { return compress(t, tar[:len(tar)-blockSize]) }), code: no, want: "frame 0 of the bundle refused", writes: true},
		{name: "a frame that decodes to more", change: frame0(func(tar []byte) []byte { return compress(t, append(bytes.Clone(tar), make([]byte, blockSize)...)) }), code: no, want: "frame 0 of the bundle refused", writes: true},
		{name: "a frame that says too little and decodes to a bomb", change: frame0(func(tar []byte) []byte { return zstdRLE(uint64(len(tar)), 1<<30) }), code: no, want: "cannot decode it", writes: true},
		{name: "a frame that is a bomb and says so", change: frame0(func(tar []byte) []byte { return zstdRLE(1<<30, 1<<30) }), code: no, want: "a zstd frame of 1073741824 bytes", writes: true},
		{name: "a frame with a window of 2 GiB", change: frame0(func(tar []byte) []byte { return zstdHeader(uint64(len(tar)), 1<<31) }), code: no, want: "cannot decode it", writes: true},
		{name: "a frame that does not say what it decodes to", change: frame0(func(tar []byte) []byte { return zstdNoSize() }), code: no, want: "does not say", writes: true},
		{name: "a frame with a dictionary", change: frame0(func(tar []byte) []byte {
			return append([]byte{0x28, 0xB5, 0x2F, 0xFD, 0x61, 77, 0, 0x10}, 1, 0, 0)
		}), code: no, want: "dictionary", writes: true},
		{name: "garbage after a frame", change: frame0(func(tar []byte) []byte { return append(compress(t, tar), "garbage"...) }), code: no, want: "7 bytes after the end of a zstd frame", writes: true},
		{name: "a second frame after a frame", change: frame0(func(tar []byte) []byte { return append(compress(t, tar[:blockSize]), compress(t, tar[blockSize:])...) }), code: no, want: "after the end of a zstd frame", writes: true},
		{name: "a skippable frame after a frame", change: frame0(func(tar []byte) []byte { return append(compress(t, tar), encodePrefix(1)...) }), code: no, want: "after the end of a zstd frame", writes: true},
		{name: "a skippable frame", change: frame0(func(tar []byte) []byte { return encodePrefix(1) }), code: no, want: "skippable", writes: true},
		{name: "gzip", change: frame0(func(tar []byte) []byte { return []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff") }), code: no, want: "not a zstd frame", writes: true},
		{name: "something after the end of the bundle", change: bundle(func(b []byte) []byte { return append(b, 0) }), code: badSize, want: "1 bytes follow the end of the bundle"},
		{name: "a second bundle after the bundle", change: bundle(func(b []byte) []byte { return append(b, b...) }), code: badSize, want: "follow the end of the bundle"},

		// The members.
		{name: "a file is a hard link", change: app(func(tar []byte) []byte { return set(set(tar, typeOffset, "1"), fieldLink[0], "../../victim") }), code: no, want: "a hard link", writes: true},
		{name: "a file is a character device", change: at(typeOffset, "3"), code: no, want: "a character device", writes: true},
		{name: "a file is a block device", change: at(typeOffset, "4"), code: no, want: "a block device", writes: true},
		{name: "a file is a FIFO", change: at(typeOffset, "6"), code: no, want: "a FIFO", writes: true},
		{name: "a file is contiguous", change: at(typeOffset, "7"), code: no, want: "member of type '7'", writes: true},
		{name: "a file is of the old type", change: at(typeOffset, "\x00"), code: no, want: `member of type '\x00'`, writes: true},
		{name: "a file is sparse", change: at(typeOffset, "S"), code: no, want: "a sparse file", writes: true},
		{name: "a file is a symbolic link", change: app(func(tar []byte) []byte { return set(set(tar, typeOffset, "2"), fieldLink[0], "/etc") }), code: no, want: "it is a symbolic link, the manifest says file", writes: true},
		{name: "a file is a directory", change: at(typeOffset, "5"), code: no, want: "it is a directory", writes: true},
		{name: "a file has another name", change: at(0, "../victim"), code: no, want: "which the manifest does not list", writes: true},
		{name: "a file has the name of another", change: at(0, "etc/conf"), code: no, want: `in its place is "etc/conf"`, writes: true},
		{name: "a file has a name after the NUL", change: at(50, "hidden"), code: no, want: "not what the format says", writes: true},
		{name: "a file has a prefix", change: at(345, "../../"), code: no, want: "not what the format says", writes: true},
		{name: "a file is setuid in tar", change: at(fieldMode[0], "0004755"), code: no, want: `mode "0004755"`, writes: true},
		{name: "a file has another mode", change: at(fieldMode[0], "0000777"), code: no, want: `mode "0000777", the manifest says 0755`, writes: true},
		{name: "a file has another size", change: at(fieldSize[0], "00000000013"), code: no, want: "size 11, the manifest says 10", writes: true},
		{name: "a file has a size that is not octal", change: at(fieldSize[0], "99999999999"), code: no, want: "is not octal", writes: true},
		{name: "a file has an owner", change: at(108, "0001750"), code: no, want: "not what the format says", writes: true},
		{name: "a file has a time", change: at(136, "14000000000"), code: no, want: "not what the format says", writes: true},
		{name: "a file has device numbers", change: at(329, "0000001"), code: no, want: "not what the format says", writes: true},
		{name: "a file has a link target", change: at(fieldLink[0], "/etc/passwd"), code: no, want: "it is a link to", writes: true},
		{name: "a file has the magic of GNU tar", change: at(fieldMagic[0], "ustar  \x00"), code: no, want: "not what the format says", writes: true},
		{name: "a file has a wrong checksum", change: app(func(tar []byte) []byte { tar[fieldSum[0]] ^= 1; return tar }), code: no, want: "tar header is damaged", writes: true},
		{name: "a file has a wrong checksum and nothing else", change: app(func(tar []byte) []byte { tar[fieldSum[1]-1] = 0; return tar }), code: no, want: "tar header is damaged", writes: true},
		{name: "a file has something in its padding", change: app(func(tar []byte) []byte { tar[len(tar)-1] = 1; return tar }), code: no, want: "padding is not zero", writes: true},
		{name: "a file has other content", change: app(func(tar []byte) []byte { tar[blockSize] ^= 1; return tar }), code: badHash, want: `file "bin/app": sha256`, writes: true},
		{name: "a link leads elsewhere", change: func(r *recipe) {
			r.member = func(path string, tar []byte) []byte {
				if path == "bin/link" {
					return set(tar, fieldLink[0], "../../../x\x00")
				}
				return tar
			}
		}, code: no, want: "it is a link to", writes: true},
		{name: "a pax record says another size", change: func(r *recipe) {
			pax := "19 size=4294967296\n"
			tar := header("././@PaxHeader", 'x', int64(len(pax)), "")
			tar = append(tar, pax...)
			tar = append(tar, make([]byte, roundUp(int64(len(pax)))-int64(len(pax)))...)
			r.stream = func(s []byte) []byte { return append(tar, s[2*blockSize:]...) }
		}, code: no, want: "a pax header that it does not need", writes: true},
		{name: "a global pax header", change: func(r *recipe) {
			r.stream = func(s []byte) []byte { return append(header("pax_global_header", 'g', 0, ""), s[blockSize:]...) }
		}, code: no, want: "a global pax header", writes: true},
		{name: "a GNU long name", change: func(r *recipe) {
			r.stream = func(s []byte) []byte { return append(header("././@LongLink", 'L', 0, ""), s[blockSize:]...) }
		}, code: no, want: "a GNU long name", writes: true},
		{name: "a pax record with another path", change: func(r *recipe) {
			r.member = func(path string, tar []byte) []byte {
				return bytes.Replace(tar, []byte("path=long/n"), []byte("path=long/m"), 1)
			}
		}, code: no, want: "its pax header is not what the format says", writes: true},
		{name: "a pax record of 1 MiB", change: func(r *recipe) {
			r.member = func(path string, tar []byte) []byte {
				if strings.HasPrefix(path, "long/") {
					return append(header("././@PaxHeader", 'x', 1<<20, ""), make([]byte, 1<<20)...)
				}
				return tar
			}
		}, code: no, want: "too many for the entries"},
		{name: "a member that the manifest does not list", change: func(r *recipe) {
			r.stream = func(s []byte) []byte { return append(s, header("more", '0', 0, "")...) }
		}, code: no, want: "too many for the entries"},
		{name: "a member in the place of the end", change: func(r *recipe) {
			r.end = func([]byte) []byte { return append(header("more", '0', 0, ""), make([]byte, blockSize)...) }
		}, code: no, want: "continues after the last entry", writes: true},
		{name: "a member that is missing", change: func(r *recipe) {
			r.stream = func(s []byte) []byte { return s[:len(s)-3*blockSize] }
		}, code: no, want: "frame 1 ends inside"},
		{name: "the archive ends early", change: func(r *recipe) {
			r.stream = func(s []byte) []byte { clear(s[3*blockSize:]); return s }
		}, code: no, want: "the archive ends before it", writes: true},
		{name: "members in another order", change: func(r *recipe) {
			r.stream = func(s []byte) []byte { return slices.Concat(s[blockSize:3*blockSize], s[:blockSize], s[3*blockSize:]) }
		}, code: no, want: `in its place is "bin/app"`, writes: true},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := baseRecipe()
			row.change(r)
			staged, err := install(t, r.bake(t))
			if err == nil {
				t.Fatal("it was installed")
			}
			if row.exit == 0 {
				row.exit = bootcheck.ExitDamaged
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("%v, want %q in it", err, row.want)
			}
			if bootcheck.Exit(err) != row.exit || bootcheck.ReportCode(err) != row.code {
				t.Errorf("%v: exit %d, code %s, want %d, %s", err, bootcheck.Exit(err), bootcheck.ReportCode(err), row.exit, row.code)
			}
			if len(staged) > 0 && !row.writes {
				t.Errorf("%v: refused, but there is %v in the staging directory", err, staged)
			}
		})
	}
}

// The same for a file that is spread over frames.
func TestHostileLargeFile(t *testing.T) {
	part := func(i int, f func(tar []byte)) func(r *recipe) {
		return func(r *recipe) {
			r.stream = func(s []byte) []byte {
				cuts := cutFrames(r.withSizes(), groupSize)
				var at int64
				for _, n := range cuts[:i] {
					at += n
				}
				f(s[at : at+cuts[i]])
				return s
			}
		}
	}
	for _, row := range []struct {
		name   string
		change func(r *recipe)
		code   string
		want   string
	}{
		{"a bit of the first part", part(1, func(b []byte) { b[1000] ^= 1 }), bootcheck.CodeHashMismatch, `file "etc/big": sha256`},
		{"a bit of the middle part", part(2, func(b []byte) { b[0] ^= 1 }), bootcheck.CodeHashMismatch, `file "etc/big": sha256`},
		{"a bit of the last part", part(3, func(b []byte) { b[0] ^= 1 }), bootcheck.CodeHashMismatch, `file "etc/big": sha256`},
		{"a bit of its padding", part(3, func(b []byte) { b[len(b)-1] ^= 1 }), bootcheck.CodeInvalidManifest, `member "etc/big": its padding is not zero`},
		{"its header", part(1, func(b []byte) { copy(b, set(b[:blockSize], 0, "etc/bug")) }), bootcheck.CodeInvalidManifest, "which the manifest does not list"},
		{"the parts are swapped", func(r *recipe) {
			r.payload = func(f [][]byte) [][]byte { f[1], f[2] = f[2], f[1]; return f }
		}, bootcheck.CodeHashMismatch, "is damaged"},
		{"its last part holds more", func(r *recipe) {
			r.cuts = func(s []int64) []int64 { return []int64{s[0], s[1], s[2], s[3] + s[4], s[5]} }
		}, bootcheck.CodeInvalidManifest, `ends "etc/big" and holds more`},
		{"its first part holds what is before", func(r *recipe) {
			r.cuts = func(s []int64) []int64 { return []int64{s[0] + blockSize, s[1] - blockSize, s[2], s[3], s[4], s[5]} }
		}, bootcheck.CodeInvalidManifest, `frame 0 ends inside "etc/big"`},
		{"its last part is missing", func(r *recipe) {
			r.manifest = func(m *bootcheck.Manifest) { m.Frames = m.Frames[:3] }
		}, bootcheck.CodeInvalidManifest, `the frames end inside "etc/big"`},
		{"its frames are missing", func(r *recipe) {
			r.manifest = func(m *bootcheck.Manifest) { m.Frames = m.Frames[:1] }
		}, bootcheck.CodeInvalidManifest, `the frames end before "etc/big"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := bigRecipe()
			row.change(r)
			_, err := install(t, r.bake(t))
			if err == nil {
				t.Fatal("it was installed")
			}
			if !strings.Contains(err.Error(), row.want) || bootcheck.ReportCode(err) != row.code {
				t.Errorf("%v, code %s, want %q, %s", err, bootcheck.ReportCode(err), row.want, row.code)
			}
		})
	}
}

// withSizes is r's entries with the sizes of their files.
func (r *recipe) withSizes() []bootcheck.Entry {
	entries := slices.Clone(r.entries)
	for i := range entries {
		if e := &entries[i]; e.Type == bootcheck.TypeFile {
			e.Size = int64(len(r.content[e.Path]))
		}
	}
	return entries
}

// Cut off anywhere, a bundle is refused; if its length is known, before anything
// is written.
func TestTruncated(t *testing.T) {
	whole := baseRecipe().bake(t)
	for n := 0; n < len(whole); n += 64 {
		staged, err := install(t, whole[:n])
		if bootcheck.Exit(err) != bootcheck.ExitDamaged || len(staged) > 0 {
			t.Errorf("cut off after %d bytes: %v, staged %v, want exit %d and nothing", n, err, staged, bootcheck.ExitDamaged)
		}
		// The length is not known: the payload runs out.
		h, err := ReadHead(bytes.NewReader(whole[:n]), -1)
		if err != nil {
			if bootcheck.Exit(err) != bootcheck.ExitDamaged {
				t.Errorf("cut off after %d bytes: %v", n, err)
			}
			continue
		}
		m, _, err := h.Verify(testKeys())
		if err != nil {
			t.Fatal(err)
		}
		err = Check(t.Context(), bytes.NewReader(whole[:n]), h, m, nil)
		if bootcheck.Exit(err) != bootcheck.ExitDamaged || bootcheck.ReportCode(err) != bootcheck.CodeSizeMismatch {
			t.Errorf("cut off after %d bytes, length unknown: %v", n, err)
		}
	}
	if bootcheck.Exit(func() error { _, err := install(t, whole[:len(whole)-1]); return err }()) != bootcheck.ExitDamaged {
		t.Error("one byte short: it was installed")
	}
}

// Each bit of a bundle matters: changed, it is refused.
func TestEveryByteFlipped(t *testing.T) {
	whole := baseRecipe().bake(t)
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		r := bytes.NewReader(b)
		h, err := ReadHead(r, r.Size())
		if err != nil {
			continue
		}
		m, _, err := h.Verify(testKeys())
		if err != nil {
			continue
		}
		if err := Check(t.Context(), r, h, m, nil); err == nil {
			// Only the untrusted comment of the signature may differ.
			good, _ := ReadHead(bytes.NewReader(whole), -1)
			_, mine, _ := bytes.Cut(h.Signature, []byte("\n"))
			_, theirs, _ := bytes.Cut(good.Signature, []byte("\n"))
			if !bytes.Equal(mine, theirs) || !bytes.Equal(h.RawManifest, good.RawManifest) {
				t.Errorf("byte %d changed from %#x to %#x, unnoticed", i, whole[i], b[i])
			}
		}
	}
}

// zstdHeader is a frame header with a window and a content size, and an empty
// last block.
func zstdHeader(size uint64, window uint64) []byte {
	b := []byte{0x28, 0xB5, 0x2F, 0xFD, 0xC0}
	exp := 0
	for 1<<(10+exp) < window {
		exp++
	}
	b = append(b, byte(exp<<3))
	b = binary.LittleEndian.AppendUint64(b, size)
	return append(b, 1, 0, 0)
}

// zstdNoSize is a good frame that does not say what it decodes to.
func zstdNoSize() []byte {
	return []byte{0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x00, 1, 0, 0}
}

// zstdRLE is a frame that says that it decodes to size bytes and decodes to real
// ones: a bomb of some bytes.
func zstdRLE(size uint64, real int) []byte {
	b := zstdHeader(size, 1<<17)
	b = b[:len(b)-3]
	for real > 0 {
		n := min(real, 128<<10)
		real -= n
		last := uint32(0)
		if real == 0 {
			last = 1
		}
		v := uint32(n)<<3 | 1<<1 | last
		b = append(b, byte(v), byte(v>>8), byte(v>>16), 'x')
	}
	return b
}
