package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// RepoDir finds the folder of this repository's go.mod, from the working
// directory upwards: tests run in their package's folder, demos in the root.
func RepoDir() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module github.com/tope-ota/ota\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("cannot find the repository's go.mod above %q: run this from inside the repository", start)
		}
	}
}

// CacheDir is where built things are kept: $OTA_CACHE, else .cache/integration
// in the repository. It is made when it does not exist. It may be removed at any
// time that no test runs.
func CacheDir() (string, error) {
	dir := os.Getenv("OTA_CACHE")
	if dir == "" {
		repo, err := RepoDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(repo, ".cache", "integration")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// Entry returns the folder of the cache whose name is prefix, or begins with
// prefix and a dash. When there is none, build is called with a new, empty
// folder; what it returns as suffix (may be empty) is added to the name, and the
// folder is put in place by one rename. Two processes that want the same entry
// build it once: the second waits. An entry that was used is marked by its mtime,
// and the ones of the same kind (what is before the first dash) that nobody used
// lately are removed when a new one is made.
func Entry(ctx context.Context, prefix string, build func(ctx context.Context, dir string) (suffix string, err error)) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	if dir := lookEntry(cache, prefix); dir != "" {
		return dir, nil
	}
	kind, _, _ := strings.Cut(prefix, "-")
	unlock, err := lock(ctx, filepath.Join(cache, "."+kind+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if dir := lookEntry(cache, prefix); dir != "" { // built while we waited
		return dir, nil
	}
	tmp := filepath.Join(cache, ".new-"+kind) // the lock makes it ours; a leftover is a killed build
	if err := removeTree(tmp); err != nil {
		return "", err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	defer removeTree(tmp)
	suffix, err := build(ctx, tmp)
	if err != nil {
		return "", err
	}
	name := prefix
	if suffix != "" {
		name += "-" + suffix
	}
	dir := filepath.Join(cache, name)
	if err := os.Rename(tmp, dir); err != nil {
		return "", err
	}
	sweep(cache, kind, dir)
	return dir, nil
}

func lookEntry(cache, prefix string) string {
	found, _ := filepath.Glob(filepath.Join(cache, prefix+"-*"))
	if exact := filepath.Join(cache, prefix); len(found) == 0 {
		if _, err := os.Stat(exact); err != nil {
			return ""
		}
		found = []string{exact}
	}
	sort.Strings(found)
	dir := found[len(found)-1]
	now := time.Now()
	if err := os.Chtimes(dir, now, now); errors.Is(err, fs.ErrNotExist) {
		return "" // swept between the two calls
	}
	return dir
}

// The eight entries of a kind that were used last are kept, and whatever was used
// within two hours, since a running test may hold it. 8 images are about 600 MB.
const (
	sweepKeep  = 8
	sweepAfter = 2 * time.Hour
)

func sweep(cache, kind, keep string) {
	all, _ := filepath.Glob(filepath.Join(cache, kind+"-*"))
	used := make(map[string]time.Time, len(all))
	for _, dir := range all {
		if st, err := os.Stat(dir); err == nil {
			used[dir] = st.ModTime()
		}
	}
	sort.Slice(all, func(i, j int) bool { return used[all[i]].After(used[all[j]]) })
	for i, dir := range all {
		if i >= sweepKeep && dir != keep && time.Since(used[dir]) > sweepAfter {
			removeTree(dir) // not worth failing for: the next build tries again
		}
	}
}

// lock takes an exclusive lock on the file at path, waiting until ctx ends.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("cannot lock %q: %v", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waited for another build that holds %q: %w", path, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// removeTree is os.RemoveAll for a tree that may hold folders without write
// permission, which a user other than root cannot empty.
func removeTree(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o755)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
