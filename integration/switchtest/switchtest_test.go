package switchtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tope-ota/ota/integration/try"
)

func TestMeasure(t *testing.T) {
	defer try.Fatal(t)
	dir := t.TempDir()
	figures := try.Get(Measure(t.Context(), dir, 20))
	if len(figures) != 4 {
		t.Errorf("%d figures, want 4", len(figures))
	}
	for _, f := range figures {
		if f.Median <= 0 || f.P99 < f.Median {
			t.Errorf("%s: median %s, p99 %s", f.Name, f.Median, f.P99)
		}
	}
	empty(t, dir)
}

func TestWatch(t *testing.T) {
	defer try.Fatal(t)
	dir := t.TempDir()
	w := try.Get(watch(t.Context(), dir, 300, 2))
	t.Logf("%d reads", w.reads.Load())
	if w.wrong != 0 || len(w.versions) != 2 || w.reads.Load() == 0 {
		t.Errorf("%d reads saw %v, %d wrong: %q; want both versions, nothing wrong", w.reads.Load(), w.versions, w.wrong, w.examples)
	}
	empty(t, dir)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if left := try.Get(os.ReadDir(dir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A watcher that finds nothing wrong proves something only if it finds what is.
func TestWatcherFinds(t *testing.T) {
	for _, row := range []struct {
		name string
		harm func(s *scratch) error
		want string
	}{
		{"a switch by removing and making the link", func(s *scratch) error {
			return os.Remove(filepath.Join(s.store.Dir(), "current"))
		}, "current leads nowhere"},
		{"a version that is copied over another", func(s *scratch) error {
			return os.WriteFile(filepath.Join(s.store.VersionDir("1.0.0"), "second"), []byte("1.1.0"), 0o644)
		}, "one file is of version"},
		{"two links that are switched one after the other", func(s *scratch) error {
			link := filepath.Join(s.store.Dir(), ".active", "previous")
			return errors.Join(os.Remove(link), os.Symlink("../../v1.0.0", link))
		}, "the record says previous is"},
		{"a record that is half written", func(s *scratch) error {
			return os.Truncate(filepath.Join(s.store.Dir(), ".active", "record.json"), 20)
		}, "not intact"},
	} {
		t.Run(row.name, func(t *testing.T) {
			defer try.Fatal(t)
			s := try.Get(newScratch(t.TempDir()))
			w := watcher{dir: s.store.Dir(), versions: map[string]bool{}}
			if w.look(); w.wrong != 0 {
				t.Fatalf("before: %v", w.examples)
			}
			try.Check(row.harm(s))
			w.look()
			if w.wrong != 1 || !strings.Contains(w.examples[0], row.want) {
				t.Errorf("found %d wrong, %q, want %q", w.wrong, w.examples, row.want)
			}
		})
	}
}
