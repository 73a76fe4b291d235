package screen

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/integration/try"
)

// A device is a store, a run directory, and ota-apply behind a socket as systemd holds it:
// the program is started at a connection, and again when it has ended.
type device struct {
	t       *testing.T
	run     string
	store   *bootcheck.Store
	url     string // of the page
	program string
	config  string
	install *report.Reporter

	mu  sync.Mutex
	cmd *exec.Cmd // the program that runs; nil: none
	off bool      // none is started
}

func newDevice(t *testing.T) *device {
	dir := t.TempDir()
	d := &device{t: t, run: filepath.Join(dir, "run"), program: filepath.Join(dir, "ota-apply"), config: filepath.Join(dir, "ota.toml")}
	d.build(nil)
	root := filepath.Join(dir, "versions")
	try.Check(os.WriteFile(d.config, fmt.Appendf(nil, "root = %q\nrun = %q\n", root, d.run), 0o644))
	d.store = try.Get(bootcheck.Create(root))
	for _, v := range []string{"1.0.0", "1.1.0", "1.2.0", longest} {
		try.Check(os.Mkdir(filepath.Join(root, "v"+v), 0o755))
	}
	l := try.Get(net.Listen("tcp", "127.0.0.1:0"))
	f := try.Get(l.(*net.TCPListener).File())
	d.url = "http://" + l.Addr().String() + "/"
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.serve(ctx, f)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		l.Close()
		f.Close()
		d.ends()
	})
	d.state(func(r *bootcheck.Record) {})
	return d
}

// serve does with the socket f what systemd does.
func (d *device) serve(ctx context.Context, f *os.File) {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 100); n <= 0 || err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve-progress --config "$1" --idle 2s`, d.program, d.config)
		cmd.ExtraFiles = []*os.File{f}
		var log bytes.Buffer
		cmd.Stderr = &log
		d.mu.Lock()
		off, err := d.off, error(nil)
		if !off {
			err = cmd.Start()
			d.cmd = cmd
		}
		d.mu.Unlock()
		if off {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if err == nil {
			cmd.Wait() // killed, or out of work
		}
		d.mu.Lock()
		d.cmd = nil
		d.mu.Unlock()
		if err != nil || log.Len() > 0 {
			d.t.Errorf("ota-apply serve-progress: %v: %s", err, &log)
		}
	}
}

// kill kills the program; another one is started.
func (d *device) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		d.cmd.Process.Kill()
	}
}

// away kills the program, and starts none until back is called.
func (d *device) away() (back func()) {
	set := func(off bool) {
		d.mu.Lock()
		d.off = off
		d.mu.Unlock()
	}
	set(true)
	d.kill()
	return func() { set(false) }
}

// build builds ota-apply, with another page if page is not nil.
func (d *device) build(page []byte) {
	args := []string{"build", "-o", d.program + ".new"}
	if page != nil {
		file, overlay := d.program+".html", d.program+".json"
		original := try.Get(filepath.Abs("../../applier/screen/page.html"))
		try.Check(os.WriteFile(file, page, 0o644))
		try.Check(os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace": {%q: %q}}`, original, file), 0o644))
		args = append(args, "-overlay", overlay)
	}
	try.Run(exec.Command("go", append(args, "github.com/tope-ota/ota/applier/cmd/ota-apply")...))
	try.Check(os.Rename(d.program+".new", d.program))
}

// state commits a record: that of a device that runs 1.1.0, which is confirmed, as changed
// by change. No install runs, and no trial is watched.
func (d *device) state(change func(r *bootcheck.Record)) {
	ref := func(v string) *bootcheck.Ref { return &bootcheck.Ref{Version: v, Digest: "sha256:" + v} }
	r := &bootcheck.Record{Phase: bootcheck.PhaseConfirmed, Current: ref("1.1.0"), Previous: ref("1.0.0"), Factory: ref("1.0.0"), Confirmed: []bootcheck.Ref{*ref("1.0.0"), *ref("1.1.0")}}
	change(r)
	if r.Phase.Counted() {
		r.Trial = &bootcheck.Trial{BootID: "b"}
	}
	try.Check(d.store.Commit(r))
	try.Check(bootcheck.EndWatching(d.run))
	d.ends()
	os.Remove(filepath.Join(d.run, "progress.json"))
}

// ends ends the install, if there is one.
func (d *device) ends() {
	if d.install != nil {
		d.install.Close(context.Background())
	}
}

func (d *device) installs() *report.Reporter {
	d.ends()
	d.install = report.New("", filepath.Join(d.run, "progress.json"))
	return d.install
}

const mib = 1 << 20

// download is an install of 1.2.0 that downloads until the test ends or end is called.
func (d *device) download() (end func()) {
	r := d.installs()
	r.Version("1.2.0")
	r.Stage(report.StageDownloading, 0, "downloading the bundle")
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := int64(172); n < 399; n++ {
			r.Progress(n*mib, 400*mib)
			select {
			case <-done:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// longest is as long as the name of a version can be.
const longest = "10.20.30-release-candidate.4+build.20261129.0123456789abcdef0123"
