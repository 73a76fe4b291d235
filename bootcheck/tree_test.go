package bootcheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// plant makes the tree of goodManifest in a new directory.
func plant(t testing.TB) (dir string, m *Manifest) {
	t.Helper()
	dir, m = t.TempDir(), goodManifest()
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "bin"), 0o700) }) // else t.TempDir cannot remove it
	for _, e := range m.Entries {
		name := filepath.Join(dir, e.Path)
		var err error
		switch e.Type {
		case TypeDir:
			err = os.Mkdir(name, 0o700)
		case TypeLink:
			err = os.Symlink(e.Target, name)
		case TypeFile:
			err = os.WriteFile(name, []byte(strings.Repeat("a", int(e.Size))), 0o600)
		}
		if err == nil && e.Type != TypeLink {
			err = os.Chmod(name, e.Mode.Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, ManifestDir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ManifestPath), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, m
}

func TestCheckTree(t *testing.T) {
	replace := func(name string, make func(name string) error) func(dir string) error {
		return func(dir string) error {
			name := filepath.Join(dir, name)
			if err := os.RemoveAll(name); err != nil {
				return err
			}
			return make(name)
		}
	}
	chmod := func(name string, mode uint32) func(dir string) error {
		return func(dir string) error { return syscall.Chmod(filepath.Join(dir, name), mode) }
	}
	for _, row := range []struct {
		name  string
		do    func(dir string) error
		quick string // what the error says; empty: none
		full  string
	}{
		{"as it should be", func(string) error { return nil }, "", ""},
		{"a factory version: no write bits", func(dir string) error {
			return errors.Join(chmod("bin/app", 0o555)(dir), chmod("empty", 0o444)(dir), chmod("bin", 0o555)(dir))
		}, "", ""},
		{"a file is longer", func(dir string) error { return os.WriteFile(filepath.Join(dir, "bin/app"), []byte("aa"), 0) }, "bin/app: size 2, want 1", "bin/app: size 2, want 1"},
		{"a file is empty", func(dir string) error { return os.Truncate(filepath.Join(dir, "bin/app"), 0) }, "bin/app: size 0, want 1", "bin/app: size 0, want 1"},
		{"one bit is wrong", func(dir string) error { return os.WriteFile(filepath.Join(dir, "bin/app"), []byte("`"), 0) }, "", "bin/app: sha256"},
		{"a file is missing", func(dir string) error { return os.Remove(filepath.Join(dir, "bin/app")) }, "bin/app: it is missing", "bin/app: it is missing"},
		{"a directory is missing", func(dir string) error { return os.RemoveAll(filepath.Join(dir, "bin")) }, "bin: it is missing", "bin: it is missing"},
		{"a link leads elsewhere", replace("lib", func(n string) error { return os.Symlink("/etc", n) }), `lib: link to "/etc", want "bin"`, `lib: link to "/etc", want "bin"`},
		{"a link's target is longer", replace("lib", func(n string) error { return os.Symlink("bin"+strings.Repeat("/.", 600), n) }), `lib: link to "bin/.`, `lib: link to "bin/.`},
		{"a link in the place of a file", replace("bin/app", func(n string) error { return os.Symlink("../empty", n) }), "bin/app: it is a link, want a file", "bin/app: it is a link"},
		{"a link in the place of a directory", func(dir string) error {
			if err := os.Rename(filepath.Join(dir, "bin"), filepath.Join(dir, "..", "moved")); err != nil {
				return err
			}
			return os.Symlink("../moved", filepath.Join(dir, "bin"))
		}, "bin: it is a link, want a dir", "bin: it is a link"},
		{"a file in the place of a link", replace("lib", func(n string) error { return os.WriteFile(n, nil, 0o644) }), "lib: it is a file, want a link", "lib: it is a file"},
		{"a directory in the place of a file", replace("empty", func(n string) error { return os.Mkdir(n, 0o755) }), "empty: it is a dir, want a file", "empty: it is a dir"},
		{"a FIFO in the place of a file, which must not block", replace("empty", func(n string) error { return syscall.Mkfifo(n, 0o644) }), "empty: it is a fifo, want a file", "empty: it is a fifo"},
		{"a file that may not be run", chmod("bin/app", 0o644), "bin/app: mode 0644, want 0755", "bin/app: mode 0644"},
		{"a file that all may write", chmod("empty", 0o666), "empty: mode 0666, want 0644", "empty: mode 0666"},
		{"setuid", chmod("bin/app", 0o4755), "bin/app: mode 4755, want 0755", "bin/app: mode 4755"},
		{"setgid on a directory", chmod("bin", 0o2755), "bin: mode 2755, want 0755", "bin: mode 2755"},
		{"something more", func(dir string) error { return os.WriteFile(filepath.Join(dir, "bin/more"), nil, 0o644) }, "", `"bin/more": the manifest does not list it`},
		{"something more in the root", func(dir string) error { return os.Mkdir(filepath.Join(dir, "more"), 0o755) }, "", `"more": the manifest does not list it`},
		{"a second .ota", func(dir string) error { return os.Mkdir(filepath.Join(dir, "bin/.ota"), 0o755) }, "", `"bin/.ota": the manifest does not list it`},
		{"something more beside the manifest", func(dir string) error { return os.WriteFile(filepath.Join(dir, ".ota/more"), nil, 0o755) }, "", `".ota/more": the manifest does not list it`},
		{"a signature", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, ".ota/manifest.json.minisig"), nil, 0o644)
		}, "", ""},
		{"a name with an escape sequence", func(dir string) error { return os.WriteFile(filepath.Join(dir, "\x1b[2J"), nil, 0o644) }, "", `"\x1b[2J": the manifest does not list it`},
		{"nothing at all", os.RemoveAll, "no such file", "no such file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, m := plant(t)
			if err := row.do(dir); err != nil {
				t.Fatal(err)
			}
			start, content := row.full, row.full
			if strings.Contains(row.full, "the manifest does not list it") {
				start, content = "", "" // only Full looks for what does not belong there
			}
			for depth, want := range map[Depth]string{Quick: row.quick, Start: start, Content: content, Full: row.full} {
				err := CheckTree(t.Context(), dir, m, depth)
				if want == "" {
					if err != nil {
						t.Errorf("depth %d: %v", depth, err)
					}
					continue
				}
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("depth %d: CheckTree: %v, want %q", depth, err, want)
				}
				if Exit(err) != ExitDamaged {
					t.Errorf("depth %d: CheckTree: exit %d, want %d", depth, Exit(err), ExitDamaged)
				}
			}
		})
	}
}

