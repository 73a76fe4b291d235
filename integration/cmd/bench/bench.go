package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/try"
)

type bench struct {
	dir    string // all that it makes, removed at the end
	run    string // the programs' state
	runs   int
	served atomic.Pointer[[]byte]
	sent   atomic.Int64 // bytes of bodies
	addr   string
	server *http.Server
}

func newBench(ctx context.Context, dir string, runs int) (_ *bench, err error) {
	defer try.End(&err)
	for _, tool := range []string{"curl", "zstd", "tar", "sync"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is missing: apt-get install curl zstd tar coreutils", tool)
		}
	}
	if err := dropCaches(); err != nil {
		return nil, fmt.Errorf("cannot drop the caches, run it as root: %w", err)
	}
	work := try.Get(os.MkdirTemp(dir, "ota-bench-"))
	b := &bench{dir: work, runs: runs}
	for _, program := range []string{"ota-apply", "ota-bundle"} {
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", b.path(program), "./applier/cmd/"+program)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot build %s: %w\n%s", program, err, out), os.RemoveAll(work))
		}
	}
	if err := b.ota("ota-bundle", "keygen", "--no-password", b.path("release")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(work))
	}
	// What a reboot may lose is in memory on a device, too.
	if b.run, err = os.MkdirTemp("/dev/shm", "ota-bench-"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(work))
	}
	config := fmt.Sprintf("keys = %q\nrun = %q\nreserve = 0\nservices = []\n[report]\nurl = \"\"\n", b.path("release.pub"), b.run)
	try.Check(os.WriteFile(b.path("ota.toml"), []byte(config), 0o644))
	l := try.Get(net.Listen("tcp", "127.0.0.1:0"))
	b.addr = l.Addr().String()
	b.server = &http.Server{Handler: http.HandlerFunc(b.serve)}
	go b.server.Serve(l)
	return b, nil
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) close() {
	b.server.Close()
	os.RemoveAll(b.run)
	os.RemoveAll(b.dir)
}

