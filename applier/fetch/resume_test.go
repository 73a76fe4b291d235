package fetch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// interrupt fetches from s until at least want bytes are there, then cancels.
func interrupt(t *testing.T, src Source, opt Options, want int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := caller{head: 24, reads: func(f *File, _ *Download) {
		if _, err := f.ReadAt(make([]byte, 1), want-1); err != nil {
			t.Error(err)
		}
		cancel()
	}}.fetch(ctx, src, opt)
	if err == nil {
		t.Fatal("Fetch succeeded, though it was cancelled")
	}
	checkError(t, err, "interrupted after", lost, failed)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%q is not context.Canceled", err)
	}
}

// halfThenWait serves like serve, but holds the second half of an answer to
// the first request back until the client is gone.
func halfThenWait(b []byte) handler {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			serveHanging(w, r, b)
			return
		}
		serve(w, r, b)
	}
}

// TestResumeByAnotherCall holds what a later call continues from, and when it
// starts over instead.
func TestResumeByAnotherCall(t *testing.T) {
	file, other := content(fileSize, 1), content(fileSize, 2)
	half := int64(fileSize / 2)
	for _, row := range []struct {
		name   string
		meddle func(t *testing.T, part string)
		src    func(Source) Source // of the second call
		now    []byte              // what the server has then; nil: the same
		resume int64               // bytes that the second call continues from
		asks   int                 // requests of the second call; 0: 2
	}{
		{name: "nothing happened in between", resume: half},
		{name: "another presigned query", src: func(s Source) Source { s.URL += "&sig=fresh"; return s }, resume: half},
		{name: "the caller learned the hash", src: func(s Source) Source { s.SHA256 = sum(file); return s }, resume: half, asks: 1},
		{name: "the file changed", now: other, asks: 3},
		{name: "another size is wanted", src: func(s Source) Source { s.Size--; return s }, now: file[:fileSize-1]},
		{name: "the sidecar is gone", meddle: func(t *testing.T, part string) { remove(t, noteOf(part)) }},
		{name: "the sidecar is empty", meddle: func(t *testing.T, part string) { write(t, noteOf(part), nil) }},
		{name: "the sidecar is garbage", meddle: func(t *testing.T, part string) { write(t, noteOf(part), []byte("{]")) }},
		{name: "the sidecar is huge", meddle: func(t *testing.T, part string) { write(t, noteOf(part), bytes.Repeat([]byte(" "), 1<<20)) }},
		{name: "the sidecar is a symlink", meddle: func(t *testing.T, part string) {
			target := filepath.Join(t.TempDir(), "note")
			if err := os.Rename(noteOf(part), target); err != nil {
				t.Fatal(err)
			}
			symlink(t, target, noteOf(part))
		}},
		{name: "the partial file is gone", meddle: remove},
		{name: "the partial file is empty", meddle: func(t *testing.T, part string) { truncate(t, part, 0) }},
		{name: "the partial file is longer than the file", meddle: func(t *testing.T, part string) { truncate(t, part, fileSize+1) }},
		{name: "the partial file is a symlink", meddle: func(t *testing.T, part string) {
			target := filepath.Join(t.TempDir(), "victim")
			write(t, target, file[:half])
			remove(t, part)
			symlink(t, target, part)
			t.Cleanup(func() {
				if b, _ := os.ReadFile(target); !bytes.Equal(b, file[:half]) {
					t.Error("the symlink's target was changed")
				}
			})
		}},
		{name: "the partial file is a hard link", meddle: func(t *testing.T, part string) {
			if err := os.Link(part, filepath.Join(filepath.Dir(part), "victim")); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the partial file is a directory", meddle: func(t *testing.T, part string) {
			remove(t, part)
			if err := os.MkdirAll(filepath.Join(part, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the partial file is a FIFO", meddle: func(t *testing.T, part string) {
			remove(t, part)
			if err := syscall.Mkfifo(part, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "others may write to the partial file", meddle: func(t *testing.T, part string) {
			if err := os.Chmod(part, 0o622); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the partial file is another user's", meddle: func(t *testing.T, part string) {
			if os.Geteuid() != 0 {
				t.Skip("only root may give a file away")
			}
			if err := os.Chown(part, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}},
		// After a power cut only what was synced counts; the rest may be zeros.
		{name: "the power went, all was synced", resume: half, meddle: func(t *testing.T, part string) {
			edit(t, noteOf(part), func(m map[string]any) { m["boot"] = "another" })
		}},
		{name: "the power went, a part was synced", resume: 1000, meddle: func(t *testing.T, part string) {
			edit(t, noteOf(part), func(m map[string]any) { m["boot"], m["synced"] = "another", 1000 })
			zeroFrom(t, part, 1000, half)
		}},
		{name: "the power went, nothing was synced", meddle: func(t *testing.T, part string) {
			edit(t, noteOf(part), func(m map[string]any) { m["boot"], m["synced"] = "another", 0 })
			zeroFrom(t, part, 0, half)
		}},
		{name: "the power went, and the sidecar claims nonsense", meddle: func(t *testing.T, part string) {
			edit(t, noteOf(part), func(m map[string]any) { m["boot"], m["synced"] = "another", -5 })
		}},
		{name: "the process was killed before a sync", resume: half, meddle: func(t *testing.T, part string) {
			edit(t, noteOf(part), func(m map[string]any) { m["synced"] = 0 })
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			now := file
			if row.now != nil {
				now = row.now
			}
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					serveHanging(w, r, file)
					return
				}
				serve(w, r, now)
			})
			opt := quick(spoolDir(t))
			src := Source{URL: s.URL + "/x.ota?sig=old", Size: fileSize}
			interrupt(t, src, opt, half)
			part := partOf(t, opt.Dir, src.URL)
			if fi, err := os.Stat(part); err != nil || fi.Size() != half || fi.Mode().Perm() != 0o600 {
				t.Fatalf("the first call left %v (%v), want %d bytes, 0600", fi, err, half)
			}
			if row.meddle != nil {
				row.meddle(t, part)
			}
			if row.src != nil {
				src = row.src(src)
			}
			f, st, err := Fetch(t.Context(), src, opt)
			if err != nil {
				t.Fatal(err)
			}
			mustHave(t, f, now)
			want := Stats{Size: int64(len(now)), Resumed: row.resume, Fetched: int64(len(now)) - row.resume}
			if src.SHA256 == "" && row.resume >= headSize || row.name == "the file changed" {
				want.Fetched += headSize // to compare
			}
			if st.Requests != cmp.Or(row.asks, 2) {
				t.Errorf("%d requests were sent, want %d", st.Requests, cmp.Or(row.asks, 2))
			}
			least := want.Fetched
			if row.name == "the file changed" { // its head need not be read to the end
				least = int64(len(now)) + 1
			}
			if st.Size != want.Size || st.Resumed != want.Resumed || st.Fetched < least || st.Fetched > want.Fetched {
				t.Errorf("Stats = %+v, want %+v", st, want)
			}
			resumes := 0
			if row.resume > 0 && row.resume < int64(len(now)) {
				resumes = 1
			}
			if st.Resumes != resumes {
				t.Errorf("it continued %d times, want %d", st.Resumes, resumes)
			}
			if err := Remove(opt.Dir, src); err != nil {
				t.Fatal(err)
			}
			for _, e := range entries(t, opt.Dir) {
				if e != "victim" {
					t.Errorf("Remove left %s", e)
				}
			}
		})
	}
}

// TestWholeLeftover holds that a whole file of an earlier call is taken as it
// is when its hash proves it, and else its head is compared.
func TestWholeLeftover(t *testing.T) {
	file, other := content(fileSize, 1), content(fileSize, 2)
	for _, row := range []struct {
		name     string
		sha      bool
		synced   int64 // when the power went; 0: it did not
		now      []byte
		requests int
		fetched  int64
	}{
		{"hash known", true, 0, file, 0, 0},
		{"hash known, the power went", true, fileSize, file, 0, 0},
		{"hash known, the power went before all was synced", true, 1000, file, 2, fileSize - 1000},
		{"hash known, the server has another file", true, 0, other, 0, 0},
		{"hash not known", false, 0, file, 1, headSize},
		{"hash not known, the power went", false, fileSize, file, 1, headSize},
		{"hash not known, the server has another file", false, 0, other, 3, headSize + fileSize},
	} {
		t.Run(row.name, func(t *testing.T) {
			now := file
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, now) })
			opt := quick(spoolDir(t))
			src := Source{URL: s.URL + "/x.ota", Size: fileSize}
			if row.sha {
				src.SHA256 = sum(file)
			}
			f, _, err := Fetch(t.Context(), src, opt)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			if row.synced > 0 {
				edit(t, noteOf(partOf(t, opt.Dir, src.URL)), func(m map[string]any) { m["boot"], m["synced"] = "another", row.synced })
			}
			before := len(s.asked())
			now = row.now
			f, st, err := Fetch(t.Context(), src, opt)
			if err != nil {
				t.Fatal(err)
			}
			want := row.now
			if row.sha {
				want = file
			}
			mustHave(t, f, want)
			least := row.fetched
			if bytes.Equal(want, other) {
				least -= headSize // a head that differs is not read to its end, as a rule
			}
			if n := len(s.asked()) - before; n != row.requests || st.Fetched < least || st.Fetched > row.fetched {
				t.Errorf("%d requests, %d bytes, want %d, %d to %d", n, st.Fetched, row.requests, least, row.fetched)
			}
		})
	}
}

