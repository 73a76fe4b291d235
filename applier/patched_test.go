package applier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/applier/patch"
	"github.com/tope-ota/ota/bootcheck"
)

// A site serves 1.1.0.ota and the patch from 1.0.1 beside it.
type site struct {
	*device
	url, ota string
	otp      []byte
	sum      string // of the manifest of 1.0.1
	mu       sync.Mutex
	patches  int                                                      // requests for the patch
	bundles  int                                                      // and for the bundle
	before   func(w http.ResponseWriter, r *http.Request, n int) bool // of the patch; true: it has answered
}

// A release is 1.0.1, 1.1.0, the patch between them, and the key that signed all. In 1.1.0 a
// large file is different, and most of the others are, too.
type release struct {
	key           minisign.PrivateKey
	old, new, otp []byte
	sum           string // of the manifest of 1.0.1
}

// theRelease is that of the tests that need no other: to make one takes longer than they do.
var theRelease struct {
	sync.Once
	release
}

// release makes one on d.
func (d *device) release(change func(c *bundle.Contents)) release {
	for i := range 40 {
		d.write(fmt.Sprintf("tree-1.0.1/lib/%d.txt", i), noise(fmt.Sprint(i), 20_000))
		d.write(fmt.Sprintf("tree-1.1.0/lib/%d.txt", i), noise(fmt.Sprint(i), 20_000+i%2))
	}
	large := noise("large", 3<<19)
	d.write("tree-1.0.1/bin/large", large)
	d.write("tree-1.1.0/bin/large", large[:1<<20]+"inserted"+large[1<<20:])
	d.write("tree-1.1.0/lib/new.txt", "new")
	old, ota := d.bundle("1.0.1", nil), d.bundle("1.1.0", change)
	made, err := patch.Make(d.t.Context(), old, ota, d.key, nil)
	d.must(err)
	return release{d.key, d.read(old), d.read(ota), d.read(made.File), strings.TrimSuffix(filepath.Base(made.File), ".otp")}
}

// newSite has a device that runs 1.0.1 of theRelease, or of one whose bundles have a change.
func newSite(t *testing.T, change func(c *bundle.Contents)) *site {
	t.Helper()
	s := &site{device: newDevice(t)}
	r := &theRelease.release
	if change != nil {
		r = new(s.release(change))
	} else {
		theRelease.Do(func() { *r = s.release(nil) })
	}
	public, err := r.key.Public().(minisign.PublicKey).MarshalText()
	s.must(err)
	s.write("etc/keys/release.pub", string(public)+"\n")
	s.key, s.otp, s.sum = r.key, r.otp, r.sum
	s.must(s.install(s.write("1.0.1.ota", string(r.old)), installOptions{force: true}))
	s.confirm()
	s.ota = s.write("1.1.0.ota", string(r.new))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		name := s.ota
		if strings.HasSuffix(r.URL.Path, ".otp") {
			name = ""
			s.patches++
		} else {
			s.bundles++
		}
		n := s.patches
		s.mu.Unlock()
		switch {
		case name != "":
			http.ServeFile(w, r, name)
		case s.before != nil && s.before(w, r, n):
		case r.URL.Path != "/1.1.0.ota.from/"+s.sum+".otp":
			http.NotFound(w, r)
		default:
			send(w, r, s.otp)
		}
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	s.url = server.URL + "/1.1.0.ota"
	return s
}

func send(w http.ResponseWriter, r *http.Request, data []byte) {
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// spooled are the files that downloads left.
func (s *site) spooled() (names []string) {
	s.must(filepath.WalkDir(s.cfg.Spool, func(name string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".part") {
			names = append(names, name)
		}
		return err
	}))
	return names
}

// One request brings the new version.
func TestPatch(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	s.must(s.install(s.url, installOptions{}))
	if s.runs() != "1.1.0" || s.patches != 1 || s.bundles != 0 {
		t.Errorf("%s runs after %d requests for the patch and %d for the bundle, want 1.1.0, 1 and 0\n%s", s.runs(), s.patches, s.bundles, &s.log)
	}
	if strings.Contains(s.log.String(), "patch") {
		t.Errorf("it says\n%s", &s.log)
	}
	if names := s.spooled(); len(names) > 0 {
		t.Errorf("left in the spool: %v", names)
	}
	s.whole()
}

// whole checks every byte of 1.1.0.
func (s *site) whole() {
	s.t.Helper()
	store, err := bootcheck.Open(s.cfg.Root)
	s.must(err)
	snapshot, err := store.Snapshot("1.1.0")
	s.must(err)
	s.must(store.Verify(s.t.Context(), &snapshot.Ref, bootcheck.Full))
}

