package bootcheck

import (
	"context"
	"errors"
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
		{"a name with an escape sequence", func(dir string) error { return os.WriteFile(filepath.Join(dir, "\x1b[2J"), nil, 0o644) }, "", `"\x1b[2J": the manifest does not list it`},
		{"nothing at all", os.RemoveAll, "no such file", "no such file"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir, m := plant(t)
			if err := row.do(dir); err != nil {
				t.Fatal(err)
			}
			for depth, want := range map[Depth]string{Quick: row.quick, Full: row.full} {
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
