package bootcheck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// On a kernel whose syncfs is silent about what could not be written, each file and
// directory is synced, and the first that fails ends it.
func TestSyncOnAnOldKernel(t *testing.T) {
	tells, sync := syncfsTells, syncFile
	defer func() { syncfsTells, syncFile = tells, sync }()
	syncfsTells = func() bool { return false }
	m := &Manifest{Entries: []Entry{
		{Path: "bin", Type: TypeDir, Mode: 0o755},
		{Path: "bin/empty", Type: TypeFile, Mode: 0o644},
		{Path: "bin/link", Type: TypeLink, Target: "empty"},
		{Path: "top", Type: TypeFile, Mode: 0o644},
	}}
	begin := func(signature []byte) *Fill {
		f, err := NewFill(t.TempDir(), m, []byte("{}"), signature, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		if err := f.Finish(); err != nil {
			t.Fatal(err)
		}
		return f
	}
	var synced []string
	root := ""
	syncFile = func(f *os.File) error {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			t.Error(err)
		}
		rel, _ := filepath.Rel(root, name)
		synced = append(synced, rel)
		return f.Sync()
	}
	for _, signature := range [][]byte{nil, []byte("signed")} {
		f := begin(signature)
		root, synced = f.root.Name(), nil
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		want := []string{".", ManifestDir, ManifestPath, "bin", "bin/empty", "top"}
		if signature != nil {
			want = append(want, SignaturePath)
		}
		slices.Sort(want)
		if slices.Sort(synced); !slices.Equal(synced, want) {
			t.Errorf("synced:\n%s\nwant:\n%s", strings.Join(synced, "\n"), strings.Join(want, "\n"))
		}
	}

	calls := 0
	syncFile = func(*os.File) error {
		calls++
		return unix.EIO
	}
	if err := begin(nil).Sync(); !errors.Is(err, unix.EIO) || calls != 1 {
		t.Errorf("Sync = %v after %d calls, want EIO after the first", err, calls)
	}
}

// TestReadDirect holds that what is read around the cache is what the file has, also
// where that is no whole block, and where the file system wants intact ones.
func TestReadDirect(t *testing.T) {
	content := make([]byte, 3*hashBuffer/2+123)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	name := t.TempDir() + "/f"
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	buf, err := Buffer(hashBuffer)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	for _, flags := range []int{unix.O_DIRECT, 0} {
		for _, row := range []struct{ at, n int }{{0, hashBuffer}, {hashBuffer, hashBuffer/2 + 123}, {0, 1}, {1, 5000}, {4096, 4097}} {
			f, err := os.OpenFile(name, os.O_RDONLY|flags, 0)
			if errors.Is(err, unix.EINVAL) {
				continue // this file system has none
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := readDirect(f, buf[:row.n], int64(row.at)); err != nil || !bytes.Equal(buf[:row.n], content[row.at:row.at+row.n]) {
				t.Errorf("flags %#x: %d bytes at %d: error %v, or others", flags, row.n, row.at, err)
			}
			if err := readDirect(f, buf[:hashBuffer], hashBuffer); err != io.EOF {
				t.Errorf("flags %#x: past the end: %v, want EOF", flags, err)
			}
		}
	}
}

// What leads to the last directory stays open: a walk in the order of a manifest opens
// each directory once.
func TestDirsStayOpen(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/a/b/c", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	root, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dirs := Dirs{root: root}
	defer dirs.Close()
	first := make(map[string]int)
	for _, p := range []string{"x", "a/x", "a/b/x", "a/b/c/x", "a/b/y", "a/b/c/y", "y", "a/b/c/z"} {
		fd, err := dirs.fd(p)
		if err != nil {
			t.Fatal(err)
		}
		var got, want unix.Stat_t
		if err := errors.Join(unix.Fstat(fd, &got), unix.Stat(filepath.Join(dir, filepath.Dir(p)), &want)); err != nil || got.Ino != want.Ino {
			t.Errorf("fd(%q) is not its directory: %v", p, err)
		}
		parent := filepath.Dir(p)
		if was, ok := first[parent]; ok && was != fd {
			t.Errorf("fd(%q) opened %s once more", p, parent)
		}
		first[parent] = fd
	}
	for _, p := range []string{"link/b/x", "a/../x", "/a/x", "none/x"} {
		if _, err := dirs.fd(p); err == nil {
			t.Errorf("fd(%q) = nil error", p)
		}
	}
	if _, err := dirs.fd("a/b/c/x"); err != nil { // after one that failed
		t.Error(err)
	}
}

// Files are given to takers in batches of one directory, each of them once, and a large
// one alone.
func TestBatches(t *testing.T) {
	m := &Manifest{}
	donor := &Manifest{}
	add := func(path string, size int64) {
		e := Entry{Path: path, Type: TypeFile, Size: size, SHA256: fmt.Sprint(path)}
		m.Entries, donor.Entries = append(m.Entries, e), append(donor.Entries, e)
	}
	for i := range 40 {
		add(fmt.Sprintf("a/%02d", i), 10)
	}
	add("b/half", 600<<10)
	add("b/other-half", 600<<10)
	add("c/large", 5<<20)
	add("c/one", 1)
	add("c/two", 2)
	f := &Fill{M: m, Have: make([]bool, len(m.Entries))}
	var got []string
	for _, batch := range f.batches(f.pairs(donor)) {
		first, last := m.Entries[batch[0].entry].Path, m.Entries[batch[len(batch)-1].entry].Path
		got = append(got, fmt.Sprintf("%d %s %s", len(batch), first, last))
	}
	want := []string{"1 c/large c/large", "32 a/00 a/31", "8 a/32 a/39", "1 b/half b/half", "1 b/other-half b/other-half", "2 c/one c/two"}
	if !slices.Equal(got, want) {
		t.Errorf("batches = %q, want %q", got, want)
	}
	if none := f.batches(nil); len(none) != 0 {
		t.Errorf("batches of nothing = %v", none)
	}
}

// TestParallel holds that each number is worked on once, by several at once, also when two
// work in parallel, and that GOMAXPROCS is what it was after the last.
func TestParallel(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	const n = 4
	var done [2][n]atomic.Int32
	var all sync.WaitGroup
	for c := range done {
		all.Go(func() {
			var together sync.WaitGroup
			together.Add(n)
			Parallel(n, func(share iter.Seq[int]) {
				for i := range share {
					done[c][i].Add(1)
					together.Done()
					together.Wait() // for ever, if one does it all
				}
			})
		})
	}
	all.Wait()
	for c := range done {
		for i := range done[c] {
			if got := done[c][i].Load(); got != 1 {
				t.Errorf("caller %d: number %d was worked on %d times", c, i, got)
			}
		}
	}
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS is %d, it was %d", got, before)
	}
	Parallel(0, func(share iter.Seq[int]) { t.Error("there is nothing to do") })
}