// With any fault of a patch the bundle brings the version; what it is refused for, it is
// refused for.
func TestWithoutPatch(t *testing.T) {
	status := func(code int) func(t *testing.T, s *site) {
		return func(t *testing.T, s *site) {
			s.before = func(w http.ResponseWriter, r *http.Request, n int) bool {
				w.WriteHeader(code)
				return true
			}
		}
	}
	flip := func(at func(n int) int) func(t *testing.T, s *site) {
		return func(t *testing.T, s *site) {
			s.otp = bytes.Clone(s.otp)
			s.otp[at(len(s.otp))] ^= 1
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, s *site)
		want  string // in the log; empty: nothing about a patch
	}{
		{"there is none", status(404), ""},
		{"an object store that does not let list", status(403), ""},
		{"the server fails", status(500), "no patch: cannot download .* 500"},
		{"the server is a portal", func(t *testing.T, s *site) { s.otp = []byte("<html><title>please log in</title></html>") }, "no patch: not a patch"},
		{"it is empty", func(t *testing.T, s *site) { s.otp = nil }, "no patch: "},
		{"it is cut off in its head", func(t *testing.T, s *site) { s.otp = s.otp[:100] }, "no patch: the patch is cut off"},
		{"it is cut off at the end", func(t *testing.T, s *site) { s.otp = s.otp[:len(s.otp)-1] }, "no patch: the patch is cut off"},
		{"something follows", func(t *testing.T, s *site) { s.otp = append(bytes.Clone(s.otp), 0) }, "no patch: something follows"},
		{"a bit of the signature", flip(func(int) int { return 150 }), "no patch: "},
		{"a bit of the last frame", flip(func(n int) int { return n - 1 }), "no patch: the patch is damaged"},
		{"the connection breaks repeatedly", func(t *testing.T, s *site) {
			s.before = func(w http.ResponseWriter, r *http.Request, n int) bool {
				if n == 1 {
					w.Header().Set("Content-Length", fmt.Sprint(len(s.otp)))
					_, _ = w.Write(s.otp[:len(s.otp)/2])
					panic(http.ErrAbortHandler)
				}
				w.WriteHeader(404)
				return true
			}
		}, ""},
		{"another key", func(t *testing.T, s *site) {
			_, key, err := minisign.GenerateKey(nil)
			s.must(err)
			made, err := patch.Make(t.Context(), s.path("1.0.1.ota"), s.ota, key, nil)
			s.must(err)
			s.otp = s.read(made.File)
		}, "no patch: .*not trusted here"},
		{"another pair", func(t *testing.T, s *site) {
			made, err := patch.Make(t.Context(), s.bundle("0.9.0", nil), s.ota, s.key, nil)
			s.must(err)
			s.otp = s.read(made.File)
		}, "no patch: the patch is refused: it is for the version with the manifest"},
		{"a file of the old version is rotten", func(t *testing.T, s *site) {
			name := s.path("versions/v1.0.1/bin/large")
			data := s.read(name)
			data[len(data)-1] ^= 1
			s.must(os.WriteFile(name, data, 0o600))
		}, "warning: version 1.0.1 .*is damaged: bin/large: sha256 .*no patch: the patch cannot be used: \"bin/large\""},
		{"a file of the old version is a FIFO", func(t *testing.T, s *site) {
			name := s.path("versions/v1.0.1/bin/large")
			s.must(os.Remove(name))
			s.must(unix.Mkfifo(name, 0o600))
		}, "is damaged: bin/large: it is not a file"},
		{"a file that was to be reused is gone", func(t *testing.T, s *site) {
			s.must(os.Remove(s.path("versions/v1.0.1/lib/0.txt")))
		}, "no patch: the patch (does not make|cannot be used:) \"lib/0.txt\""},
		{"no room in its directory", func(t *testing.T, s *site) {
			s.must(os.MkdirAll(s.cfg.Spool, 0o700))
			s.must(os.WriteFile(s.cfg.Spool+"/patch", nil, 0o600))
		}, "no patch: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, nil)
			s.device.t = t
			tt.spoil(t, s)
			s.must(s.install(s.url, installOptions{}))
			if s.runs() != "1.1.0" || s.bundles == 0 {
				t.Errorf("%s runs after %d requests for the bundle", s.runs(), s.bundles)
			}
			log := strings.ReplaceAll(s.log.String(), "\n", " ")
			if tt.want == "" && strings.Contains(log, "no patch") || !regexp.MustCompile(tt.want).MatchString(log) {
				t.Errorf("it says\n%s\nwant %q", &s.log, tt.want)
			}
			s.whole()
			if names := s.spooled(); len(names) > 0 {
				t.Errorf("left in the spool: %v", names)
			}
		})
	}
}