// TestDamagedLeftover holds that a partial file with the right length and the
// wrong bytes never stands in the way: neither with the hash known nor when its head
// is found damaged.
func TestDamagedLeftover(t *testing.T) {
	file := content(fileSize, 1)
	for _, row := range []struct {
		name string
		sha  string
	}{
		{"the hash is known", sum(file)},
		{"its head tells", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newServer(t, halfThenWait(file))
			opt := quick(spoolDir(t))
			src := Source{URL: s.URL + "/x.ota", Size: fileSize, SHA256: row.sha}
			interrupt(t, src, opt, fileSize/2)
			zeroFrom(t, partOf(t, opt.Dir, src.URL), 0, fileSize/2)
			f, st, err := Fetch(t.Context(), src, opt, file)
			if err != nil {
				t.Fatal(err)
			}
			mustHave(t, f, file)
			if st.Restarts != 1 {
				t.Errorf("Restarts = %d, want 1", st.Restarts)
			}
		})
	}
}

// TestSyncs holds that the sidecar of a running download promises bytes only
// after they are synced, and that it does promise them.
func TestSyncs(t *testing.T) {
	file := content(3*roomStep, 1)
	src := Source{URL: "http://host.invalid/x", Size: int64(len(file))}
	from, err := src.parse()
	if err != nil {
		t.Fatal(err)
	}
	dir := spoolDir(t)
	s, err := openSpool(dir, from)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.note(src.Size); err != nil {
		t.Fatal(err)
	}
	write(t, s.part, file)
	synced := func() int64 {
		s.syncing.Wait()
		m, err := readMark(s.json)
		if err != nil {
			t.Fatal(err)
		}
		return m.Synced
	}
	step := func(have int64, ago time.Duration, want int64) {
		t.Helper()
		s.synced = time.Now().Add(-ago)
		if err := s.keep(have, 0); err != nil {
			t.Fatal(err)
		}
		if got := synced(); got != want {
			t.Errorf("%d bytes, %v after the last sync: %d promised, want %d", have, ago, got, want)
		}
	}
	step(roomStep, syncInterval-time.Second, 0)   // much, but just synced
	step(roomStep+1, syncInterval, roomStep+1)    // long ago
	step(roomStep+1, 10*syncInterval, roomStep+1) // nothing new
	step(roomStep+2, 10*syncInterval, roomStep+2) // little, but long ago
	err = s.keep(3*roomStep, 1<<62)
	if err == nil || bootcheck.Exit(err) != bootcheck.ExitNoSpace || bootcheck.ReportCode(err) != bootcheck.CodeDiskFull {
		t.Errorf("keep with no room left = %v, want exit code %d", err, bootcheck.ExitNoSpace)
	}
}

