package fetch

import (
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
)

var quiet = log.New(io.Discard, "", 0)

func TestUsage(t *testing.T) {
	for _, row := range []struct {
		url, sha, text string
	}{
		{"", "", "must begin with http:// or https://"},
		{"x.ota", "", "must begin with http:// or https://"},
		{"/tmp/x.ota", "", "must begin with http:// or https://"},
		{"file:///tmp/x.ota", "", `cannot download "file:///tmp/x.ota": the address must begin with`},
		{"ftp://joe:secret@host/x?secret=1", "", `cannot download "ftp://…@host/x?…": the address must begin with`},
		{"gopher://host/", "", "must begin with http:// or https://"},
		{"unix:/run/x", "", "must begin with http:// or https://"},
		{"http:host/x", "", "names no host"},
		{"http:///x", "", "names no host"},
		{"http://:80/x", "", "names no host"},
		{"http://host/\r\nX-Evil: 1", "", "malformed"},
		{"http://joe:secret/x@host/", "", `cannot download "http:…": the address is malformed`},
		{"http://host:port/x?secret", "", "malformed"},
		{"%secret", "", "malformed"},
		{"http://host/%zz?secret", "", "malformed"},
		{"http://host/x", "1234", `"1234" is not a SHA-256 of 64 hex digits`},
		{"http://host/x", strings.Repeat("g", 64), "is not a SHA-256"},
		{"http://host/x", strings.Repeat("0", 66), "is not a SHA-256"},
	} {
		dir := spoolDir(t)
		_, _, err := Fetch(t.Context(), Source{URL: row.url, SHA256: row.sha}, Options{Dir: dir})
		if err == nil {
			t.Errorf("Fetch(%q) succeeded", row.url)
			continue
		}
		checkError(t, err, row.text, bootcheck.ExitUsage, failed)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("Fetch(%q) made the directory", row.url)
		}
		if err := Remove(dir, Source{URL: row.url, SHA256: row.sha}); bootcheck.Exit(err) != bootcheck.ExitUsage {
			t.Errorf("Remove(%q) = %v, want exit code %d", row.url, err, bootcheck.ExitUsage)
		}
	}
}

func TestSpoolName(t *testing.T) {
	name := func(u string) string { return filepath.Base(partOf(t, "", u)) }
	base := name("http://host/a/x.ota")
	for u, same := range map[string]bool{
		"HTTP://HOST/a/x.ota?X-Amz-Signature=1": true, "http://joe:pw@host/a/x.ota#top": true,
		"https://host/a/x.ota": false, "http://host:8080/a/x.ota": false, "http://host/a/y.ota": false,
		"http://host/a%2Fx.ota": false, "http://host2/a/x.ota": false, "http://host/A/x.ota": false,
	} {
		if got := name(u) == base; got != same {
			t.Errorf("the name for %s is that of http://host/a/x.ota: %v, want %v", u, got, same)
		}
	}
}

// TestUnreachable holds that a dead server and a wrong name are clear errors.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	for url, text := range map[string]string{
		"http://" + l.Addr().String() + "/x?secret=1": "nothing listens on 127.0.0.1:",
		"http://no-such-host.invalid/x?secret=1":      "no-such-host.invalid",
	} {
		opt := quick(spoolDir(t))
		var lines []string
		opt.Log = func(line string) { lines = append(lines, line) }
		_, _, err = Fetch(t.Context(), Source{URL: url}, opt)
		if err == nil {
			t.Fatalf("Fetch(%s) succeeded", url)
		}
		checkError(t, err, text, lost, failed)
		if strings.Count(err.Error(), "://") != 1 {
			t.Errorf("%q names the address twice", err)
		}
		if !strings.Contains(bootcheck.Advice(err), "check the ") {
			t.Errorf("advice %q does not say what to check", bootcheck.Advice(err))
		}
		if left := entries(t, opt.Dir); len(left) != 0 {
			t.Errorf("%v are left of a file of which nothing arrived", left)
		}
		// The caller is told soon: a server that was never reached is not waited
		// for as one that has broken off.
		if len(lines) != coldFailures-1 {
			t.Errorf("%d lines were logged, want %d", len(lines), coldFailures-1)
		}
		for _, line := range lines {
			if strings.Contains(line, "secret") || !strings.Contains(line, "trying again in") {
				t.Errorf("logged: %s", line)
			}
		}
	}
}

