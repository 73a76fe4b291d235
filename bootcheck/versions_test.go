package bootcheck

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The release counter is read in each boot: quickly, also with another file instead
// of a manifest.
func TestRelease(t *testing.T) {
	entries := `"entries":[` + strings.Repeat(`{"path":"x"},`, 100) + `{"path":"y"}]`
	for _, row := range []struct {
		name, manifest string
		want           int64
	}{
		{"as it is made", `{"format":1,"models":["x1"],"version":"1.0.0","release":12,` + entries + `}`, 12},
		{"cut off behind it", `{"format":1,"version":"1.0.0","release":12,"entries":[{"pa`, 12},
		{"at the end", `{"format":1,` + entries + `,"release":12}`, 12},
		{"in something else first", `{"notes":{"release":7},"release":12}`, 12},
		{"behind a megabyte of something else", `{"notes":"` + strings.Repeat("x", 1<<20) + `","release":12}`, 0},
		{"not there", `{"format":1,` + entries + `}`, 0},
		{"a word", `{"release":"12"}`, 0},
		{"empty", ``, 0},
		{"a list", `["release",12]`, 0},
		{"half a key", `{"rele`, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := &Store{dir: t.TempDir()}
			name := filepath.Join(s.VersionDir("1.0.0"), ManifestPath)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(row.manifest), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := s.Release("1.0.0"); got != row.want {
				t.Errorf("Release() = %d, want %d", got, row.want)
			}
		})
	}
	s := &Store{dir: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(s.VersionDir("1.0.0"), ManifestPath), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := s.Release("1.0.0") + s.Release("2.0.0"); got != 0 {
		t.Errorf("of a directory and of nothing comes release %d", got)
	}
}

// What an operator can do about a version is not lost on the way.
func TestSnapshotKeepsTheAdvice(t *testing.T) {
	s := newStore(t)
	if err := os.Mkdir(s.path("v1.0"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := s.Snapshot("1.0")
	if got := Advice(err); Exit(err) != ExitDamaged || !strings.Contains(got, "ota-guardian adopt") {
		t.Errorf("Snapshot: %v, advice %q", err, got)
	}
}

// A program that still runs may remove a file of its own while its version is adopted.
func TestListWhileFilesGo(t *testing.T) {
	s := newStore(t)
	dir := s.path("v1.0")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/a", nil, 0o644), os.WriteFile(dir+"/b", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	ref, notes, err := s.list(&removing{t.Context(), dir + "/b", 0}, "1.0", "")
	if err != nil || notes != nil {
		t.Fatalf("list = %v, %v", notes, err)
	}
	if err := s.Verify(t.Context(), ref, Content); err != nil {
		t.Error(err)
	}
}

// removing removes the file name when it is asked the second time: for what comes before it.
type removing struct {
	context.Context
	name  string
	asked int
}

func (c *removing) Err() error {
	if c.asked++; c.asked == 2 {
		_ = os.Remove(c.name)
	}
	return nil
}
