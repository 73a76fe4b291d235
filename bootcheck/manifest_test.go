package bootcheck

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	hashA = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" // of "a"
	hash0 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of ""
)

// goodManifest has one of everything.
func goodManifest() *Manifest {
	expires := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	return &Manifest{
		Format: 1, Models: []string{"tope-x1", "Tope X2"}, Version: "1.2.0-rc.1+b7", Release: 7,
		NotAfter: &expires, Services: []string{"device-api.service"}, Size: 2,
		RevokedKeys: []string{"00000000000000AA"},
		Entries: []Entry{
			{Path: "bin", Type: TypeDir, Mode: 0o755},
			{Path: "bin/app", Type: TypeFile, Mode: 0o755, Size: 1, SHA256: hashA},
			{Path: "bin/self", Type: TypeLink, Target: "./app"},
			{Path: "empty", Type: TypeFile, Mode: 0o644, SHA256: hash0},
			{Path: "lib", Type: TypeLink, Target: "bin"},
			{Path: "naïve 名前", Type: TypeFile, Mode: 0o644, Size: 1, SHA256: hashA},
			{Path: "over", Type: TypeLink, Target: "lib/../lib/self"},
		},
		Frames: []Frame{{Offset: 0, Length: 10, Size: 512, SHA256: hashA}, {Offset: 10, Length: 5, Size: 1024, SHA256: hash0}},
	}
}