// TestRefused holds that a file that is refused by its head is not
// fetched any further, that the server has not even sent more, and that
// nothing of it stays.
func TestRefused(t *testing.T) {
	const length = 256 << 20
	refused := bootcheck.Errorf(bootcheck.ExitRefused, bootcheck.CodeSignatureInvalid, "not ours")
	for _, head := range []int64{24, 20_000, headFirst, headFirst + 1, headMore} {
		for _, size := range []int64{length, 0} {
			var sent atomic.Int64
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("ETag", `"x"`)
				http.ServeContent(&counter{w, &sent}, r, "", old, io.NewSectionReader(zeros{}, 0, length))
			})
			opt := quick(spoolDir(t))
			_, st, err := caller{head: head, refuse: func(*File) error { return refused }}.fetch(t.Context(), Source{URL: s.URL + "/x", Size: size}, opt)
			if !errors.Is(err, refused) || err.Error() != "not ours" {
				t.Errorf("Fetch = %v, want %v", err, refused)
			}
			s.CloseClientConnections()
			if n, want := sent.Load(), int64(headFirst); n > want && head <= want || n > headMore {
				t.Errorf("a head of %d bytes was refused when the server had sent %d", head, n)
			}
			if st.Restarts != 0 {
				t.Errorf("%d restarts", st.Restarts)
			}
			if left := entries(t, opt.Dir); len(left) != 0 {
				t.Errorf("%v are left", left)
			}
		}
	}
}

type counter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// TestReadsAlong holds that a reader sees the true bytes, that nothing is there before
// the head is and nothing more is fetched before Want, and that Progress grows to the end.
func TestReadsAlong(t *testing.T) {
	file := content(fileSize, 1)
	for _, size := range []int64{fileSize, 0} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
			if size == 0 {
				http.NewResponseController(w).Flush() // chunked
				w.Write(file)
				return
			}
			serveCut(w, r, file, 100_000)
		})
		opt := quick(spoolDir(t))
		var last, total int64
		ends := 0
		opt.Progress = func(done, all int64) {
			if done < last {
				t.Errorf("Progress falls from %d to %d", last, done)
			}
			if done == fileSize {
				ends++
			}
			last, total = done, all
		}
		c := caller{files: [][]byte{file}, head: 120_000, refuse: func(f *File) error {
			got := make([]byte, f.Have)
			if _, err := f.ReadAt(got, 0); err != nil || f.Have < 120_000 || sum(got) != sum(file[:f.Have]) {
				t.Errorf("of a head of 120000 bytes %d are there that are not the file's (%v)", f.Have, err)
			}
			if _, err := f.ReadAt(got, f.Have+1); err == nil {
				t.Error("more than Have can be read before Want")
			}
			return nil
		}, reads: func(f *File, _ *Download) {
			got := make([]byte, fileSize)
			if _, err := f.ReadAt(got, 0); err != nil || sum(got) != sum(file) {
				t.Errorf("what is read while it arrives is not the file (%v)", err)
			}
		}}
		f, _, err := c.fetch(t.Context(), Source{URL: s.URL + "/x", Size: size}, opt)
		if err != nil {
			t.Fatal(err)
		}
		mustHave(t, f, file)
		if last != fileSize || total != fileSize || ends == 0 {
			t.Errorf("Progress ended at %d of %d", last, total)
		}
	}
}

// TestOneConnection holds that the head and the rest come over one connection.
func TestOneConnection(t *testing.T) {
	file := content(2<<20, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	opt := quick(spoolDir(t))
	f, st, err := caller{head: headFirst + 1}.fetch(t.Context(), Source{URL: s.URL + "/x"}, opt)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
	var ranges []string
	for _, r := range s.asked() {
		ranges = append(ranges, r.Header.Get("Range"))
		if r.RemoteAddr != s.asked()[0].RemoteAddr {
			t.Errorf("%s was asked for over another connection", r.Header.Get("Range"))
		}
	}
	if got, want := strings.Join(ranges, " "), "bytes=0-262143 bytes=262144-1048575 bytes=1048576-"; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
	if st.Fetched != int64(len(file)) || st.Requests != 3 || st.Restarts != 0 {
		t.Errorf("Stats = %+v", st)
	}
}

func TestNoRoom(t *testing.T) {
	file := content(fileSize, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	src := Source{URL: s.URL + "/x?secret=1"}

	t.Run("by the reserve, before the first byte", func(t *testing.T) {
		opt := quick(spoolDir(t))
		opt.Reserve = 1 << 62
		_, st, err := Fetch(t.Context(), src, opt)
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "262144 bytes to come", bootcheck.ExitNoSpace, bootcheck.CodeDiskFull)
		if st.Fetched != 0 || len(entries(t, opt.Dir)) != 0 {
			t.Errorf("%d bytes were fetched, %v are left", st.Fetched, entries(t, opt.Dir))
		}
	})
	t.Run("by the file system, in the middle", func(t *testing.T) {
		from, err := src.parse()
		if err != nil {
			t.Fatal(err)
		}
		sp, err := openSpool(spoolDir(t), from)
		if err != nil {
			t.Fatal(err)
		}
		defer sp.close()
		sp.file.Close()
		if sp.file, err = os.Open("/dev/full"); err != nil { // every write to it is ENOSPC
			t.Fatal(err)
		}
		d := &Download{from: from, opt: quick(""), patience: *quick("").patience, spool: sp, caller: t.Context()}
		d.opt.Prefix = 24
		if d.route, err = newRoute(&d.opt); err != nil {
			t.Fatal(err)
		}
		d.route.dates = calendar.Open(sp.dir.Name(), nil)
		d.begin()
		err = d.run(t.Context())
		if err == nil {
			t.Fatal("the download succeeded")
		}
		checkError(t, err, sp.part+": no space left on device", bootcheck.ExitNoSpace, bootcheck.CodeDiskFull)
		if left := entries(t, sp.dir.Name()); len(left) != 1 || left[0] != lockName {
			t.Errorf("%v are left, want the lock alone: nothing had arrived", left)
		}
		for _, err := range []error{sp.room(1, 1<<62), sp.local(sp.part, syscall.ENOSPC), sp.local(sp.part, syscall.EDQUOT)} {
			if f, ok := errors.AsType[*fault](err); !ok || f.drop {
				t.Errorf("%v: what had arrived would be thrown away", err)
			}
		}
		sp.syncErr = syscall.ENOSPC
		if !sp.local(sp.part, syscall.EIO).drop || !sp.unsynced().drop {
			t.Error("what may not be on the disk would be kept")
		}
	})
	t.Run("no directory", func(t *testing.T) {
		_, _, err := Fetch(t.Context(), src, Options{Dir: "/proc/spool"})
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "mkdir /proc/spool", bootcheck.ExitFailed, failed)
	})
}

