package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// landlock is the version of the kernel's Landlock; the test is skipped without.
func landlock(t *testing.T) int {
	t.Helper()
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		t.Skipf("SKIPPED: the kernel has no Landlock (%v): the second wall is not tested here", errno)
	}
	return int(abi)
}

func openDir(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// What a goroutine behind the wall can do, by absolute paths, as if os.Root were
// not there; and what everybody else can do at the same time.
func TestWall(t *testing.T) {
	abi := landlock(t)
	outer := t.TempDir()
	staging, store, outside := filepath.Join(outer, "staging"), filepath.Join(outer, "store"), filepath.Join(outer, "outside")
	for _, dir := range []string{staging, store, outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "old"), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	open, err := os.OpenFile(filepath.Join(outside, "open"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()

	read := func(name string) func() error {
		return func() error { _, err := os.ReadFile(name); return err }
	}
	create := func(name string) func() error {
		return func() error { return os.WriteFile(name, []byte("x"), 0o644) }
	}
	rows := []struct {
		name    string
		allowed bool
		try     func() error
		abi     int // the first that forbids it
	}{
		{"create a file in the staging folder", true, create(filepath.Join(staging, "new")), 1},
		{"create a folder in it", true, func() error { return os.Mkdir(filepath.Join(staging, "dir"), 0o755) }, 1},
		{"create a file in that", true, create(filepath.Join(staging, "dir", "new")), 1},
		{"create a link in it", true, func() error { return os.Symlink("new", filepath.Join(staging, "link")) }, 1},
		{"read it", true, read(filepath.Join(staging, "old")), 1},
		{"read the store", false, read(filepath.Join(store, "old")), 1},
		{"write to a file that is open", true, func() error { _, err := open.Write([]byte("x")); return err }, 1},

		{"create a file outside", false, create(filepath.Join(outside, "new")), 1},
		{"overwrite a file outside", false, create(filepath.Join(outside, "old")), 1},
		{"append to a file outside", false, func() error {
			f, err := os.OpenFile(filepath.Join(outside, "old"), os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			return err
		}, 1},
		{"truncate a file outside", false, func() error { return os.Truncate(filepath.Join(outside, "old"), 0) }, 3},
		{"create a file in the store", false, create(filepath.Join(store, "new")), 1},
		{"create a file through a link out", false, func() error {
			if err := os.Symlink(outside, filepath.Join(staging, "out")); err != nil {
				return nil // counts as allowed
			}
			return os.WriteFile(filepath.Join(staging, "out", "new"), nil, 0o644)
		}, 1},
		{"create a folder outside", false, func() error { return os.Mkdir(filepath.Join(outside, "dir"), 0o755) }, 1},
		{"remove a file outside", false, func() error { return os.Remove(filepath.Join(outside, "old")) }, 1},
		{"move a file out", false, func() error { return os.Rename(filepath.Join(staging, "old"), filepath.Join(outside, "moved")) }, 1},
		{"link a file of the store into the staging folder", false, func() error { return os.Link(filepath.Join(store, "old"), filepath.Join(staging, "linked")) }, 1},
		{"make a device in the staging folder", false, func() error { return unix.Mknod(filepath.Join(staging, "null"), unix.S_IFCHR|0o666, 0x103) }, 1},
		{"make a FIFO in the staging folder", false, func() error { return unix.Mkfifo(filepath.Join(staging, "fifo"), 0o666) }, 1},
		{"read a secret", false, read("/etc/passwd"), 1},
		{"read the folder outside", false, func() error { _, err := os.ReadDir(outside); return err }, 1},
		{"start a program", false, func() error { return exec.Command("/bin/true").Run() }, 1},
		{"connect to a server", false, func() error {
			c, err := net.Dial("tcp", server.Addr().String())
			if err == nil {
				c.Close()
			}
			return err
		}, 4},
		{"listen", false, func() error {
			var lc net.ListenConfig
			lc.SetMultipathTCP(false) // which Landlock does not know
			l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err == nil {
				l.Close()
			}
			return err
		}, 4},
	}

	// The rest of the program goes on doing all of it.
	stop, others := make(chan struct{}), make(chan error, 8)
	var wg sync.WaitGroup
	for i := range cap(others) {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := filepath.Join(outside, fmt.Sprintf("free-%d-%d", i, n%100))
				if err := errors.Join(os.WriteFile(name, nil, 0o644), os.Remove(name), read("/etc/passwd")()); err != nil {
					others <- err
					return
				}
			}
		})
	}
	w := newWall(openDir(t, staging))
	if w.err != nil {
		t.Fatal(w.err)
	}
	defer w.close()
	for _, row := range rows {
		if row.abi > abi {
			continue
		}
		err := w.run(row.try)
		if row.allowed && err != nil {
			t.Errorf("%s: %v, want it allowed", row.name, err)
		}
		// EXDEV is what Landlock says of a link or a move that the folder forbids.
		if !row.allowed && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EXDEV) {
			t.Errorf("%s: %v, want EACCES", row.name, err)
		}
	}
	close(stop)
	wg.Wait()
	close(others)
	for err := range others {
		t.Errorf("a goroutine outside: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(outside, "old")); err != nil || string(got) != "old" {
		t.Errorf("the file outside is now %q, %v", got, err)
	}
	mustBeFree(t, outside)
}

// mustBeFree checks that no thread of the process is confined, and that none will be.
func mustBeFree(t *testing.T, outside string) {
	t.Helper()
	var wg sync.WaitGroup
	hold := make(chan struct{})
	for i := range 20 {
		wg.Go(func() {
			runtime.LockOSThread() // twenty threads, old ones and new
			defer runtime.UnlockOSThread()
			if err := os.WriteFile(filepath.Join(outside, fmt.Sprint("free", i)), nil, 0o644); err != nil {
				t.Errorf("a thread that runs afterwards: %v", err)
			}
			if i == 19 {
				close(hold)
			}
			<-hold
		})
	}
	wg.Wait()
	if out, err := exec.Command("/bin/sh", "-c", "echo x >"+filepath.Join(outside, "child")).CombinedOutput(); err != nil {
		t.Errorf("a program that is started afterwards: %v %s", err, out)
	}
}

// takenOver is a bundle whose reader does, in the middle of a worker, what a worker
// would do that a hostile bundle has taken over.
type takenOver struct {
	*bytes.Reader
	payload int64
	attack  func() error

	mu   sync.Mutex
	errs []error
}

func (r *takenOver) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.payload && len(p) > 1 {
		err := r.attack()
		r.mu.Lock()
		r.errs = append(r.errs, err)
		r.mu.Unlock()
	}
	return r.Reader.ReadAt(p, off)
}

