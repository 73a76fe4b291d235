package flows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// A World is what all flows take from: programs, keys, bundles and a server. It is
// made once and then only read; many sites may use it at the same time.
type World struct {
	Dir string // bin/, bundles/, k.key, keys/

	server  *httptest.Server
	bin     string
	half    *atomic.Int32       // how many sites download a half, see serve
	mu      *sync.Mutex         // of reports
	reports map[string][]string // of each site: the stages that were reported
	hears   map[string]func(stage string)
}

// NewWorld makes a world in dir, which must exist. flags are further ones of `go
// build`, as -overlay=FILE for a mutant. The caller closes it.
func NewWorld(ctx context.Context, dir string, flags ...string) (_ *World, err error) {
	defer try.End(&err)
	w := &World{
		Dir: dir, bin: filepath.Join(dir, "bin"), half: new(atomic.Int32), mu: new(sync.Mutex),
		reports: make(map[string][]string), hears: make(map[string]func(string)),
	}
	repo := try.Get(debian.RepoDir())
	try.Check(w.build(ctx, repo, []string{"ota-guardian", "ota-apply", "ota-bundle"}, flags))
	try.Check(w.makeBundles(ctx))
	w.server = httptest.NewServer(http.HandlerFunc(w.serve))
	return w, nil
}

// Rebuild is w, with the one program built again into dir, with flags of `go build`.
func (w *World) Rebuild(ctx context.Context, program, dir string, flags ...string) (_ *World, err error) {
	defer try.End(&err)
	r := *w
	r.bin = filepath.Join(dir, "bin")
	repo := try.Get(debian.RepoDir())
	try.Check(r.build(ctx, repo, []string{program}, flags))
	for _, other := range []string{"ota-guardian", "ota-apply", "ota-bundle"} {
		if other != program {
			try.Check(os.Symlink(w.Program(other), r.Program(other)))
		}
	}
	return &r, nil
}

