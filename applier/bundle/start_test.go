package bundle

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tope-ota/ota/bootcheck"
)

// TestStart holds that what no donor has is unpacked while a donor's files are taken,
// that nothing is read twice, and that the result is the same.
func TestStart(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 300_000)
	src := treeOf(t, map[string]string{"bin/app": "the app", "etc/conf": "a = 1", "etc/empty": "", "lib/big": big})
	next := treeOf(t, map[string]string{
		"bin/app": "the new app", "etc/conf": "a = 1", "etc/empty": "", "lib/big": big, "lib/new": strings.Repeat("new", 2_000_000), "lib/link": "-> new",
	})
	name := mustCreate(t, contents(next))
	for _, row := range []struct {
		name   string
		rotten string // a file of the donor that is not what it was
	}{{"the donor is intact", ""}, {"a large file of the donor is damaged", "lib/big"}, {"a small one is, that shares a frame", "etc/conf"}} {
		t.Run(row.name, func(t *testing.T) {
			old := t.TempDir()
			d := donor(t, src, old)
			if row.rotten != "" {
				rot(t, old+"/"+row.rotten, 1)
			}
			f, h, m := openBundle(t, name)
			dir := t.TempDir()
			var last int64
			u, err := Begin(h, m, openRoot(t, dir), func(done, _ int64) {
				if done < last {
					t.Errorf("progress went back from %d to %d", last, done)
				}
				last = done
			})
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			offered := func(i int) bool { e := &m.Entries[i]; return e.Path == "etc/conf" || e.Path == "lib/big" }
			spans := h.Missing(m, offered)
			if row.rotten != "" {
				spans = []Span{{0, h.Size(m)}} // what it turns out to need
			}
			r := &onlyAt{t: t, r: f, spans: spans, size: h.Size(m)}
			u.Start(t.Context(), offered, h.Maker(r, nil))
			if err := u.Take(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if err := u.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"bin/app", "lib/new"} { // before Finish
				if _, err := os.Stat(dir + "/" + path); err != nil {
					t.Error(err)
				}
			}
			if err := u.Finish(t.Context(), h.Maker(r, nil)); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(describe(t, next), describe(t, dir)); diff != "" {
				t.Errorf("the tree (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStartFails holds that what fails while a donor's files are taken ends the
// unpacking, and that Close waits for it.
func TestStartFails(t *testing.T) {
	src := treeOf(t, map[string]string{"bin/app": "the app"})
	next := treeOf(t, map[string]string{"bin/app": "the app", "lib/new": "new"})
	f, h, m := openBundle(t, mustCreate(t, contents(next)))
	_ = f.Close()
	u, err := Begin(h, m, openRoot(t, t.TempDir()), nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("the download broke off")
	read := make(chan struct{})
	u.Start(t.Context(), func(i int) bool { return m.Entries[i].Path == "bin/app" }, h.Maker(&failing{gone, read}, nil))
	<-read
	if err := u.Take(t.Context(), donor(t, src, t.TempDir())); err != nil {
		t.Error(err)
	}
	err = u.Finish(t.Context(), h.Maker(&failing{err: gone}, nil))
	if !errors.Is(err, gone) {
		t.Errorf("error %v, want %v", err, gone)
	}
	if bootcheck.Exit(err) == bootcheck.ExitDamaged {
		t.Errorf("the bundle is blamed: %v", err)
	}
	u.Close()
}

// failing is a bundle that cannot be read; read is closed at the first try.
type failing struct {
	err  error
	read chan struct{}
}

func (f *failing) ReadAt([]byte, int64) (int, error) {
	if f.read != nil {
		close(f.read)
		f.read = nil
	}
	return 0, f.err
}