// Unpack's workers are behind the wall, its caller and what it tells are not.
func TestUnpackBehindTheWall(t *testing.T) {
	landlock(t)
	for _, row := range []struct {
		name string
		run  func(ctx context.Context, r *takenOver, h *Head, m *bootcheck.Manifest, opt Options) error
	}{
		{"Unpack", func(ctx context.Context, r *takenOver, h *Head, m *bootcheck.Manifest, opt Options) error {
			return Unpack(ctx, r, h, m, openRoot(t, t.TempDir()), opt)
		}},
		{"Check", func(ctx context.Context, r *takenOver, h *Head, m *bootcheck.Manifest, opt Options) error {
			return Check(ctx, r, h, m, opt)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := bigRecipe().bake(t)
			h, err := ReadHead(bytes.NewReader(b), -1)
			if err != nil {
				t.Fatal(err)
			}
			m, _, err := h.Verify(testKeys())
			if err != nil {
				t.Fatal(err)
			}
			outside := t.TempDir()
			r := &takenOver{Reader: bytes.NewReader(b), payload: h.PayloadOffset, attack: func() error {
				return os.WriteFile(filepath.Join(outside, "victim"), nil, 0o644)
			}}
			told := false
			opt := Options{
				Log: func(line string) { t.Errorf("it says %q", line) },
				Progress: func(done, total int64) {
					told = true
					if err := os.WriteFile(filepath.Join(outside, "progress"), fmt.Append(nil, done), 0o644); err != nil {
						t.Errorf("progress cannot be written: %v", err)
					}
				},
			}
			if err := row.run(t.Context(), r, h, m, opt); err != nil {
				t.Fatal(err)
			}
			if len(r.errs) != len(m.Frames) || !told {
				t.Errorf("%d attacks, want one in each of %d frames; progress was told: %v", len(r.errs), len(m.Frames), told)
			}
			for _, err := range r.errs {
				if !errors.Is(err, syscall.EACCES) {
					t.Errorf("a worker wrote outside: %v, want EACCES", err)
				}
			}
			if got, err := os.ReadFile(filepath.Join(outside, "progress")); err != nil || string(got) != fmt.Sprint(m.Size) {
				t.Errorf("the last progress is %q, %v, want %d", got, err, m.Size)
			}
			mustBeFree(t, outside)
		})
	}
}

// Where the kernel has no Landlock, or a filter forbids its calls, unpacking goes
// on and says so once.
func TestNoWall(t *testing.T) {
	if os.Getenv("OTA_TEST_NO_LANDLOCK") == "" {
		test := exec.Command(os.Args[0], "-test.run=^TestNoWall$", "-test.v")
		test.Env = append(os.Environ(), "OTA_TEST_NO_LANDLOCK=1")
		out, err := test.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestNoWall")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	forbidLandlock(t)
	b := bigRecipe().bake(t)
	h, err := ReadHead(bytes.NewReader(b), -1)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := h.Verify(testKeys())
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	dir := t.TempDir()
	if err := Unpack(t.Context(), bytes.NewReader(b), h, m, openRoot(t, dir), Options{Log: func(line string) { said = append(said, line) }}); err != nil {
		t.Fatal(err)
	}
	if err := bootcheck.CheckTree(t.Context(), dir, m, bootcheck.Full); err != nil {
		t.Error(err)
	}
	if len(said) != 1 || !strings.Contains(said[0], "unpacking without a second wall: the kernel has no Landlock") {
		t.Errorf("it said %q, want one line", said)
	}
}

// forbidLandlock puts a filter on all threads that fails landlock_create_ruleset
// with ENOSYS, as a kernel does that is older than 5.13.
func forbidLandlock(t *testing.T) {
	t.Helper()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_LANDLOCK_CREATE_RULESET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(syscall.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := filterAll(filter); err != nil {
		t.Skipf("SKIPPED: no filter can be set here: %v", err)
	}
}

func filterAll(filter []unix.SockFilter) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return errno
	}
	return nil
}
