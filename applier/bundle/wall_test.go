package bundle

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// If ParseManifest let something through, the unpacking itself must still not
// leave its directory: these manifests were never parsed.
func TestSecondWall(t *testing.T) {
	content := strings.Repeat("x", 10)
	sum := strings.TrimPrefix(bootcheck.Digest([]byte(content)), "sha256:")
	evil := func(path string) bootcheck.Entry {
		e := file(path)
		e.Size, e.SHA256 = int64(len(content)), sum
		return e
	}
	for _, row := range []struct {
		name    string
		entries []bootcheck.Entry
		want    string
	}{
		{"a file above", []bootcheck.Entry{evil("../victim")}, "escapes"},
		{"a new file above", []bootcheck.Entry{evil("../new")}, "escapes"},
		{"an absolute file", []bootcheck.Entry{evil("/tmp/ota-second-wall")}, "escapes"},
		{"a directory above", []bootcheck.Entry{dir("../new")}, "escapes"},
		{"a link above", []bootcheck.Entry{link("../new", "x")}, "escapes"},
		{"an absolute link", []bootcheck.Entry{link("l", "/etc")}, "escapes"},
		{"a link out through another", []bootcheck.Entry{dir("d"), link("d/l", "."), link("m", "d/l/../..")}, "escapes"},
		{"a file twice", []bootcheck.Entry{evil("a"), evil("a")}, "file exists"},
		{"a manifest", []bootcheck.Entry{evil(bootcheck.ManifestPath)}, "file exists"},
		{"a file, then a directory", []bootcheck.Entry{dir("a"), evil("a")}, "exists"},
		{"a link in the place of a file", []bootcheck.Entry{evil("a"), link("a", "b")}, "file exists"},
	} {
		t.Run(row.name, func(t *testing.T) {
			outer := t.TempDir()
			if err := os.WriteFile(filepath.Join(outer, "victim"), []byte("unharmed"), 0o644); err != nil {
				t.Fatal(err)
			}
			staging := filepath.Join(outer, "staging")
			if err := os.Mkdir(staging, 0o755); err != nil {
				t.Fatal(err)
			}
			m := &bootcheck.Manifest{Entries: row.entries}
			var tar []byte
			for i := range m.Entries {
				e := &m.Entries[i]
				tar = entryMember(e).appendHeader(tar)
				if e.Type == bootcheck.TypeFile {
					tar = append(tar, content...)
					tar = append(tar, make([]byte, blockSize-len(content))...)
				}
			}
			var payload []byte
			for _, b := range [][]byte{tar, make([]byte, endSize)} {
				packed := compress(t, b)
				m.Frames = append(m.Frames, bootcheck.Frame{
					Offset: int64(len(payload)), Length: int64(len(packed)), Size: int64(len(b)),
					SHA256: strings.TrimPrefix(bootcheck.Digest(packed), "sha256:"),
				})
				payload = append(payload, packed...)
			}
			err := unpackTo(t.Context(), bytes.NewReader(payload), &Head{}, m, openRoot(t, staging), nil)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Unpack: %v, want %q in it", err, row.want)
			}
			list, err := os.ReadDir(outer)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range list {
				if d.Name() != "victim" && d.Name() != "staging" {
					t.Errorf("%s appeared outside", d.Name())
				}
			}
			if got, _ := os.ReadFile(filepath.Join(outer, "victim")); string(got) != "unharmed" {
				t.Errorf("the file outside is now %q", got)
			}
		})
	}
}

// growing is a file that is still being downloaded: ReadAt waits for bytes.
type growing struct {
	b     []byte
	ready chan struct{} // closed when all of b has arrived
	early int64         // bytes that are there from the start
}

func (g *growing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > g.early {
		<-g.ready
	}
	return bytes.NewReader(g.b).ReadAt(b, off)
}

// Unpacking may start before the download is done.
func TestUnpackWhileItGrows(t *testing.T) {
	b := bigRecipe().bake(t)
	h, err := ReadHead(bytes.NewReader(b), -1)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := h.Verify(testKeys())
	if err != nil {
		t.Fatal(err)
	}
	g := &growing{b: b, ready: make(chan struct{}), early: h.PayloadOffset + m.Frames[0].Length}
	dir := t.TempDir()
	arrived := false
	err = unpackTo(context.Background(), g, h, m, openRoot(t, dir), func(int64, int64) {
		if !arrived {
			arrived = true
			if _, err := os.Stat(filepath.Join(dir, "bin/app")); err != nil {
				t.Errorf("the first frame is there, but not its file: %v", err)
			}
			close(g.ready)
		}
	})
	if err != nil || !arrived {
		t.Fatalf("Unpack: %v, first frame done before the last arrived: %v", err, arrived)
	}
	if err := bootcheck.CheckTree(t.Context(), dir, m, bootcheck.Full); err != nil {
		t.Error(err)
	}
}
