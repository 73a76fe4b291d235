package main

import (
	"context"
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

// begin makes what all parts need, below dir.
func (b *bench) begin(dir string) {
	for _, tool := range []string{"curl", "zstd", "tar", "sync"} {
		if _, err := exec.LookPath(tool); err != nil {
			try.Failf("%s is missing: apt-get install curl zstd tar coreutils", tool)
		}
	}
	dropCaches()
	b.dir = try.Get(os.MkdirTemp(dir, "ota-bench-"))
	// What a reboot may lose is in memory on a device, too.
	b.memory = try.Get(os.MkdirTemp("/dev/shm", "ota-bench-"))
	b.server.dir = b.memory
	output("make", "-s", "build-"+runtime.GOARCH, "BIN="+b.path("bin"), "VERSION=bench")
	b.ota("ota-bundle", "keygen", "--no-password", b.path("release"))
	config := fmt.Sprintf("keys = %q\nrun = %q\nreserve = 0\nservices = []\n[report]\nurl = \"\"\n", b.path("release.pub"), b.memory)
	try.Check(os.WriteFile(b.path("ota.toml"), []byte(config), 0o644))
	l := try.Get(net.Listen("tcp", "127.0.0.1:0"))
	b.direct = l.Addr().String()
	b.addr = b.direct
	b.http = &http.Server{Handler: &b.server}
	go b.http.Serve(l)
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
func (b *bench) ota(program string, args ...string) { output(b.program(program), args...) }

func output(name string, args ...string) string {
	return strings.TrimSpace(try.Run(exec.Command(name, args...)))
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
	run  func() result
}

// measure runs a shell's script in dir from a cold cache, with what it needs as $1, $2, ….
func (b *bench) measure(dir, shell string, args ...string) (r result) {
	dropCaches()
	cmd := bySmallParent(append([]string{"bash", "-ec", "set -o pipefail; " + shell, "bash"}, args...)...)
	cmd.Dir = dir
	b.server.sent.Store(0)
	b.server.requests.Store(0)
	began := time.Now()
	r.rss, _ = used(cmd)
	r.took, r.bytes, r.requests = time.Since(began), b.server.sent.Load(), b.server.requests.Load()
	return r
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
func used(cmd *exec.Cmd) (rss, written int64) {
	_, text, _ := strings.Cut(try.Run(cmd), measured+" ")
	try.Get(fmt.Sscan(text, &rss, &written))
	return rss << 10, written << 9
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
func (b *bench) fresh() string {
	dir := try.Get(os.MkdirTemp(b.dir, "run-"))
	try.Check(os.Chmod(dir, 0o755))
	return dir
}

// tidy removes what the part made.
func (b *bench) tidy() {
	for _, dir := range try.Get(filepath.Glob(b.path("run-*"))) {
		try.Check(os.RemoveAll(dir))
	}
}

func dropCaches() {
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0); err != nil {
		try.Failf("cannot drop the caches, run it as root: %w", err)
	}
}

// rows measures several things in turn, so that all of them meet the same noise, and
// prints their medians; the first row is what the others are compared with.
func (b *bench) rows(ctx context.Context, title string, rows []row) {
	all := make([][]result, len(rows))
	for range b.runs {
		for i, row := range rows {
			try.Check(ctx.Err())
			all[i] = append(all[i], row.measured())
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
}

func (r row) measured() result {
	defer try.Say("%s", r.name)
	return r.run()
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