// serve serves the bundle from memory, as a machine elsewhere would: it takes
// nothing from the disk that is measured.
func (b *bench) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"x"`)
	http.ServeContent(&counter{w, &b.sent}, r, "", time.Unix(1e9, 0), bytes.NewReader(*b.served.Load()))
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

// ota runs one of our programs.
func (b *bench) ota(program string, args ...string) error {
	out, err := exec.Command(b.path(program), args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, out)
	}
	return nil
}

// bundle packs the tree and returns the bundle's bytes.
func (b *bench) bundle(tree, version string) ([]byte, error) {
	name := b.path(version + ".ota")
	defer os.Remove(name)
	err := b.ota("ota-bundle", "create", "--dir", tree, "--version", version, "--model", "x1", "--release", "0", "--key", b.path("release.key"), "-o", name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

// A result is what one run took.
type result struct {
	took  time.Duration
	rss   int64 // bytes, of the largest process; 0: not measured
	bytes int64 // that the server sent
}

// measure runs a command from a cold cache.
func (b *bench) measure(cmd *exec.Cmd) (result, error) {
	if err := dropCaches(); err != nil {
		return result{}, err
	}
	b.sent.Store(0)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	r := result{took: time.Since(began), bytes: b.sent.Load()}
	if err != nil {
		return r, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	if _, kib, ok := strings.Cut(string(out), measured+" "); ok {
		r.rss, err = strconv.ParseInt(strings.TrimSpace(kib), 10, 64)
		r.rss <<= 10
	}
	return r, err
}

// measured is the argument with which this program runs another one and says how
// much memory that took, KiB. A process is born with the peak of its parent, so its
// parent must be small.
const measured = "peak-memory-of"

func runMeasured(args []string) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		fmt.Println(measured, usage.Maxrss)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// install measures an install of what is served into store; empty: into a new one.
func (b *bench) install(store string) (r result, err error) {
	if store == "" {
		if store, err = b.fresh(); err != nil {
			return r, err
		}
	}
	return b.measure(exec.Command(os.Args[0], measured, b.path("ota-apply"), "install", "--no-activate",
		"--config", b.path("ota.toml"), "--root", store, "http://"+b.addr+"/x.ota"))
}

// pipe measures a shell's pipe that unpacks what is served.
func (b *bench) pipe(script string) (result, error) {
	dir, err := b.fresh()
	if err != nil {
		return result{}, err
	}
	cmd := exec.Command("bash", "-ec", "set -o pipefail; "+script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "URL=http://"+b.addr+"/x.ota")
	r, err := b.measure(cmd)
	r.rss = 0 // of the shell
	return r, err
}

// fresh makes a new directory. None is removed before the end: ext4 goes out of its
// way for minutes not to use an inode again that was just deleted, which costs
// the next program as much as all the rest.
func (b *bench) fresh() (string, error) {
	dir, err := os.MkdirTemp(b.dir, "run-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}

const (
	plainPipe = `curl -sS "$URL" | zstd -qdc | tar x && sync -f .`
	hashPipe  = `curl -sS "$URL" | tee >(sha256sum >sum) | zstd -qdc | tar x && sync -f .`
)

// rows measures several things in turn, so that all of them meet the same noise.
func (b *bench) rows(ctx context.Context, measures ...func() (result, error)) (_ []result, err error) {
	defer try.End(&err)
	all := make([][]result, len(measures))
	for range b.runs {
		for i, measure := range measures {
			try.Check(ctx.Err())
			r := try.Get(measure())
			all[i] = append(all[i], r)
		}
	}
	medians := make([]result, len(measures))
	for i, rs := range all {
		slices.SortFunc(rs, func(a, b result) int { return int(a.took - b.took) })
		medians[i] = rs[len(rs)/2]
		for _, r := range rs {
			medians[i].rss = max(medians[i].rss, r.rss)
		}
	}
	return medians, nil
}

func table(title string, names []string, results []result) {
	fmt.Printf("\n%s\n\n| | median | ratio | peak memory | downloaded |\n|---|---|---|---|---|\n", title)
	for i, r := range results {
		memory := ""
		if r.rss > 0 {
			memory = fmt.Sprintf("%.1f MiB", float64(r.rss)/(1<<20))
		}
		fmt.Printf("| %s | %.2f s | %.2f | %s | %.1f MB |\n", names[i], r.took.Seconds(),
			float64(r.took)/float64(results[0].took), memory, float64(r.bytes)/1e6)
	}
}

// installs compares full installs of a tree.
func (b *bench) installs(ctx context.Context, name string, s shape) (err error) {
	defer try.End(&err)
	try.Get(b.makeTree(name, s))
	data := try.Get(b.bundle(b.path(name), "1.0.0"))
	b.served.Store(&data)
	results := try.Get(b.rows(ctx,
		func() (result, error) { return b.pipe(plainPipe) },
		func() (result, error) { return b.pipe(hashPipe) },
		func() (result, error) { return b.install("") },
	))
	title := fmt.Sprintf("Full install, %d files, %.0f MB, bundle of %.1f MB, medians of %d", s.files, float64(s.bytes)/1e6, float64(len(data))/1e6, b.runs)
	table(title, []string{"`curl \\| zstd -d \\| tar x && sync`, verifies nothing", "the same with `tee >(sha256sum)`", "`ota-apply install`"}, results)
	return nil
}

func (b *bench) makeTree(name string, s shape) (string, error) {
	if _, err := os.Stat(b.path(name)); err == nil {
		return b.path(name), nil
	}
	m, err := newMaterial()
	if err != nil {
		return "", err
	}
	return b.path(name), s.make(b.path(name), m)
}

// updates compares an update in which 5 % of the files changed with a full install.
func (b *bench) updates(ctx context.Context, name string, s shape) (err error) {
	defer try.End(&err)
	tree := try.Get(b.makeTree(name, s))
	old := try.Get(b.bundle(tree, "1.0.0"))
	try.Check(change(tree))
	data := try.Get(b.bundle(tree, "1.1.0"))
	os.RemoveAll(tree) // it is another one now
	b.served.Store(&data)
	var disk uint64
	update := func() (r result, err error) {
		dir, err := b.fresh()
		if err != nil {
			return r, err
		}
		b.served.Store(&old)
		if _, err := b.install(dir); err != nil {
			return r, err
		}
		store, err := bootcheck.Open(dir)
		if err == nil {
			err = confirm(store, "1.0.0")
		}
		if err != nil {
			return r, err
		}
		b.served.Store(&data)
		if r, err = b.install(dir); err != nil {
			return r, err
		}
		first, err := used(store.VersionDir("1.0.0"))
		if err != nil {
			return r, err
		}
		both, err := store.Occupied("1.0.0", "1.1.0")
		disk = (both.Bytes - first) * 100 / first
		return r, err
	}
	results := try.Get(b.rows(ctx, func() (result, error) { return b.pipe(plainPipe) }, update))
	title := fmt.Sprintf("Update in which 5 %% of %d files changed (%.0f MB, bundle of %.1f MB), medians of %d; it takes %d %% of a snapshot's disk",
		s.files, float64(s.bytes)/1e6, float64(len(data))/1e6, b.runs, disk)
	table(title, []string{"`curl \\| zstd -d \\| tar x && sync`", "`ota-apply install`"}, results)
	return nil
}

// used is what all files below dir take on the disk, shared or not, in bytes.
func used(dir string) (uint64, error) {
	var sum uint64
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		var st syscall.Stat_t
		try.Check(syscall.Lstat(name, &st))
		sum += uint64(st.Blocks) * 512
		return nil
	})
	return sum, err
}

// confirm makes version, which is in the store, the current version and is confirmed.
func confirm(store *bootcheck.Store, version string) error {
	snapshot, err := store.Snapshot(version)
	if err != nil {
		return err
	}
	r := &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: &snapshot.Ref}
	r.Confirm(snapshot.Ref)
	return store.Commit(r)
}
