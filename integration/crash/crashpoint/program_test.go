package crashpoint_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// programVariable makes the test binary one of the little programs, in its working
// directory.
const programVariable = "CRASHPOINT_TEST_PROGRAM"

func TestMain(m *testing.M) {
	name, argument, _ := strings.Cut(os.Getenv(programVariable), " ")
	if name == "" {
		os.Exit(m.Run())
	}
	if err := programs[name](argument); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// command is a little program that works in dir.
func command(dir, program string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), programVariable+"="+program)
	cmd.Stderr = os.Stderr
	return cmd
}

var programs = map[string]func(string) error{
	"each":    func(string) error { return each() },
	"strange": strange,
	"tell":    func(string) error { return tell() },
	"reuse":   func(string) error { return reuse() },
}

func errOf(_ int, err error) error { return err }

func makes(name string, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	return f.Close()
}

// each makes each kind of call, in the order of want in TestEachCall.
func each() (err error) {
	defer try.End(&err)
	try.Check(os.Mkdir("d", 0o755))
	f := try.Get(os.OpenFile("d/f", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600))
	fd := int(f.Fd())
	dir := try.Get(os.Open("d"))
	dirFD := int(dir.Fd())
	g := try.Get(unix.Openat2(dirFD, "g", &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o644, Resolve: unix.RESOLVE_BENEATH}))
	unnamed := try.Get(unix.Open("d", unix.O_TMPFILE|unix.O_WRONLY, 0o600))
	var zero int64
	steps := []func() error{
		func() error { _, err := f.WriteString("hello "); return err },
		func() error { _, err := f.WriteAt([]byte("world"), 6); return err },
		func() error { _, err := unix.Write(g, []byte("onetwo")); return err },
		func() error { _, err := unix.CopyFileRange(fd, &zero, g, nil, 3, 0); return err },
		func() error { _, err := unix.CopyFileRange(fd, &zero, g, nil, 4, 0); return err },
		func() error {
			// The write into the pipe is no point.
			r, w, err := os.Pipe()
			return errors.Join(err, errOf(w.WriteString("piped")), r.Close(), w.Close())
		},
		func() error {
			if err := unix.IoctlFileClone(g, fd); err != unix.EOPNOTSUPP && err != unix.EXDEV && err != unix.ENOTTY {
				return err
			}
			return nil
		},
		func() error { return os.Truncate("d/g", 5) },
		func() error { return f.Truncate(9) },
		func() error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 4096) },
		func() error {
			return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", unnamed), dirFD, "named", unix.AT_SYMLINK_FOLLOW)
		},
		func() error { return os.Symlink("f", "d/l") },
		func() error { return os.Link("d/f", "d/h") },
		func() error { return os.Rename("d/h", "d/g") },
		func() error { return unix.Renameat2(dirFD, "named", dirFD, "l", unix.RENAME_EXCHANGE) },
		func() error { return f.Chmod(0o640) },
		func() error { return os.Chmod("d/named", 0o604) }, // a link to f
		func() error { return f.Sync() },
		func() error { return unix.Fdatasync(dirFD) },
		func() error { return unix.Syncfs(fd) },
		func() error { return os.Remove("d/g") },
		func() error { return os.Mkdir("d/e", 0o700) },
		func() error { return unix.Rmdir("d/e") },
		func() error { _, err := f.Write([]byte("!")); return err },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

// strange does something that no supervisor can follow.
func strange(what string) (err error) {
	defer try.End(&err)
	switch what {
	case "io_uring":
		params := make([]byte, 120)
		_, _, _ = unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	case "mknod":
		_ = unix.Mkfifo("fifo", 0o600)
	case "shared mapping":
		f := try.Get(os.OpenFile("shared", os.O_RDWR, 0))
		_, _ = unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	case "new call":
		_, _, _ = unix.Syscall(unix.SYS_RSEQ_SLICE_YIELD+1, 0, 0, 0)
	case "socket":
		fd := try.Get(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0))
		_ = unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"})
	case "flags":
		f := try.Get(os.Open("."))
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
	case "root":
		_ = unix.Chroot(".")
		_ = os.Mkdir("/d", 0o700)
	}
	return makes("went-on", 0o600)
}

// tell makes three directories and tells how each went.
func tell() error {
	for _, name := range []string{"1", "2", "3"} {
		err := os.Mkdir(name, 0o700)
		fmt.Printf("%s: %v\n", name, err)
	}
	return nil
}

// reuse changes a mode in a thread that ends, and makes the directory b in a child that has the
// thread's number, as happens by itself on a busy machine.
func reuse() (err error) {
	defer try.End(&err)
	tid := os.Getpid()
	for tid == os.Getpid() { // the first thread does not end
		thread := make(chan int)
		go func() {
			runtime.LockOSThread() // and never unlocks it: the thread ends with the function
			try.Check(os.Chmod(".", 0o700))
			thread <- unix.Gettid()
		}()
		tid = <-thread
	}
	last := try.Get(os.OpenFile("/proc/sys/kernel/ns_last_pid", os.O_WRONLY, 0))
	for {
		try.Get(last.WriteAt([]byte(strconv.Itoa(tid-1)), 0))
		// While the thread is not gone, or if another program was faster, it has another.
		child := exec.Command("/bin/sh", "-c", fmt.Sprintf("[ $$ != %d ] || exec mkdir b", tid))
		try.Check(child.Run())
		if _, err := os.Stat("b"); err == nil {
			return nil
		}
	}
}
