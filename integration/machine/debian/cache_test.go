package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestEntryIsBuiltOnce(t *testing.T) {
	t.Setenv("OTA_CACHE", t.TempDir())
	var builds atomic.Int32
	var all sync.WaitGroup
	dirs := make([]string, 8)
	for i := range dirs {
		all.Go(func() {
			dir, err := Entry(t.Context(), "thing-1", func(_ context.Context, dir string) (string, error) {
				builds.Add(1)
				return "suffix", os.WriteFile(filepath.Join(dir, "file"), []byte("whole"), 0o644)
			})
			if err != nil {
				t.Error(err)
			}
			dirs[i] = dir
		})
	}
	all.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("8 callers built the entry %d times", n)
	}
	for _, dir := range dirs {
		if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "whole" || filepath.Base(dir) != "thing-1-suffix" {
			t.Errorf("an entry %q holds %q, %v", dir, b, err)
		}
	}
}

func TestEntryThatFailsLeavesNothing(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("OTA_CACHE", cache)
	broken := errors.New("broken")
	_, err := Entry(t.Context(), "thing-1", func(_ context.Context, dir string) (string, error) {
		// A folder that its owner cannot empty without changing its mode.
		return "", errors.Join(os.WriteFile(filepath.Join(dir, "half"), nil, 0o644), os.Mkdir(filepath.Join(dir, "locked"), 0o555), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("Entry = %v, want the build's error", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "thing*")); len(left) > 0 {
		t.Errorf("a failed build has left %q", left)
	}
	dir, err := Entry(t.Context(), "thing-1", func(context.Context, string) (string, error) { return "", nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); err == nil {
		t.Error("the next build found the leftovers of the failed one")
	}
}

func TestEntrySweepsWhatIsOld(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("OTA_CACHE", cache)
	old := time.Now().Add(-2 * sweepAfter)
	for i := range sweepKeep + 3 {
		dir := filepath.Join(cache, fmt.Sprintf("thing-old%d", i))
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chtimes(dir, old, old.Add(time.Duration(i)*time.Second))); err != nil {
			t.Fatal(err)
		}
	}
	other := filepath.Join(cache, "other-1")
	if err := errors.Join(os.Mkdir(other, 0o755), os.Chtimes(other, old, old)); err != nil {
		t.Fatal(err)
	}
	build := func(context.Context, string) (string, error) { return "", nil }
	// Using an entry makes it young.
	if _, err := Entry(t.Context(), "thing-old0", build); err != nil {
		t.Fatal(err)
	}
	if _, err := Entry(t.Context(), "thing-new", build); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(cache, "thing-*"))
	if len(left) != sweepKeep {
		t.Errorf("%d entries are left, want %d: %q", len(left), sweepKeep, left)
	}
	for _, name := range []string{"thing-old0", "thing-new", "other-1"} {
		if _, err := os.Stat(filepath.Join(cache, name)); err != nil {
			t.Errorf("%s was swept", name)
		}
	}
	if _, err := os.Stat(filepath.Join(cache, "thing-old1")); err == nil {
		t.Error("the entry that nobody used for longest is still there")
	}
}