func TestOneAtATime(t *testing.T) {
	file := content(fileSize, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	opt := quick(spoolDir(t))
	src := Source{URL: s.URL + "/x?secret=1"}
	f, _, err := caller{refuse: func(*File) error {
		_, _, err := Fetch(t.Context(), Source{URL: s.URL + "/y?secret=1"}, opt)
		if err == nil {
			t.Fatal("two downloads at once")
		}
		checkError(t, err, "another download uses", bootcheck.ExitBusy, failed)
		again := Start(t.Context(), src, opt)
		if _, err := again.Next(); bootcheck.Exit(err) != bootcheck.ExitBusy {
			t.Errorf("Next = %v, want exit code %d", err, bootcheck.ExitBusy)
		}
		if err := again.Drop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(partOf(t, opt.Dir, src.URL)); err != nil {
			t.Errorf("a download that never began deleted the file of another: %v", err)
		}
		return nil
	}}.fetch(t.Context(), src, opt)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
}

// TestSweep holds that leftovers of other downloads go and all else stays.
func TestSweep(t *testing.T) {
	file := content(fileSize, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	opt := quick(spoolDir(t))
	if err := os.Mkdir(opt.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	other := strings.Repeat("0f", 16)
	gone := []string{other + ".part", other + ".json", "." + other + ".json123456"}
	stay := []string{"README", other, other + ".part.bak", "x.part", other[1:] + ".part"}
	for _, name := range append(gone, stay...) {
		write(t, filepath.Join(opt.Dir, name), []byte("x"))
	}
	f, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x"}, opt)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	left := strings.Join(entries(t, opt.Dir), " ")
	for _, name := range stay {
		if !strings.Contains(" "+left+" ", " "+name+" ") {
			t.Errorf("%s is gone", name)
		}
	}
	if want := len(stay) + 2; len(strings.Fields(left)) != want {
		t.Errorf("left: %s; want %d names", left, want)
	}
}

func TestRemoveNothing(t *testing.T) {
	if err := Remove(spoolDir(t), Source{URL: "http://host/x"}); err != nil {
		t.Error(err)
	}
}

// TestRetryAfter holds how the pause is read; that it is cut is seen in
// TestBehaviours.
func TestRetryAfter(t *testing.T) {
	const date = "Fri, 02 Jan 2026 03:04:05 GMT"
	for v, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		"99999999999999999999":          (1<<31 - 1) * time.Second,
		"-7":                            0,
		"7.5":                           0,
		"x":                             0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute,
		"Fri, 02 Jan 2026 03:03:05 GMT": 0,
	} {
		h := http.Header{"Retry-After": {v}, "Date": {date}}
		if got := RetryAfter(h); got != want {
			t.Errorf("Retry-After %q: %v, want %v", v, got, want)
		}
	}
}

// TestPause holds that pauses double up to the longest, and that a server may
// ask for more, but not for more than that.
func TestPause(t *testing.T) {
	d := &Download{patience: usual, size: -1}
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 20: time.Minute} {
		d.failures = failures
		got := d.pause(&fault{})
		if got < want || got > want*3/2 {
			t.Errorf("after %d failures: %v, want %v and at most half more", failures, got, want)
		}
		if got := d.pause(&fault{after: time.Hour}); got != time.Minute {
			t.Errorf("asked for an hour: %v, want 1m", got)
		}
		if got := d.pause(&fault{after: 40 * time.Second}); got < 40*time.Second {
			t.Errorf("asked for 40s: %v", got)
		}
	}
}

// BenchmarkFetch is a download over loopback HTTP to a durable file.
func BenchmarkFetch(b *testing.B) {
	file := content(64<<20, 1)
	s := &server{}
	srv := &http.Server{Handler: s.counting(func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }), ErrorLog: quiet}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go srv.Serve(l)
	defer srv.Close()
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		f, _, err := Fetch(b.Context(), Source{URL: "http://" + l.Addr().String() + "/x", Size: int64(len(file))}, Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
