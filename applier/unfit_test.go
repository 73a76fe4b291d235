package applier

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// A file system that has no links, refuses modes or forgets them is refused with words
// that help, and nothing is left on it. In a process of its own: the filter that makes
// the calls fail stays.
func TestUnfitFileSystem(t *testing.T) {
	const child = "OTA_TEST_UNFIT"
	rows := map[string]struct {
		call  uintptr
		errno unix.Errno // 0: it does nothing, and says that it did
		want  string
	}{
		"links are refused":     {unix.SYS_SYMLINKAT, unix.EPERM, "has no symbolic links"},
		"links are not known":   {unix.SYS_SYMLINKAT, unix.ENOSYS, "has no symbolic links"},
		"modes are refused":     {unix.SYS_FCHMOD, unix.EPERM, "cannot keep the mode 0644"},
		"modes are not known":   {unix.SYS_FCHMOD, unix.EOPNOTSUPP, "cannot keep the mode 0644"},
		"modes are those of it": {unix.SYS_FCHMOD, 0, "mode 0700, want 0755"},
	}
	if name := os.Getenv(child); name != "" {
		row := rows[name]
		var install func() error
		root := t.TempDir() + "/versions"
		if row.call == unix.SYS_SYMLINKAT {
			install = func() error { _, err := bootcheck.Create(root); return err }
		} else {
			d := newDevice(t)
			bundle := d.bundle("2.0.0", nil)
			root = d.cfg.Root
			install = func() error { return d.install(bundle, installOptions{noActivate: true}) }
		}
		before := tree(t, root)
		fail(t, row.call, row.errno)
		err := install()
		if err == nil || !strings.Contains(err.Error(), row.want) || bootcheck.Exit(err) != bootcheck.ExitFailed {
			t.Errorf("it ended with %v, exit %d, want %q, %d", err, bootcheck.Exit(err), row.want, bootcheck.ExitFailed)
		}
		if advice := bootcheck.Advice(err); !strings.Contains(advice, "ext4") || errors.Is(err, os.ErrPermission) {
			t.Errorf("advice: %q", advice)
		}
		if after := tree(t, root); after != before {
			t.Errorf("it leaves\n%s\nwhere there was\n%s", after, before)
		}
		return
	}
	for name := range rows {
		t.Run(name, func(t *testing.T) {
			test := exec.Command(os.Args[0], "-test.run=^TestUnfitFileSystem$", "-test.v")
			test.Env = append(os.Environ(), child+"="+name)
			if out, err := test.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestUnfitFileSystem")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// tree names what is in a store, but for what installs keep of each other.
func tree(t *testing.T, root string) string {
	t.Helper()
	out, _ := exec.Command("find", root, "-mindepth", "1", "-not", "-name", ".*lock").CombinedOutput()
	return string(out)
}

// fail makes a call of the kernel fail, in all threads of this process.
func fail(t *testing.T, call uintptr, errno unix.Errno) {
	t.Helper()
	runtime.LockOSThread()
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(call), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	// On this thread first: TSYNC gives the others both.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Fatal(errno)
	}
}