// build makes programs as they are shipped, but for flags.
func (w *World) build(ctx context.Context, repo string, programs, flags []string) error {
	for _, name := range programs {
		pkg := "./applier/cmd/" + name
		if name == "ota-guardian" {
			pkg = "./guardian/cmd/" + name
		}
		args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", w.Program(name)}, flags...)
		cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
		cmd.Dir = repo
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// Close ends the server. The files stay.
func (w *World) Close() { w.server.Close() }

// Program is the file of ota-guardian, ota-apply or ota-bundle.
func (w *World) Program(name string) string { return filepath.Join(w.bin, name) }

func (w *World) bundle(version string) string {
	return filepath.Join(w.Dir, "bundles", version+".ota")
}

// Next is the good version that every aftermath ends with.
const Next = "9.0.0"

// versions are all that there are bundles of; other/1.1.0 has the name of 1.1.0 and
// other content.
var versions = []string{"1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.5.0", "other/1.1.0", Next}

func (w *World) makeBundles(ctx context.Context) (err error) {
	defer try.End(&err)
	run := func(args ...string) error {
		out, err := exec.CommandContext(ctx, w.Program("ota-bundle"), args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ota-bundle %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	keys := filepath.Join(w.Dir, "keys")
	try.Check(errors.Join(os.MkdirAll(keys, 0o755), os.MkdirAll(filepath.Join(w.Dir, "bundles", "other"), 0o755),
		run("keygen", "--no-password", filepath.Join(w.Dir, "k")), run("keygen", "--no-password", filepath.Join(w.Dir, "old")),
		os.Rename(filepath.Join(w.Dir, "k.pub"), filepath.Join(keys, "k.pub"))))
	for i, version := range versions {
		tree := filepath.Join(w.Dir, "tree")
		try.Check(errors.Join(os.RemoveAll(tree), plant(tree, version)))
		args := []string{"create", "--dir", tree, "--version", filepath.Base(version), "--model", "x1",
			"--key", filepath.Join(w.Dir, "k.key"), "--release", fmt.Sprint(i + 1), "-o", w.bundle(version)}
		if version == "other/1.1.0" {
			args[len(args)-3] = "2"
		}
		if version == "1.5.0" {
			args = append(args, "--revoke", filepath.Join(w.Dir, "old.pub"))
		}
		try.Check(run(args...))
	}
	// Apart, as the other flows install 1.2.0 without one.
	patched := w.bundle("patched/1.2.0")
	try.Check(errors.Join(os.MkdirAll(filepath.Dir(patched), 0o755), os.Link(w.bundle("1.2.0"), patched),
		run("patch", "--key", filepath.Join(w.Dir, "k.key"), w.bundle("1.1.0"), patched)))
	return errors.Join(w.makeChannel(run), os.RemoveAll(filepath.Join(w.Dir, "tree")))
}

// makeChannel makes stable.channel, which wants 1.1.0 on every device.
func (w *World) makeChannel(run func(...string) error) error {
	delegation, channel := filepath.Join(w.Dir, "stable.delegation"), filepath.Join(w.Dir, "bundles", "stable.channel")
	key, online := filepath.Join(w.Dir, "k.key"), filepath.Join(w.Dir, "online")
	return errors.Join(run("keygen", "--no-password", online),
		run("channel", "delegate", "--key", key, "--name", "stable", "--to", online+".pub",
			"--not-after", time.Now().AddDate(1, 0, 0).Format(time.DateOnly), "-o", delegation),
		run("channel", "init", "--delegation", delegation, "--key", online+".key", channel),
		run("channel", "add", "--key", online+".key", "--percent", "100", channel, w.bundle("1.1.0")))
}

// plant makes the tree of a version: small, with one of everything that a version
// can hold, and in which some files are those of every version.
func plant(dir, version string) (err error) {
	defer try.End(&err)
	for _, d := range []string{"bin", "lib/deep/er", "share", "empty"} {
		try.Check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	same := make([]byte, 40_000)
	rand.NewChaCha8([32]byte{1}).Read(same)
	own := make([]byte, 300_000) // more than one frame
	rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", version)))).Read(own)
	for name, content := range map[string][]byte{
		"bin/app":                         []byte("#!/bin/sh\necho " + version + "\n"),
		"bin/tool":                        []byte("#!/bin/sh\necho the same in every version\n"),
		"lib/deep/er/x.so":                own,
		"lib/same.so":                     same[:20_000],
		"share/same":                      same,
		"share/nothing":                   nil,
		"share/" + filepath.Base(version): []byte("a name of its own"),
	} {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "bin/") {
			mode = 0o755
		}
		try.Check(os.WriteFile(filepath.Join(dir, name), content, mode))
	}
	return errors.Join(os.Symlink("bin/app", filepath.Join(dir, "app")), os.Symlink("../share/same", filepath.Join(dir, "lib", "link")))
}

// serve serves stable.channel and the bundles: /V.ota whole and by ranges, /broken/V.ota
// only up to its middle, and /half/V.ota so while one downloads a half; /report/SITE takes
// the reports of a site.
func (w *World) serve(rw http.ResponseWriter, r *http.Request) {
	if site, ok := strings.CutPrefix(r.URL.Path, "/report/"); ok {
		var report struct{ Stage string }
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		w.mu.Lock()
		w.reports[site] = append(w.reports[site], report.Stage)
		hear := w.hears[site]
		w.mu.Unlock()
		if hear != nil {
			hear(report.Stage)
		}
		return
	}
	if strings.HasPrefix(r.URL.Path, "/DEFAULT/controller/v1/") {
		w.order(rw, r)
		return
	}
	name, broken := strings.CutPrefix(strings.TrimPrefix(r.URL.Path, "/"), "broken/")
	name, half := strings.CutPrefix(name, "half/")
	broken = broken || half && w.half.Load() > 0
	f, err := os.Open(filepath.Join(w.Dir, "bundles", filepath.FromSlash(filepath.Clean("/"+name))))
	if err != nil {
		http.NotFound(rw, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Header().Set("ETag", fmt.Sprintf(`"%x"`, info.ModTime().UnixNano()))
	if broken {
		var first int64
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
		if first >= info.Size()/2 {
			http.Error(rw, "no more of it", http.StatusForbidden)
			return
		}
		rw = &halfWriter{ResponseWriter: rw, left: info.Size()/2 - first}
	}
	http.ServeContent(rw, r, name, info.ModTime(), f)
}

// A halfWriter breaks the connection after left bytes.
type halfWriter struct {
	http.ResponseWriter
	left int64
}

func (h *halfWriter) Write(b []byte) (int, error) {
	if int64(len(b)) >= h.left {
		h.ResponseWriter.Write(b[:h.left])
		panic(http.ErrAbortHandler)
	}
	h.left -= int64(len(b))
	return h.ResponseWriter.Write(b)
}

// order is a server with hawkBit's device API, which wants 1.1.0 after any report.
func (w *World) order(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Content-Type", "application/hal+json")
	switch {
	case r.Method != http.MethodGet:
	case strings.HasSuffix(r.URL.Path, "/deploymentBase/7"):
		fmt.Fprintf(rw, `{"id":"7","deployment":{"download":"attempt","update":"attempt","chunks":[{"part":"bApp","version":"1.1.0","name":"app",
			"artifacts":[{"filename":"1.1.0.ota","_links":{"download-http":{"href":"%s/1.1.0.ota"}}}]}]}}`, w.server.URL)
	default:
		fmt.Fprintf(rw, `{"config":{"polling":{"sleep":"00:05:00"}},"_links":{"deploymentBase":{"href":"%s/deploymentBase/7"}}}`, r.URL.Path)
	}
}