// What a version is refused for is final: its bundle is not even asked for.
func TestPatchRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(c *bundle.Contents) { c.Models = []string{"x2"} })
	if err := s.install(s.url, installOptions{}); bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(err.Error(), "x2") {
		t.Errorf("%v, want it refused for the model", err)
	}
	if s.runs() != "1.0.1" || s.bundles != 0 || len(s.spooled()) > 0 {
		t.Errorf("%s runs, the bundle was asked for %d times, %v is left", s.runs(), s.bundles, s.spooled())
	}
}

// An interrupted download resumes.
func TestPatchResumes(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var ranges []string
	s.before = func(w http.ResponseWriter, r *http.Request, n int) bool {
		ranges = append(ranges, r.Header.Get("Range"))
		if n > 1 {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(s.otp)))
		w.Header().Set("Accept-Ranges", "bytes")
		_, _ = w.Write(s.otp[:len(s.otp)-1000])
		w.(http.Flusher).Flush()
		for len(s.spooled()) == 0 || size(s.spooled()[0]) < int64(len(s.otp)-1000) {
			select {
			case <-r.Context().Done():
			default:
				continue
			}
			break
		}
		cancel()
		<-r.Context().Done()
		return true
	}
	s.refusedKeeping(s.installCtx(ctx, s.url, installOptions{}))
	s.must(s.install(s.url, installOptions{}))
	if s.runs() != "1.1.0" || s.bundles != 0 {
		t.Errorf("%s runs after %d requests for the bundle", s.runs(), s.bundles)
	}
	if last := ranges[len(ranges)-1]; len(ranges) < 2 || !strings.HasPrefix(last, fmt.Sprintf("bytes=%d-", len(s.otp)-1000)) {
		t.Errorf("ranges %q, want the last to begin at %d", ranges, len(s.otp)-1000)
	}
	s.whole()
}

func (s *site) refusedKeeping(err error) {
	s.t.Helper()
	if bootcheck.Exit(err) != bootcheck.ExitDownloadFailed || len(s.spooled()) != 1 || s.bundles != 0 {
		s.t.Fatalf("%v, %v, %d requests for the bundle", err, s.spooled(), s.bundles)
	}
}

// Nothing is asked for where nothing can be, or is wanted.
func TestPatchNotAsked(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	o := installOptions{dryRun: true}
	sum := fmt.Sprintf("%x", sha256.Sum256(s.read(s.ota)))
	for name, run := range map[string]func() error{
		"--no-patch":          func() error { o := o; o.noPatch = true; return s.dry(s.url, o) },
		"--sha256":            func() error { o := o; o.sha256 = sum; return s.dry(s.url, o) },
		"a presigned address": func() error { return s.dry(s.url+"?signature=x", o) },
		"a file":              func() error { return s.dry(s.ota, o) },
	} {
		if err := run(); err != nil || s.patches != 0 {
			t.Errorf("%s: %v, %d requests", name, err, s.patches)
		}
	}
	o.patch = s.url + ".from/" + s.sum + ".otp"
	if err := s.dry(s.url+"?signature=x", o); err != nil || s.patches != 1 {
		t.Errorf("--patch beside a presigned address: %v, %d requests", err, s.patches)
	}
}

func (s *site) dry(from string, o installOptions) error {
	s.log.Reset()
	a := &applier{cfg: s.cfg, out: io.Discard, log: &s.log}
	return a.dryRun(s.t.Context(), from, o, false)
}

// A dry run tells what comes by the patch, and how many requests it takes.
func TestPatchDryRun(t *testing.T) {
	t.Parallel()
	s := newSite(t, nil)
	look := func(o installOptions) (f forecast) {
		t.Helper()
		var out bytes.Buffer
		a := &applier{cfg: s.cfg, out: &out, log: &s.log}
		s.must(a.dryRun(t.Context(), s.url, o, true))
		s.must(json.Unmarshal(out.Bytes(), &f))
		return f
	}
	f := look(installOptions{})
	if f.Patch != int64(len(s.otp)) || f.Download != f.Patch || f.Frames != 0 || f.Requests != 1 || f.Bundle != size(s.ota) || f.ReuseFiles != 20 {
		t.Errorf("with a patch of %d bytes %+v", len(s.otp), f)
	}
	f = look(installOptions{noPatch: true})
	if f.Patch != 0 || f.Frames != f.Download || f.Download < 3<<19 || f.Requests < 2 {
		t.Errorf("without a patch %+v", f)
	}
}

func size(name string) int64 {
	info, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return info.Size()
}