// Start reads the entry points and nothing else, and no more of them than it may.
func TestCheckTreeStart(t *testing.T) {
	const mib = 1 << 20
	zeros := func(size int64) string { // as a sparse file, which takes no room
		sum := sha256.New()
		_, _ = io.CopyN(sum, zeroReader{}, size)
		return hex.EncodeToString(sum.Sum(nil))
	}
	sums := map[int64]string{}
	file := func(path string, mode Mode, size int64) Entry {
		if sums[size] == "" {
			sums[size] = zeros(size)
		}
		return Entry{Path: path, Type: TypeFile, Mode: mode, Size: size, SHA256: sums[size]}
	}
	dir := func(path string) Entry { return Entry{Path: path, Type: TypeDir, Mode: 0o755} }
	for _, row := range []struct {
		name    string
		entries []Entry
		damage  string // the file of which one byte is changed
		found   bool
	}{
		{"a program in the root", []Entry{file("app", 0o755, 10)}, "app", true},
		{"a program in bin", []Entry{dir("bin"), file("bin/app", 0o755, 10)}, "bin/app", true},
		{"a program in sbin", []Entry{dir("sbin"), file("sbin/app", 0o755, 10)}, "sbin/app", true},
		{"a program that only its owner may execute", []Entry{file("app", 0o700, 10)}, "app", true},
		{"a file in bin that no user may execute", []Entry{dir("bin"), file("bin/data", 0o644, 10)}, "bin/data", false},
		{"a program below bin", []Entry{dir("bin"), dir("bin/more"), file("bin/more/app", 0o755, 10)}, "bin/more/app", false},
		{"a program elsewhere", []Entry{dir("lib"), file("lib/app", 0o755, 10)}, "lib/app", false},
		{"a program as large as all may be", []Entry{file("app", 0o755, 64*mib)}, "app", true},
		{"a program that is larger", []Entry{file("app", 0o755, 64*mib+1)}, "app", false},
		{"a program after one that is larger", []Entry{file("app", 0o755, 64*mib+1), file("b", 0o755, 10)}, "b", true},
		{"the last program that fits", []Entry{file("a", 0o755, 40*mib), file("b", 0o755, 24*mib), file("c", 0o755, 1)}, "b", true},
		{"the first that does not fit any more", []Entry{file("a", 0o755, 40*mib), file("b", 0o755, 24*mib), file("c", 0o755, 1)}, "c", false},
		{"one that fits after one that does not", []Entry{file("a", 0o755, 40*mib), file("b", 0o755, 25*mib), file("c", 0o755, 1)}, "c", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			for _, e := range row.entries {
				name := filepath.Join(root, e.Path)
				var err error
				if e.Type == TypeDir {
					err = os.Mkdir(name, 0o755)
				} else {
					err = errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, e.Size), os.Chmod(name, e.Mode.Perm()))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			m := &Manifest{Entries: row.entries}
			if err := CheckTree(t.Context(), root, m, Start); err != nil {
				t.Fatalf("CheckTree of a whole tree: %v", err)
			}
			f, err := os.OpenFile(filepath.Join(root, row.damage), os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("x"), 0)
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckTree(t.Context(), root, m, Quick); err != nil {
				t.Errorf("Quick reads files: %v", err)
			}
			if err := CheckTree(t.Context(), root, m, Start); (err != nil) != row.found {
				t.Errorf("CheckTree: %v, want that it is found: %v", err, row.found)
			}
			if err := CheckTree(t.Context(), root, m, Content); Exit(err) != ExitDamaged {
				t.Errorf("Content: %v, want it damaged", err)
			}
		})
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestCheckTreeCanceled(t *testing.T) {
	dir, m := plant(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := CheckTree(ctx, dir, m, Full); err != context.Canceled {
		t.Errorf("CheckTree: %v, want %v", err, context.Canceled)
	}
}

func TestCheckTreeLargeFile(t *testing.T) {
	dir, m := plant(t)
	content := strings.Repeat("0123456789abcdef", 3*hashBuffer/16) + "x"
	name := filepath.Join(dir, "empty")
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	e := &m.Entries[3]
	e.Size, e.SHA256 = int64(len(content)), strings.TrimPrefix(Digest([]byte(content)), "sha256:")
	if err := CheckTree(t.Context(), dir, m, Full); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content[:len(content)-1]+"y"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CheckTree(t.Context(), dir, m, Full); err == nil || !strings.Contains(err.Error(), "empty: sha256") {
		t.Errorf("CheckTree: %v, want a wrong sha256 of empty", err)
	}
}

func BenchmarkParseManifest(b *testing.B) {
	m := goodManifest()
	for i := range 6000 {
		m.Entries = append(m.Entries, Entry{Path: "bin/file-of-some-length-" + itoa(i), Type: TypeFile, Mode: 0o644, SHA256: hash0})
	}
	raw := []byte(encode(b, m))
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := ParseManifest(raw); err != nil {
			b.Fatal(err)
		}
	}
}
