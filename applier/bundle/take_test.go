package bundle

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// onlyAt reads the parts of a bundle that it was told, and nothing else.
type onlyAt struct {
	t     *testing.T
	r     io.ReaderAt
	spans []Span
	size  int64
	read  atomic.Int64
}

func (o *onlyAt) ReadAt(p []byte, off int64) (int, error) {
	if off == o.size {
		return 0, io.EOF
	}
	for _, s := range o.spans {
		if s.First <= off && off+int64(len(p)) <= s.End {
			o.read.Add(int64(len(p)))
			return o.r.ReadAt(p, off)
		}
	}
	o.t.Errorf("%d bytes at %d were read, which are not in %v", len(p), off, o.spans)
	return 0, io.ErrUnexpectedEOF
}

// donor unpacks a version of the tree src, on the disk of dir.
func donor(t *testing.T, src, dir string) bootcheck.Donor {
	t.Helper()
	f, h, m := openBundle(t, mustCreate(t, contents(src)))
	if err := unpackTo(t.Context(), f, h, m, openRoot(t, dir), nil); err != nil {
		t.Fatal(err)
	}
	return bootcheck.Donor{Dir: dir, Manifest: m, Share: bootcheck.ShareFile}
}

func stat(t *testing.T, name string) *syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	return &st
}

// rot flips a bit of a file, as flash does: no program wrote to it, so its time stays.
func rot(t *testing.T, name string, at int64) {
	t.Helper()
	before := stat(t, name)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := unix.UtimesNano(name, []unix.Timespec{unix.Timespec(before.Atim), unix.Timespec(before.Mtim)}); err != nil {
		t.Fatal(err)
	}
}

