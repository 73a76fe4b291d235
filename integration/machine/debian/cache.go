package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// RepoDir finds the directory of this repository's go.mod, from the working
// directory upwards: tests run in their package's directory, demos in the root.
func RepoDir() (_ string, err error) {
	defer try.End(&err)
	start := try.Get(os.Getwd())
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

// cacheDir is where built things are kept: $OTA_CACHE, else .cache/integration
// in the repository. It is made when it does not exist. It may be removed at any
// time that no test runs.
func cacheDir() (_ string, err error) {
	defer try.End(&err)
	dir := os.Getenv("OTA_CACHE")
	if dir == "" {
		repo := try.Get(RepoDir())
		dir = filepath.Join(repo, ".cache", "integration")
	}
	dir = try.Get(filepath.Abs(dir))
	return dir, os.MkdirAll(dir, 0o755)
}

// Entry returns the directory name of the cache. When there is none, build is called
// with a new, empty directory, which is put in place by one rename. Two processes that
// want the same entry build it once: the second waits. An entry that was used is marked
// by its mtime, and the ones of the same kind (what is before the first dash) that
// no test used lately are removed when a new one is made.
func Entry(ctx context.Context, name string, build func(ctx context.Context, dir string) error) (_ string, err error) {
	defer try.End(&err)
	cache := try.Get(cacheDir())
	kind, _, _ := strings.Cut(name, "-")
	lock := try.Get(os.OpenFile(filepath.Join(cache, "."+kind+".lock"), os.O_RDWR|os.O_CREATE, 0o644))
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", &fs.PathError{Op: "lock", Path: lock.Name(), Err: err}
	}
	dir := filepath.Join(cache, name)
	now := time.Now()
	if err := os.Chtimes(dir, now, now); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	tmp := filepath.Join(cache, ".new-"+kind) // the lock makes it ours; a leftover is a killed build
	try.Check(errors.Join(os.RemoveAll(tmp), os.Mkdir(tmp, 0o755)))
	defer os.RemoveAll(tmp)
	if err := build(ctx, tmp); err != nil {
		return "", fmt.Errorf("cannot make %s: %w", name, err)
	}
	try.Check(os.Rename(tmp, dir))
	sweep(cache, kind, dir)
	return dir, nil
}

// FromModule returns the program that the package pkg of the module proxy is, for the host,
// building it when the cache has none (minutes, and the network).
func FromModule(ctx context.Context, pkg, version string) (program string, err error) {
	name := path.Base(pkg)
	dir, err := Entry(ctx, name+"-"+version, func(ctx context.Context, dir string) (err error) {
		defer try.End(&err)
		cmd := exec.CommandContext(ctx, "go", "install", "-ldflags", "-s -w", pkg+"@"+version)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOOS=", "GOARCH=")
		try.Run(cmd)
		return nil
	})
	return filepath.Join(dir, name), err
}

// The eight entries of a kind that were used last are kept, and all that were used
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
	slices.SortFunc(all, func(a, b string) int { return used[b].Compare(used[a]) })
	for i, dir := range all {
		if i >= sweepKeep && dir != keep && time.Since(used[dir]) > sweepAfter {
			os.RemoveAll(dir) // not worth failing for: the next build tries again
		}
	}
}

// Hash is the start of the SHA-256 of parts, each closed by a zero byte: 64
// bits are plenty to tell a few dozen cache entries apart.
func Hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write(append([]byte(p), 0))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