// spoolOf100 is a spool for a file of 100 bytes.
func spoolOf100(t *testing.T) *spool {
	t.Helper()
	from, err := Source{URL: "http://host.invalid/x", Size: 100}.parse()
	if err != nil {
		t.Fatal(err)
	}
	s, err := openSpool(spoolDir(t), from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// TestSyncFails holds that a sync that failed ends the download and takes the
// partial file with it: what of it is on the disk is unknown.
func TestSyncFails(t *testing.T) {
	s := spoolOf100(t)
	pipe, _, err := os.Pipe() // a pipe cannot be synced
	if err != nil {
		t.Fatal(err)
	}
	s.file.Close()
	s.file = pipe
	s.synced = time.Now().Add(-syncInterval)
	if err := s.keep(50, 0); err != nil {
		t.Fatalf("keep waits for the sync: %v", err)
	}
	s.syncing.Wait()
	for name, err := range map[string]error{"keep": s.keep(51, 0), "finish": s.finish(100)} {
		var f *fault
		if !errors.As(err, &f) || f.kind != final || !f.drop {
			t.Fatalf("%s after a failed sync = %v, want the end of the download", name, err)
		}
		checkError(t, err, "sync "+s.part, bootcheck.ExitFailed, failed)
	}
	if m, err := readMark(s.json); err == nil {
		t.Errorf("the sidecar promises %d bytes", m.Synced)
	}
}

// TestSyncFailed holds that what came after a sync that failed is promised by no later one,
// which the kernel may let succeed: what of the partial file is on the disk is unknown.
func TestSyncFailed(t *testing.T) {
	s := spoolOf100(t)
	if err := s.note(100); err != nil {
		t.Fatal(err)
	}
	write(t, s.part, content(50, 1))
	s.syncErr = syscall.EIO
	s.save(50)
	if m, err := readMark(s.json); err != nil || m.Synced > 0 {
		t.Errorf("the sidecar promises %+v (%v), want 0 bytes", m, err)
	}
}

func noteOf(part string) string { return strings.TrimSuffix(part, partSuffix) + noteSuffix }

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, name string, n int64) {
	t.Helper()
	if err := os.Truncate(name, n); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// zeroFrom does what a power cut does to a file whose end was not synced.
func zeroFrom(t *testing.T, name string, from, to int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, to-from), from); err != nil {
		t.Fatal(err)
	}
}

// edit changes a sidecar as JSON: what an older or newer version may have
// written.
func edit(t *testing.T, name string, change func(map[string]any)) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err = json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, b)
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// TestUnsyncedStaysUnsynced holds that bytes of an earlier call, which nothing made durable, are
// not said to be when a later call continues from them: after a power cut they may be zeros.
func TestUnsyncedStaysUnsynced(t *testing.T) {
	file := content(fileSize, 1)
	s := newServer(t, halfThenWait(file))
	opt := quick(spoolDir(t))
	src := Source{URL: s.URL + "/x.ota"}
	interrupt(t, src, opt, fileSize/2)
	part := partOf(t, opt.Dir, src.URL)
	edit(t, noteOf(part), func(m map[string]any) { m["synced"] = 1000 }) // it was killed
	f, st, err := Fetch(t.Context(), src, opt)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
	if m, err := readMark(noteOf(part)); err != nil || m.Synced != 1000 || st.Resumed != fileSize/2 {
		t.Errorf("%d bytes were resumed, and the sidecar says %+v (%v), want 1000 synced", st.Resumed, m, err)
	}
}
