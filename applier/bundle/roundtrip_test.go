package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/bootcheck"
)

// unpackTo does all steps of an Unpacker that takes nothing from other versions.
func unpackTo(ctx context.Context, r io.ReaderAt, h *Head, m *bootcheck.Manifest, root *os.Root, progress Progress) error {
	u, err := Begin(h, m, root, progress)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := u.Finish(ctx, h.Maker(r, nil)); err != nil {
		return err
	}
	return u.Sync()
}

// treeOf makes a tree from "path" -> content; a path that ends in "/" is a
// directory, a content that begins with "-> " a link.
func treeOf(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range slices.Sorted(mapKeys(files)) {
		content := files[name]
		full := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(full), 0o755)
		target, isLink := strings.CutPrefix(content, "-> ")
		switch {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(full, 0o755)
		case isLink:
			err = os.Symlink(target, full)
		default:
			err = os.WriteFile(full, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mapKeys(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func chmod(t testing.TB, name string, mode uint32) {
	t.Helper()
	// syscall, as os.Chmod has its own idea of setuid.
	if err := syscall.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// sampleTree has one of everything, and files of all sizes that the framing
// treats in another way.
func sampleTree(t testing.TB) string {
	long := strings.Repeat("long-", 40)
	dir := treeOf(t, map[string]string{
		"bin/app":                          "#!/bin/sh\nexit 0\n",
		"bin/helper":                       "-> app",
		"current":                          "-> bin/../bin",
		"dangling":                         "-> bin/made-at-run-time",
		"empty":                            "",
		"empty-dir/":                       "",
		"exactly-512":                      strings.Repeat("x", 512),
		"group/almost":                     bigFile[:groupSize-blockSize-1],
		"group/exactly":                    bigFile[:groupSize-blockSize],
		"group/more":                       bigFile[:groupSize-blockSize+1],
		"large/4MiB-header":                bigFile[:bootcheck.MaxFrameSize-blockSize],
		"large/4MiB":                       bigFile[:bootcheck.MaxFrameSize],
		"large/9MiB":                       bigFile,
		"names/with space":                 "1",
		"names/-rf":                        "2",
		"names/ünïcode 名前":                 "3",
		"names/" + long:                    "4",
		"names/link":                       "-> " + long,
		"names/" + strings.Repeat("m", 93): "name of 99 bytes",
		"names/" + strings.Repeat("n", 94): "name of 100 bytes",
		"names/" + strings.Repeat("o", 95): "name of 101 bytes",
		"names/" + strings.Repeat("p", 93) + "/x": "a directory's slash is the 100th byte",
		"names/" + strings.Repeat("q", 94) + "/x": "a directory's slash is the 101st byte",
		"a-b":  "sorts between a and a/b",
		"a/b":  "",
		"a.b":  "",
		"zero": strings.Repeat("\x00", 1<<20),
	})
	chmod(t, dir+"/bin/app", 0o755)
	chmod(t, dir+"/empty", 0o600)
	chmod(t, dir+"/exactly-512", 0o444)
	chmod(t, dir+"/empty-dir", 0o700)
	chmod(t, dir+"/bin", 0o555)
	t.Cleanup(func() { chmod(t, dir+"/bin", 0o755) })
	return dir
}

func contents(dir string) Contents {
	return Contents{Dir: dir, Version: "1.2.0", Models: []string{"tope-x1"}, Release: 3, Key: testKey, Level: LevelFast}
}

// mustCreate makes a bundle and returns its name.
func mustCreate(t testing.TB, c Contents) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "x.ota")
	if _, err := Create(t.Context(), out, c); err != nil {
		t.Fatal(err)
	}
	return out
}

func openBundle(t testing.TB, name string) (*os.File, *Head, *bootcheck.Manifest) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := ReadHead(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := h.Verify(testKeys())
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Size(m); got != st.Size() {
		t.Errorf("Size = %d, want %d", got, st.Size())
	}
	return f, h, m
}

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

// describe lists a tree: type, mode, and content or target, of each entry.
func describe(t testing.TB, dir string) map[string]string {
	t.Helper()
	list := make(map[string]string)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		if rel == bootcheck.ManifestDir {
			return filepath.SkipDir
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		what := st.Mode().String()
		switch {
		case d.Type() == fs.ModeSymlink:
			what, err = os.Readlink(name)
		case d.Type() == 0:
			var content []byte
			content, err = os.ReadFile(name)
			what += " " + bootcheck.Digest(content)
		}
		list[rel] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func unpack(t testing.TB, name string) (dir string, m *bootcheck.Manifest) {
	t.Helper()
	f, h, m := openBundle(t, name)
	dir = t.TempDir()
	if err := unpackTo(t.Context(), f, h, m, openRoot(t, dir), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // read-only directories stop t.TempDir's own cleaning
		for _, e := range m.Entries {
			if e.Type == bootcheck.TypeDir {
				_ = os.Chmod(filepath.Join(dir, e.Path), 0o700)
			}
		}
	})
	if err := bootcheck.CheckTree(t.Context(), dir, m, bootcheck.Full); err != nil {
		t.Error(err)
	}
	raw, _, err := bootcheck.ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := bootcheck.ReadSnapshotFile(dir, bootcheck.SignaturePath, bootcheck.MaxSignature)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testKeys().Verify(raw, sig); err != nil {
		t.Errorf("the snapshot's own signature: %v", err)
	}
	return dir, m
}

func TestRoundTrip(t *testing.T) {
	src := sampleTree(t)
	expires := time.Date(2030, 12, 31, 23, 59, 59, 0, time.UTC)
	c := contents(src)
	c.NotAfter, c.Services = &expires, []string{"device-api.service"}
	dir, m := unpack(t, mustCreate(t, c))
	if diff := cmp.Diff(describe(t, src), describe(t, dir)); diff != "" {
		t.Errorf("unpacked is not what was packed (-packed +unpacked):\n%s", diff)
	}
	if m.Version != "1.2.0" || m.Release != 3 || !slices.Equal(m.Models, c.Models) || !slices.Equal(m.Services, c.Services) || !m.NotAfter.Equal(expires) {
		t.Errorf("manifest %+v, want what was asked for", m)
	}
}

// A real tree: a part of Go's own sources, more than a thousand files; nightly all of
// them, more than ten thousand.
func TestRoundTripLarge(t *testing.T) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("the go command does not say where its sources are: %v", err)
	}
	src, least := filepath.Join(strings.TrimSpace(string(out)), "src"), 10_000
	if os.Getenv("OTA_TESTS") != "nightly" {
		src, least = filepath.Join(src, "internal"), 1000
	}
	start := time.Now()
	name := mustCreate(t, contents(src))
	created := time.Now()
	dir, m := unpack(t, name)
	t.Logf("%d entries, %d bytes: created in %v, unpacked and checked in %v", len(m.Entries), m.Size, created.Sub(start), time.Since(created))
	if len(m.Entries) < least {
		t.Errorf("only %d entries in %s", len(m.Entries), src)
	}
	if diff := cmp.Diff(describe(t, src), describe(t, dir)); diff != "" {
		t.Errorf("unpacked is not what was packed (-packed +unpacked):\n%s", diff)
	}
}

func TestUnpackNeedsAnEmptyDirectory(t *testing.T) {
	f, h, m := openBundle(t, mustCreate(t, contents(treeOf(t, map[string]string{"a": "new"}))))
	dir := treeOf(t, map[string]string{"a": "old"})
	err := unpackTo(t.Context(), f, h, m, openRoot(t, dir), nil)
	if err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("Unpack: %v", err)
	}
	if got, _ := os.ReadFile(dir + "/a"); string(got) != "old" {
		t.Errorf("Unpack wrote over a file: %q", got)
	}
}

func TestUnpackCanceled(t *testing.T) {
	f, h, m := openBundle(t, mustCreate(t, contents(treeOf(t, map[string]string{"a": bigFile, "b": bigFile}))))
	ctx, cancel := context.WithCancel(t.Context())
	err := unpackTo(ctx, f, h, m, openRoot(t, t.TempDir()), func(int64, int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Unpack: %v, want %v", err, context.Canceled)
	}
}

func TestProgress(t *testing.T) {
	f, h, m := openBundle(t, mustCreate(t, contents(sampleTree(t))))
	var last int64
	calls := 0
	err := Check(t.Context(), f, h, m, func(done, total int64) {
		calls++
		if done < last || total != m.Size {
			t.Errorf("progress %d of %d after %d, want of %d", done, total, last, m.Size)
		}
		last = done
	})
	if err != nil || last != m.Size || calls != len(m.Frames) {
		t.Errorf("Check: %v; progress ended at %d of %d after %d calls, want %d calls", err, last, m.Size, calls, len(m.Frames))
	}
}

// readerAt fails at one place, as a disk does, or a download.
type readerAt struct {
	*bytes.Reader
	bad int64
	err error
}

func (r readerAt) ReadAt(b []byte, off int64) (int, error) {
	if off <= r.bad && r.bad < off+int64(len(b)) {
		return 0, r.err
	}
	return r.Reader.ReadAt(b, off)
}

// "Only the bundle is broken" and "the disk is broken" are different. So is a
// connection that ended early, although that is an io.ErrUnexpectedEOF inside.
func TestReadErrors(t *testing.T) {
	b := baseRecipe().bake(t)
	whole := bytes.NewReader(b)
	h, err := ReadHead(whole, -1)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := h.Verify(testKeys())
	if err != nil {
		t.Fatal(err)
	}
	for _, cause := range []error{syscall.EIO, fmt.Errorf("lost: %w", io.ErrUnexpectedEOF), fmt.Errorf("lost: %w", io.EOF)} {
		for _, bad := range []int64{0, 30, h.PayloadOffset, int64(len(b)) - 1, int64(len(b))} {
			r := readerAt{whole, bad, cause}
			_, err := ReadHead(r, -1)
			if err == nil {
				err = Check(t.Context(), r, h, m, nil)
			}
			if !errors.Is(err, cause) || bootcheck.Exit(err) != bootcheck.ExitFailed {
				t.Errorf("%v at byte %d: %v, exit %d, want exit %d", cause, bad, err, bootcheck.Exit(err), bootcheck.ExitFailed)
			}
		}
	}
	// More arrived than was signed, and the length was unknown.
	long := append(bytes.Clone(b), 'x')
	if err := Check(t.Context(), bytes.NewReader(long), h, m, nil); bootcheck.Exit(err) != bootcheck.ExitDamaged {
		t.Errorf("Check of a bundle with something behind it: %v", err)
	}
}

// The memory must not depend on the bundle.
func TestMemory(t *testing.T) {
	files := make(map[string]string)
	for i := range 9 {
		files[fmt.Sprint("f", i)] = bigFile
	}
	f, h, m := openBundle(t, mustCreate(t, contents(treeOf(t, files))))
	clear(files)
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	err := Check(t.Context(), f, h, m, func(int64, int64) {
		runtime.GC() // what is held, not what a busy machine has not collected yet
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapAlloc)
	})
	if err != nil {
		t.Fatal(err)
	}
	grown := int64(peak) - int64(before.HeapAlloc)
	t.Logf("%d bytes checked with %d bytes of heap", m.Size, grown)
	if limit := int64(maxWorkers * (2*bootcheck.MaxFrameSize + 2<<20)); grown > limit {
		t.Errorf("the heap grew by %d bytes, want at most %d", grown, limit)
	}
}