func encode(t testing.TB, m *Manifest) string {
	t.Helper()
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestParseManifest(t *testing.T) {
	want := goodManifest()
	raw := encode(t, want)
	got, err := ParseManifest([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	if again := encode(t, got); again != raw {
		t.Errorf("ParseManifest read\n%s, want\n%s", again, raw)
	}
	if want := `"mode":"0755"`; !strings.Contains(raw, want) {
		t.Errorf("manifest %s does not hold %s", raw, want)
	}
}

func TestManifestAllowed(t *testing.T) {
	entry := func(e ...Entry) func(m *Manifest) {
		return func(m *Manifest) { m.Entries = append(m.Entries, e...) }
	}
	for name, change := range map[string]func(m *Manifest){
		"no frames, as in a snapshot that was not unpacked from a bundle": func(m *Manifest) { m.Frames = nil },
		"no date, no services":         func(m *Manifest) { m.NotAfter, m.Services = nil, nil },
		"case twins":                   entry(Entry{Path: "bin/App", Type: TypeDir, Mode: 0o755}, Entry{Path: "NAÏVE 名前", Type: TypeDir, Mode: 0o755}),
		"twins by Unicode's forms":     entry(Entry{Path: "e\u0301", Type: TypeDir, Mode: 0o755}, Entry{Path: "\u00e9", Type: TypeDir, Mode: 0o755}),
		"a backslash":                  entry(Entry{Path: `mnt-my\x2ddata.mount`, Type: TypeDir, Mode: 0o755}),
		"external links":               entry(Entry{Path: "x", Type: TypeLink, External: true, Target: "/usr//bin/"}, Entry{Path: "y", Type: TypeLink, External: true, Target: "../../.."}),
		"a link to an external one":    entry(Entry{Path: "a", Type: TypeLink, Target: "x"}, Entry{Path: "x", Type: TypeLink, External: true, Target: "/usr"}),
		"an external loop":             entry(Entry{Path: "x", Type: TypeLink, External: true, Target: "x"}),
		"a link to nothing":            entry(Entry{Path: "x", Type: TypeLink, Target: "bin/later"}),
		"a link to its own directory":  entry(Entry{Path: "x", Type: TypeLink, Target: "."}),
		"a link to the root":           entry(Entry{Path: "bin/x", Type: TypeLink, Target: ".."}),
		"a link to a link to nothing":  entry(Entry{Path: "x", Type: TypeLink, Target: "y"}, Entry{Path: "y", Type: TypeLink, Target: "no"}),
		"a name of 255 bytes":          entry(Entry{Path: strings.Repeat("n", 255), Type: TypeDir, Mode: 0o755}),
		"a name that begins with dots": entry(Entry{Path: "..x", Type: TypeDir, Mode: 0o755}, Entry{Path: ".otaku", Type: TypeDir, Mode: 0o755}),
		"a read-only tree":             entry(Entry{Path: "x", Type: TypeDir, Mode: 0o500}),
		"the largest release":          func(m *Manifest) { m.Release = 1<<63 - 1 },
		"a file of 2^32+1 bytes":       func(m *Manifest) { m.Entries[1].Size = 1<<32 + 1; m.Size = 1<<32 + 2 },
	} {
		t.Run(name, func(t *testing.T) {
			m := goodManifest()
			change(m)
			if _, err := ParseManifest([]byte(encode(t, m))); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("a name that looks like JSON", func(t *testing.T) {
		raw := strings.Replace(encode(t, goodManifest()), `"path":"bin/app"`, `"path":"a\"},{\"path\":\"b"`, 1)
		m, err := ParseManifest([]byte(raw))
		if err != nil || m.Entries[1].Path != `a"},{"path":"b` {
			t.Errorf("ParseManifest = %v, %v", m, err)
		}
	})
	t.Run("keys of a newer ota-bundle", func(t *testing.T) {
		raw := strings.Replace(encode(t, goodManifest()), `{"format":1`, `{"revoked":[{"key":"x","key2":{"a":[1]}}],"format":1`, 1)
		if _, err := ParseManifest([]byte(raw)); err != nil {
			t.Error(err)
		}
	})
}

func TestManifestRefused(t *testing.T) {
	add := func(e ...Entry) func(m *Manifest) {
		return func(m *Manifest) { m.Entries = append(m.Entries, e...) }
	}
	file := func(path string) func(m *Manifest) {
		return add(Entry{Path: path, Type: TypeFile, Mode: 0o644, SHA256: hash0})
	}
	link := func(path, target string) Entry { return Entry{Path: path, Type: TypeLink, Target: target} }
	dir := func(path string) Entry { return Entry{Path: path, Type: TypeDir, Mode: 0o755} }
	app := func(change func(e *Entry)) func(m *Manifest) {
		return func(m *Manifest) { change(&m.Entries[1]) }
	}
	external := func(path, target string) Entry {
		return Entry{Path: path, Type: TypeLink, External: true, Target: target}
	}
	chain := []Entry{link("c0", "bin")}
	for i := range 41 {
		chain = append(chain, link("c"+itoa(i+1), "c"+itoa(i)))
	}
	deep := []Entry{}
	for i := range MaxDepth + 1 {
		deep = append(deep, dir(strings.Repeat("d/", i)+"d"))
	}

	for _, row := range []struct {
		name   string
		change func(m *Manifest)
		want   string
	}{
		{"format 0", func(m *Manifest) { m.Format = 0 }, "format 0 is not known"},
		{"format 2", func(m *Manifest) { m.Format = 2 }, "format 2 is not known"},
		{"no version", func(m *Manifest) { m.Version = "" }, "version"},
		{"a version that is a path", func(m *Manifest) { m.Version = "../1.0" }, "version"},
		{"a version that is a flag", func(m *Manifest) { m.Version = "-h" }, "version"},
		{"a version with a newline", func(m *Manifest) { m.Version = "1.0\n" }, "version"},
		{"a version of 65 bytes", func(m *Manifest) { m.Version = strings.Repeat("1", 65) }, "version"},
		{"a version of 4 KiB", func(m *Manifest) { m.Version = strings.Repeat("1", 4096) }, "version"},
		{"no model", func(m *Manifest) { m.Models = nil }, "names no model"},
		{"an empty model", func(m *Manifest) { m.Models = []string{""} }, "model is empty"},
		{"a model twice", func(m *Manifest) { m.Models = []string{"a", "a"} }, "listed twice"},
		{"a model with an escape sequence", func(m *Manifest) { m.Models = []string{"a\x1b[2J"} }, "control character"},
		{"too many models", func(m *Manifest) {
			for i := range 65 {
				m.Models = append(m.Models, "m"+itoa(i))
			}
		}, "more than 64 models"},
		{"a negative release", func(m *Manifest) { m.Release = -1 }, "release -1 is negative"},
		{"a revoked key in lower case", func(m *Manifest) { m.RevokedKeys = []string{"00000000000000aa"} }, "is not the ID of a key"},
		{"a revoked key that is too short", func(m *Manifest) { m.RevokedKeys = []string{"AA"} }, "is not the ID of a key"},
		{"a revoked key that is a path", func(m *Manifest) { m.RevokedKeys = []string{"../../../../../x"} }, "is not the ID of a key"},
		{"a key revoked twice", func(m *Manifest) { m.RevokedKeys = append(m.RevokedKeys, m.RevokedKeys[0]) }, "is listed twice"},
		{"too many revoked keys", func(m *Manifest) { m.RevokedKeys = keyIDs(65) }, "more than 64 revoked_keys"},
		{"a service that is a path", func(m *Manifest) { m.Services = []string{"../x.service"} }, "not the name of a systemd service"},
		{"a service with a second line", func(m *Manifest) { m.Services = []string{"x.service\nExecStart=/bin/sh"} }, "not the name of a systemd service"},
		{"a service that is a flag", func(m *Manifest) { m.Services = []string{"--now.service"} }, "not the name of a systemd service"},
		{"a service that is a target", func(m *Manifest) { m.Services = []string{"reboot.target"} }, "not the name of a systemd service"},

		{"an empty path", file(""), "empty path"},
		{"an absolute path", file("/etc/passwd"), "is absolute"},
		{"..", file(".."), `the component ".."`},
		{".. in the middle", file("bin/../../x"), `the component ".."`},
		{".", file("."), `the component "."`},
		{". in the middle", file("bin/./x"), `the component "."`},
		{"a double slash", file("bin//x"), "empty component"},
		{"a slash at the end", file("bin/x/"), "empty component"},
		{"NUL", file("bin/x\x00y"), "holds NUL"},
		{"a newline", file("bin/x\ny"), "control character"},
		{"a line separator", file("x\u2028y"), "control character"},
		{"the mark of lost bytes", file("x\uFFFD"), "U+FFFD"},
		{"a path of 1024 bytes", file(strings.Repeat("abc/", 255) + "abcd"), "longer than 1023"},
		{"a path of 4 KiB", file(strings.Repeat("a", 4096)), "longer than 1023"},
		{"a name of 256 bytes", file(strings.Repeat("n", 256)), "a name longer than 255"},
		{"too deep", add(deep...), "deeper than 64"},
		{"a duplicate", file("bin/app"), "listed twice"},
		{"a directory with the name of a file", add(dir("empty")), "listed twice"},
		{"case twins of directories", func(m *Manifest) {
			file("Bin/x")(m)
			m.Entries[len(m.Entries)-1], m.Entries[0] = m.Entries[0], dir("Bin")
			m.Entries = append(m.Entries, dir("bin"))
		}, "its directory is not listed before it"},
		{"the manifest itself", file(".ota/manifest.json"), "manifest's own directory"},
		{"the manifest's directory", add(dir(".ota")), "manifest's own directory"},
		{"its case twin", add(dir(".OTA")), "manifest's own directory"},
		{"a parent that is missing", file("no/x"), "not listed before it"},
		{"a parent that comes later", func(m *Manifest) { m.Entries[0], m.Entries[1] = m.Entries[1], m.Entries[0] }, "not listed before it"},
		{"a file below a file", file("empty/x"), "is below \"empty\", which is a file"},
		{"a file below a link", file("lib/x"), "is below \"lib\", which is a link"},

		{"an external file", app(func(e *Entry) { e.External = true }), "a file is not external"},
		{"an external directory", func(m *Manifest) { m.Entries[0].External = true }, "a dir is not external"},
		{"an external link without a target", add(external("x", "")), "without a target"},
		{"an external link with a newline", add(external("x", "/a\nb")), "control character"},
		{"a link through an external one", add(external("x", "/usr"), link("y", "x/bin")), `link "y" -> "x/bin" goes through the external link "x"`},
		{"a link out by way of an external one", add(external("x", "bin"), link("y", "x/../../z")), `leaves the tree`},
		{"a file below an external link", add(external("x", "/usr"), Entry{Path: "x/y", Type: TypeFile, Mode: 0o644, SHA256: hash0}), `which is a link`},
		{"an absolute link that another leads to", add(link("a", "z"), link("z", "/usr")), `link "z" -> "/usr" is absolute`},

		{"no type", app(func(e *Entry) { e.Type = "" }), "has no type"},
		{"a hard link", app(func(e *Entry) { e.Type = "hardlink" }), `type "hardlink" is not`},
		{"a device", app(func(e *Entry) { e.Type = "char" }), `type "char" is not`},
		{"a FIFO", app(func(e *Entry) { e.Type = "fifo" }), `type "fifo" is not`},
		{"a socket", app(func(e *Entry) { e.Type = "socket" }), `type "socket" is not`},
		{"a file that its owner cannot read", app(func(e *Entry) { e.Mode = 0o277 }), "could not read it"},
		{"a file without a mode", app(func(e *Entry) { e.Mode = 0 }), "could not read it"},
		{"a directory that cannot be entered", func(m *Manifest) { m.Entries[0].Mode = 0o644 }, "could not read it"},
		{"a negative size", app(func(e *Entry) { e.Size = -1 }), "size -1 is not within"},
		{"a size of 2^63-1", app(func(e *Entry) { e.Size = 1<<63 - 1 }), "size 9223372036854775807 is not within"},
		{"a size that tar cannot say", app(func(e *Entry) { e.Size = 1 << 33 }), "is not within"},
		{"no hash", app(func(e *Entry) { e.SHA256 = "" }), "64 lower-case hex digits"},
		{"half a hash", app(func(e *Entry) { e.SHA256 = hashA[:12] }), "64 lower-case hex digits"},
		{"an upper-case hash", app(func(e *Entry) { e.SHA256 = strings.ToUpper(hashA) }), "64 lower-case hex digits"},
		{"a file with a target", app(func(e *Entry) { e.Target = "x" }), "a file has no target"},
		{"a directory with a size", func(m *Manifest) { m.Entries[0].Size = 1 }, "a dir has no size"},
		{"a directory with a hash", func(m *Manifest) { m.Entries[0].SHA256 = hashA }, "a dir has no size and no sha256"},
		{"a link with a mode", func(m *Manifest) { m.Entries[2].Mode = 0o777 }, "a link has no mode"},
		{"a link with a size", func(m *Manifest) { m.Entries[2].Size = 1 }, "a link has no size"},

		{"a link without a target", add(link("x", "")), "without a target"},
		{"an absolute link", add(link("x", "/etc/passwd")), "is absolute"},
		{"a link out", add(link("x", "..")), "leaves the tree"},
		{"a link out and in again", add(link("x", "../1.2.0/bin")), "leaves the tree"},
		{"a link out by the root's parent", add(link("bin/x", "../../bin")), "leaves the tree"},
		{"a link that would be inside by way of a link, but is not as it reads", add(dir("bin/x"), link("l", "bin/x"), link("m", "l/../../empty")), "leaves the tree"},
		{"a link out by way of a link", add(link("bin/l", "."), link("m", "bin/l/../..")), "leaves the tree"},
		{"a link out by way of a link that comes later", add(link("a", "z/.."), link("z", ".")), "leaves the tree"},
		{"a link back from nothing", add(link("x", "no/../bin")), "goes through \"no\", which is not there"},
		{"a link through a file", add(link("x", "empty/../bin")), "goes through the file \"empty\""},
		{"a link to itself", add(link("x", "x")), "is a loop"},
		{"two links to each other", add(link("x", "y"), link("y", "x")), "is a loop"},
		{"41 links in a row", add(chain...), "is a loop or a chain"},
		{"a link to the manifest", add(link("x", ".ota/manifest.json")), "manifest's own directory"},
		{"a link with a slash at the end", add(link("x", "bin/")), "ends in a slash"},
		{"a link with a double slash", add(link("x", "bin//app")), "empty component"},
		{"a link with NUL", add(link("x", "bin\x00/app")), "holds NUL"},
		{"a link of 4 KiB", add(link("x", strings.Repeat("./", 2048)+"bin")), "longer than 1023"},

		{"a total that is too small", func(m *Manifest) { m.Size = 1 }, "2 bytes together, but it says 1"},
		{"a total that is negative", func(m *Manifest) { m.Size = -2 }, "but it says -2"},
		{"no files", func(m *Manifest) { m.Entries, m.Size = m.Entries[:1], 0 }, "lists no file"},
		{"no entries", func(m *Manifest) { m.Entries, m.Size = nil, 0 }, "lists no file"},
		{"too many entries", func(m *Manifest) { m.Entries = make([]Entry, MaxEntries+1) }, "more than 65536 entries"},
		{"too many frames", func(m *Manifest) { m.Frames = make([]Frame, MaxFrames+1) }, "more than 131072 frames"},
		{"more than any device", func(m *Manifest) {
			for i := range 200 {
				m.Entries = append(m.Entries, Entry{Path: "f" + itoa(i), Type: TypeFile, Mode: 0o644, Size: MaxFileSize, SHA256: hash0})
			}
		}, "at most 1099511627776 are allowed"},

		{"frames that overlap", func(m *Manifest) { m.Frames[1].Offset = 9 }, "frame 1 begins at 9"},
		{"frames with a gap", func(m *Manifest) { m.Frames[1].Offset = 11 }, "frame 1 begins at 11"},
		{"frames out of order", func(m *Manifest) { m.Frames[0], m.Frames[1] = m.Frames[1], m.Frames[0] }, "frame 0 begins at 10"},
		{"a first frame that is not first", func(m *Manifest) { m.Frames[0].Offset = 1 }, "frame 0 begins at 1"},
		{"a negative frame", func(m *Manifest) { m.Frames[0].Length = -1 }, "length -1 is not within"},
		{"an empty frame", func(m *Manifest) { m.Frames[0].Length = 0 }, "length 0 is not within"},
		{"a huge frame", func(m *Manifest) { m.Frames[0].Length = 1 << 40 }, "is not within"},
		{"a frame of nothing", func(m *Manifest) { m.Frames[0].Size = 0 }, "size 0 is not within"},
		{"a frame that decodes to too much", func(m *Manifest) { m.Frames[0].Size = MaxFrameSize + 1 }, "size 4194305 is not within"},
		{"a frame without a hash", func(m *Manifest) { m.Frames[0].SHA256 = "" }, "frame 0: sha256"},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := goodManifest()
			row.change(m)
			refused(t, encode(t, m), row.want)
		})
	}
}

// Not everything can be said with a Manifest.
func TestManifestJSONRefused(t *testing.T) {
	good := encode(t, goodManifest())
	replace := func(old, new string) string {
		t.Helper()
		s := strings.Replace(good, old, new, 1)
		if s == good {
			t.Fatalf("the manifest does not hold %s", old)
		}
		return s
	}
	for _, row := range []struct{ name, raw, want string }{
		{"nothing", "", "not a manifest"},
		{"null", "null", "no \"format\""},
		{"a list", "[]", "not a manifest"},
		{"no format", replace(`"format":1,`, ``), "no \"format\""},
		{"format as text", replace(`"format":1`, `"format":"1"`), "not a manifest"},
		{"cut off", good[:len(good)-1], "not a manifest"},
		{"something after it", good + "{}", "not a manifest"},
		{"a key twice", replace(`"release":7`, `"release":8,"release":7`), `"release" stands twice`},
		{"a key twice in an entry", replace(`{"path":"bin"`, `{"path":"etc","path":"bin"`), `"path" stands twice`},
		{"a key twice in an unknown object", replace(`"release":7`, `"release":7,"x":{"y":1,"y":2}`), `"y" stands twice`},
		{"a key twice, after a list", replace(`"release":7`, `"release":7,"x":[{"z":[1,"z"]},2],"release":8`), `"release" stands twice`},
		{"a key in another case", replace(`"release":7`, `"Release":9`), "not lower-case"},
		{"a key with an escape", replace(`"release":7`, `"release":7,"rel\u0065ase":9`), "not lower-case"},
		{"a key with the Kelvin sign", replace(`"release":7`, `"release":7,"\u212A":9`), "not lower-case"},
		{"an empty key", replace(`"release":7`, `"release":7,"":9`), "not lower-case"},
		{"bytes that are not UTF-8", replace(`bin/app`, "bin/\xff"), "it is not UTF-8"},
		{"half a surrogate", replace(`bin/app`, `bin/\ud800`), "U+FFFD"},
		{"setuid", replace(`"0755"`, `"4755"`), "setuid, setgid or sticky"},
		{"setgid", replace(`"0755"`, `"2755"`), "setuid, setgid or sticky"},
		{"sticky", replace(`"0755"`, `"1777"`), "setuid, setgid or sticky"},
		{"a mode of five digits", replace(`"0755"`, `"00755"`), "not four octal digits"},
		{"a mode with a sign", replace(`"0755"`, `"+755"`), "not four octal digits"},
		{"a mode that is not octal", replace(`"0755"`, `"0799"`), "not four octal digits"},
		{"a mode as a number", replace(`"0755"`, `755`), "not a manifest"},
		{"a release of 2^63", replace(`"release":7`, `"release":9223372036854775808`), "not a manifest"},
		{"a release with a point", replace(`"release":7`, `"release":7.5`), "not a manifest"},
		{"a size as text", replace(`"size":2`, `"size":"2"`), "not a manifest"},
		{"a date that is none", replace(`2030-01-02T03:04:05Z`, `2030-13-02`), "not a manifest"},
		{"an entry that is null", replace(`{"path":"bin"`, `null,{"path":"bin"`), "empty path"},
		{"very deep", replace(`"release":7`, `"release":7,"x":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)), "not a manifest"},
		{"very long", good + strings.Repeat(" ", MaxManifest), "at most 33554432 are allowed"},
	} {
		t.Run(row.name, func(t *testing.T) { refused(t, row.raw, row.want) })
	}
}

func refused(t *testing.T, raw, want string) {
	t.Helper()
	m, err := ParseManifest([]byte(raw))
	if err == nil {
		t.Fatalf("ParseManifest took it, want a refusal with %q", want)
	}
	if m != nil {
		t.Error("ParseManifest returned a manifest with its refusal")
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("ParseManifest: %v, want %q in it", err, want)
	}
	if Exit(err) != ExitDamaged || ReportCode(err) != CodeInvalidManifest {
		t.Errorf("ParseManifest: exit %d, code %s, want %d, %s", Exit(err), ReportCode(err), ExitDamaged, CodeInvalidManifest)
	}
}

func TestValidVersion(t *testing.T) {
	for s, want := range map[string]bool{
		"1": true, "v1.2.0": true, "2026.07.01_rc-1+build": true, strings.Repeat("9", 64): true,
		"": false, ".": false, "..": false, ".1": false, "-1": false, "+1": false, "_1": false, "1/2": false, "1 2": false,
		"1\n": false, "\n1": false, "1\x00": false, "é": false, strings.Repeat("9", 65): false,
	} {
		if got := ValidVersion(s); got != want {
			t.Errorf("ValidVersion(%q) = %v, want %v", s, got, want)
		}
	}
}

func TestDigest(t *testing.T) {
	if got, want := Digest([]byte("a")), "sha256:"+hashA; got != want {
		t.Errorf("Digest = %s, want %s", got, want)
	}
}

func TestReadManifest(t *testing.T) {
	good := encode(t, goodManifest())
	for _, row := range []struct {
		name string
		make func(t *testing.T, dir string) error
		want string // empty: it can be read
		is   error
	}{
		{"a manifest", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, ManifestPath), []byte(good), 0o444)
		}, "", nil},
		{"none", func(t *testing.T, dir string) error { return nil }, "no such file", fs.ErrNotExist},
		{"a damaged one", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, ManifestPath), []byte(good[1:]), 0o644)
		}, "manifest refused", nil},
		{"an empty one", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, ManifestPath), nil, 0o644)
		}, "manifest refused", nil},
		{"a FIFO, which must not block", func(t *testing.T, dir string) error {
			return syscall.Mkfifo(filepath.Join(dir, ManifestPath), 0o644)
		}, "not a regular file", nil},
		{"a directory", func(t *testing.T, dir string) error {
			return os.Mkdir(filepath.Join(dir, ManifestPath), 0o755)
		}, "not a regular file", nil},
		{"a link to a good one", func(t *testing.T, dir string) error {
			other := filepath.Join(t.TempDir(), "m")
			if err := os.WriteFile(other, []byte(good), 0o644); err != nil {
				return err
			}
			return os.Symlink(other, filepath.Join(dir, ManifestPath))
		}, "symbolic links", syscall.ELOOP},
		{"a link in the place of .ota", func(t *testing.T, dir string) error {
			other := t.TempDir()
			if err := os.WriteFile(filepath.Join(other, "manifest.json"), []byte(good), 0o644); err != nil {
				return err
			}
			if err := os.Remove(filepath.Join(dir, ManifestDir)); err != nil {
				return err
			}
			return os.Symlink(other, filepath.Join(dir, ManifestDir))
		}, "not a directory", syscall.ENOTDIR},
		{"a huge one", func(t *testing.T, dir string) error {
			name := filepath.Join(dir, ManifestPath)
			if err := os.WriteFile(name, nil, 0o644); err != nil {
				return err
			}
			return os.Truncate(name, MaxManifest+1)
		}, "is larger than 32 MiB", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, ManifestDir), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := row.make(t, dir); err != nil {
				t.Fatal(err)
			}
			raw, m, err := ReadManifest(dir)
			if row.want == "" {
				if err != nil || string(raw) != good || m == nil || m.Version != "1.2.0-rc.1+b7" {
					t.Errorf("ReadManifest = %q, %v, %v, want the manifest", raw, m, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("ReadManifest: %v, want %q in it", err, row.want)
			}
			if row.is != nil && !errors.Is(err, row.is) {
				t.Errorf("ReadManifest: %v is not %v", err, row.is)
			}
			if Exit(err) != ExitDamaged {
				t.Errorf("ReadManifest: exit %d, want %d", Exit(err), ExitDamaged)
			}
		})
	}
}

// What ParseManifest takes must be safe to unpack, by rules that are not its own.
func FuzzManifest(f *testing.F) {
	good := encode(f, goodManifest())
	f.Add([]byte(good))
	f.Add([]byte(strings.ReplaceAll(good, `"bin"`, `".."`)))
	f.Add([]byte(strings.ReplaceAll(good, `"./app"`, `"../../x"`)))
	f.Add([]byte(strings.ReplaceAll(good, `0755`, `4755`)))
	f.Add([]byte(strings.ReplaceAll(good, `"target":"./app"`, `"external":true,"target":"/usr/bin/app"`)))
	f.Add([]byte(strings.ReplaceAll(good, `"lib","type":"link"`, `"lib","type":"link","external":true`)))
	f.Add([]byte(strings.ReplaceAll(good, `"empty"`, `"BIN"`)))
	f.Add([]byte(`{"format":1,"format":2}`))
	f.Add([]byte(`{"a":"\"{","b":[{"c":"]"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := ParseManifest(raw)
		if err != nil {
			if Exit(err) != ExitDamaged {
				t.Fatalf("exit %d", Exit(err))
			}
			return
		}
		var size int64
		seen := make(map[string]bool)
		for _, e := range m.Entries {
			if !filepath.IsLocal(e.Path) || filepath.Clean(e.Path) != e.Path || seen[e.Path] {
				t.Fatalf("took the path %q", e.Path)
			}
			seen[e.Path] = true
			if e.Type == TypeLink && !e.External && (filepath.IsAbs(e.Target) || !filepath.IsLocal(filepath.Join(filepath.Dir(e.Path), e.Target))) {
				t.Fatalf("took the link %q -> %q", e.Path, e.Target)
			}
			size += e.Size
		}
		if size != m.Size || !ValidVersion(m.Version) || len(m.Models) == 0 {
			t.Fatalf("took %+v", m)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseManifest(again); err != nil {
			t.Fatalf("took %s, but not what it means, %s: %v", raw, again, err)
		}
	})
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}