// TestTake holds that the files that another version has come from it, that only
// what it has not is read from the bundle, and that the result is the same.
func TestTake(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 300_000)
	src := treeOf(t, map[string]string{
		"bin/app": "the app", "bin/tool": "a tool", "etc/conf": "a = 1", "etc/empty": "",
		"lib/big": big, "lib/link": "-> big", "lib/other": strings.Repeat("x", 100_000),
	})
	chmod(t, src+"/bin/app", 0o755)
	next := treeOf(t, map[string]string{
		"bin/app": "the new app", "bin/tool": "a tool", "etc/conf": "a = 1", "etc/empty": "", "etc/moved": "a = 1",
		"lib/big2": big, "lib/link": "-> big2", "lib/other": strings.Repeat("x", 100_000),
	})
	chmod(t, next+"/bin/app", 0o755)
	chmod(t, next+"/bin/tool", 0o755) // it was 0644: cannot be the same file
	name := mustCreate(t, contents(next))

	for _, row := range []struct {
		name   string
		meddle func(t *testing.T, dir string, d *bootcheck.Donor)
		fetch  []string // what comes out of the bundle, beside bin/app
		copied []string // what is not shared although it was taken
		damage []string // what of the donor is said to be damaged; nil: the same as fetch
	}{
		{name: "no program wrote to it"},
		{name: "a bit of a file flipped", fetch: []string{"lib/big2"}, damage: []string{"lib/big"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			rot(t, dir+"/lib/big", 12345)
		}},
		{name: "a bit of a file flipped, and the donor has it twice", damage: []string{"etc/conf"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			// As if etc/conf2 were listed, with the content of etc/conf.
			rot(t, dir+"/etc/conf", 1)
			if err := os.WriteFile(dir+"/etc/conf2", []byte("a = 1"), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, e := range d.Manifest.Entries {
				if e.Path == "etc/conf" {
					e.Path = "etc/conf2"
					d.Manifest.Entries = append(d.Manifest.Entries, e)
				}
			}
		}},
		{name: "a file is gone", fetch: []string{"lib/big2"}, damage: []string{"lib/big"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) { os.Remove(dir + "/lib/big") }},
		{name: "a file was cut", fetch: []string{"lib/big2"}, damage: []string{"lib/big"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) { os.Truncate(dir+"/lib/big", 10) }},
		{name: "a file is a link to where it is now", fetch: []string{"lib/big2"}, damage: []string{"lib/big"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			os.Rename(dir+"/lib/big", dir+"/lib/bigger")
			os.Symlink("bigger", dir+"/lib/big")
		}},
		{name: "a directory is a link out of it", fetch: []string{"lib/big2", "lib/other"}, damage: []string{"lib/big", "lib/other"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			out := t.TempDir()
			os.Rename(dir+"/lib", out+"/lib")
			os.Symlink(out+"/lib", dir+"/lib")
		}},
		{name: "a file is a FIFO", fetch: []string{"lib/big2"}, damage: []string{"lib/big"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			os.Remove(dir + "/lib/big")
			syscall.Mkfifo(dir+"/lib/big", 0o644)
		}},
		{name: "a directory is a FIFO", fetch: []string{"lib/big2", "lib/other"}, damage: []string{"lib/big", "lib/other"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			os.Rename(dir+"/lib", dir+"/lib2")
			syscall.Mkfifo(dir+"/lib", 0o755)
		}},
		{name: "others can write to a file", copied: []string{"lib/other"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) { chmod(t, dir+"/lib/other", 0o646) }},
		{name: "a file belongs to a service", copied: []string{"lib/other"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			if os.Geteuid() != 0 {
				t.Skip("SKIPPED: only root can give a file away")
			}
			if err := os.Chown(dir+"/lib/other", 65534, -1); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "a file has another mode", copied: []string{"lib/other"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) { chmod(t, dir+"/lib/other", 0o600) }},
		{name: "nothing may be shared", copied: []string{"etc/conf", "etc/moved", "lib/big2", "lib/other"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) { d.Share = bootcheck.ShareNothing }},
		{name: "a copy of a file that was changed", fetch: []string{"lib/other"}, copied: []string{"etc/conf", "etc/moved", "lib/big2"}, meddle: func(t *testing.T, dir string, d *bootcheck.Donor) {
			d.Share = bootcheck.ShareNothing
			rot(t, dir+"/lib/other", 99_999)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			store := t.TempDir()
			old, new := filepath.Join(store, "old"), filepath.Join(store, "new")
			for _, dir := range []string{old, new} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			d := donor(t, src, old)
			var damage []string
			d.Damaged = func(path string, why error) {
				damage = append(damage, path)
				t.Logf("%s: %v", path, why)
			}
			if row.meddle != nil {
				row.meddle(t, old, &d)
			}
			before := describe(t, old)
			f, h, m := openBundle(t, name)
			u, err := Begin(h, m, openRoot(t, new), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			if err := u.Take(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			want := row.damage
			if want == nil {
				want = row.fetch
			}
			if slices.Sort(damage); !slices.Equal(damage, want) {
				t.Errorf("damaged: %q, want %q", damage, want)
			}
			r := &onlyAt{t: t, r: f, spans: h.Missing(m, func(i int) bool { return u.Have[i] }), size: h.Size(m)}
			if err := u.Finish(t.Context(), h.Maker(r, nil)); err != nil {
				t.Fatal(err)
			}
			if err := u.Sync(); err != nil {
				t.Fatal(err)
			}
			if err := bootcheck.CheckTree(t.Context(), new, m, bootcheck.Full); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(describe(t, next), describe(t, new)); diff != "" {
				t.Errorf("the new version is not what was packed (-packed +unpacked):\n%s", diff)
			}
			if diff := cmp.Diff(before, describe(t, old)); diff != "" {
				t.Errorf("the other version was changed:\n%s", diff)
			}
			for name, from := range map[string]string{
				"bin/app": "", "bin/tool": "", "etc/conf": "etc/conf", "etc/moved": "etc/conf", "lib/big2": "lib/big", "lib/other": "lib/other",
			} {
				one := map[string]bool{"": true}
				for _, n := range append(row.fetch, row.copied...) {
					one[n] = true
				}
				is := stat(t, filepath.Join(new, name))
				shared := from != "" && !one[name]
				if !shared {
					if is.Nlink != 1 {
						t.Errorf("%s has %d names, want a file of its own", name, is.Nlink)
					}
					continue
				}
				// Cloned, where this file system can.
				if is.Nlink == 1 && !cloned(t, store) {
					t.Errorf("%s is a file of its own, want %s of the other version", name, from)
				}
			}
			limit := int64(groupSize)
			for _, n := range row.fetch {
				if strings.HasPrefix(n, "lib/") {
					limit = h.Size(m)
				}
			}
			if read := r.read.Load(); read > limit {
				t.Errorf("%d bytes of the bundle were read, want at most %d", read, limit)
			}
		})
	}
}

// cloned reports whether the file system of dir can clone files.
func cloned(t *testing.T, dir string) bool {
	t.Helper()
	a, err := os.CreateTemp(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := os.CreateTemp(dir, "b")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	return unix.IoctlFileClone(int(b.Fd()), int(a.Fd())) == nil
}

// TestTakeFromSeveral holds that what one version has not, another may have.
func TestTakeFromSeveral(t *testing.T) {
	store := t.TempDir()
	for _, dir := range []string{"1", "2", "3"} {
		if err := os.Mkdir(filepath.Join(store, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := donor(t, treeOf(t, map[string]string{"a": "of the first", "x": "else"}), store+"/1")
	b := donor(t, treeOf(t, map[string]string{"b": "of the second", "a": "else"}), store+"/2")
	next := treeOf(t, map[string]string{"one": "of the first", "two": "of the second"})
	_, h, m := openBundle(t, mustCreate(t, contents(next)))
	var last int64
	u, err := Begin(h, m, openRoot(t, store+"/3"), func(done, _ int64) { last = done })
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for _, d := range []bootcheck.Donor{a, b} {
		if err := u.Take(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if spans := h.Missing(m, func(i int) bool { return u.Have[i] }); len(spans) != 0 {
		t.Errorf("missing: %v, want nothing", spans)
	}
	if spans := h.Missing(m, func(int) bool { return true }); len(spans) != 0 {
		t.Errorf("Missing = %v when all is there, want nothing", spans)
	}
	if spans := h.Missing(m, func(int) bool { return false }); len(spans) != 1 || spans[0] != (Span{h.PayloadOffset, h.Size(m)}) {
		t.Errorf("Missing = %v when nothing is there, want the payload", spans)
	}
	nothing := &onlyAt{t: t, size: h.Size(m)}
	if err := u.Finish(t.Context(), h.Maker(nothing, nil)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(describe(t, next), describe(t, store+"/3")); diff != "" {
		t.Errorf("(-packed +unpacked):\n%s", diff)
	}
	if last != 0 && last != m.Size {
		t.Errorf("Progress ended at %d of %d", last, m.Size)
	}
}

func TestTakeCanceled(t *testing.T) {
	store := t.TempDir()
	for _, dir := range []string{"1", "2"} {
		if err := os.Mkdir(filepath.Join(store, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	src := treeOf(t, map[string]string{"a": "1", "b": "2"})
	d := donor(t, src, store+"/1")
	_, h, m := openBundle(t, mustCreate(t, contents(src)))
	u, err := Begin(h, m, openRoot(t, store+"/2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := u.Take(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("Take: %v, want %v", err, context.Canceled)
	}
}
