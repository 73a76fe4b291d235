package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/integration/try"
)

type bench struct {
	dir    string // all that bench makes on the disk, removed at the end
	memory string // the same in memory: the programs' state, a repository of ostree
	runs   int
	// machine is the one of the part machines; empty: all are measured.
	machine string
	server  server
	http    *http.Server
	direct  string // address of the server
	addr    string // the address that is measured: the server's, or a link's
}

func newBench(dir, machine string, runs int) (_ *bench, err error) {
	for _, tool := range []string{"curl", "zstd", "tar", "sync"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("%s is missing: apt-get install curl zstd tar coreutils", tool)
		}
	}
	if err := dropCaches(); err != nil {
		return nil, fmt.Errorf("cannot drop the caches, run it as root: %w", err)
	}
	b := &bench{runs: runs, machine: machine, server: server{files: map[string][]byte{}}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	defer try.End(&err)
	b.dir = try.Get(os.MkdirTemp(dir, "ota-bench-"))
	// What a reboot may lose is in memory on a device, too.
	b.memory = try.Get(os.MkdirTemp("/dev/shm", "ota-bench-"))
	b.server.dir = b.memory
	try.Get(output("make", "-s", "build-"+runtime.GOARCH, "BIN="+b.path("bin"), "VERSION=bench"))
	try.Check(b.ota("ota-bundle", "keygen", "--no-password", b.path("release")))
	config := fmt.Sprintf("keys = %q\nrun = %q\nreserve = 0\nservices = []\n[report]\nurl = \"\"\n", b.path("release.pub"), b.memory)
	try.Check(os.WriteFile(b.path("ota.toml"), []byte(config), 0o644))
	l := try.Get(net.Listen("tcp", "127.0.0.1:0"))
	b.direct = l.Addr().String()
	b.addr = b.direct
	b.http = &http.Server{Handler: &b.server}
	go b.http.Serve(l)
	return b, nil
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) program(name string) string { return b.path("bin/" + runtime.GOARCH + "/" + name) }

func (b *bench) close() {
	if b.http != nil {
		b.http.Close()
	}
	for _, dir := range []string{b.memory, b.dir} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
}

// ota runs a program of the repository.
func (b *bench) ota(program string, args ...string) error {
	_, err := output(b.program(program), args...)
	return err
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// result is what a run took.
type result struct {
	took     time.Duration
	rss      int64 // bytes, of the largest process
	bytes    int64 // of the bodies that the server sent
	requests int64
}

// row is a thing to measure.
type row struct {
	name string
	run  func() (result, error)
}

// measure runs a shell's script in dir from a cold cache, with what it needs as $1, $2, ….
func (b *bench) measure(dir, shell string, args ...string) (r result, err error) {
	defer try.End(&err)
	try.Check(dropCaches())
	cmd := bySmallParent(append([]string{"bash", "-ec", "set -o pipefail; " + shell, "bash"}, args...)...)
	cmd.Dir = dir
	b.server.sent.Store(0)
	b.server.requests.Store(0)
	began := time.Now()
	r.rss, _, err = used(cmd)
	try.Check(err)
	r.took, r.bytes, r.requests = time.Since(began), b.server.sent.Load(), b.server.requests.Load()
	return r, nil
}

// measured is the argument with which this program runs another one and says how much
// memory that took, KiB, and how many blocks it wrote. A process is born with the peak of
// its parent, so its parent must be small.
const measured = "resources-of"

// bySmallParent is a command with a parent that is small.
func bySmallParent(args ...string) *exec.Cmd {
	return exec.Command(os.Args[0], append([]string{measured}, args...)...)
}

// used runs such a command, and says what its largest process had of memory, and what all
// of them wrote, in bytes.
func used(cmd *exec.Cmd) (rss, written int64, err error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("%q: %w\n%s", cmd.Args[2:], err, out)
	}
	_, text, _ := strings.Cut(string(out), measured+" ")
	_, err = fmt.Sscan(text, &rss, &written)
	return rss << 10, written << 9, err
}

func runMeasured(args []string) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := cmd.Run()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		fmt.Println(measured, usage.Maxrss, usage.Oublock)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// fresh makes a new directory. None is removed before the part ends: ext4 goes out of
// its way for minutes not to use an inode again that was just deleted, which costs the
// next program as much as all the rest.
func (b *bench) fresh() (string, error) {
	dir, err := os.MkdirTemp(b.dir, "run-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// tidy removes what the part made.
func (b *bench) tidy() error {
	dirs, err := filepath.Glob(b.path("run-*"))
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}

// rows measures several things in turn, so that all of them meet the same noise, and
// prints their medians; the first row is what the others are compared with.
func (b *bench) rows(ctx context.Context, title string, rows []row) (err error) {
	defer try.End(&err)
	all := make([][]result, len(rows))
	for range b.runs {
		for i, row := range rows {
			try.Check(ctx.Err())
			r, err := row.run()
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			all[i] = append(all[i], r)
		}
	}
	fmt.Printf("\n%s. Medians of %d.\n\n| | time | ratio | downloaded | requests | peak memory |\n|---|---|---|---|---|---|\n", title, b.runs)
	var first time.Duration
	for i, rs := range all {
		slices.SortFunc(rs, func(a, b result) int { return int(a.took - b.took) })
		r := rs[len(rs)/2]
		for _, other := range rs {
			r.rss = max(r.rss, other.rss)
		}
		if i == 0 {
			first = r.took
		}
		requests := "–"
		if r.requests > 0 {
			requests = fmt.Sprint(r.requests)
		}
		fmt.Printf("| %s | %.3f s | %.2f | %s | %s | %.0f MiB |\n", rows[i].name, r.took.Seconds(),
			float64(r.took)/float64(first), megabytes(r.bytes), requests, float64(r.rss)/(1<<20))
	}
	return nil
}

// megabytes is n for people: three digits count.
func megabytes(n int64) string {
	switch {
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 100e6:
		return fmt.Sprintf("%.2f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
