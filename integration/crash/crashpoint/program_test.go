package crashpoint_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
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
	"crowd":   crowd,
	"nothing": func(string) error { return nothing() },
	"strange": strange,
	"tell":    func(string) error { return tell() },
	"wait":    func(string) error { time.Sleep(time.Hour); return nil },
	"mask":    func(string) error { unix.Umask(0o027); return firstOf(makes("f", 0o666), os.Mkdir("d", 0o777)) },
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func makes(name string, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	return f.Close()
}

// each makes each kind of call, in the order of want in TestEachCall.
func each() error {
	if err := os.Mkdir("d", 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile("d/f", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	fd := int(f.Fd())
	dir, err := os.Open("d")
	if err != nil {
		return err
	}
	dirFD := int(dir.Fd())
	g, err := unix.Openat2(dirFD, "g", &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o644, Resolve: unix.RESOLVE_BENEATH})
	if err != nil {
		return err
	}
	unnamed, err := unix.Open("d", unix.O_TMPFILE|unix.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var zero int64
	pipe := make([]int, 2)
	steps := []func() error{
		func() error { _, err := f.WriteString("hello "); return err },
		func() error { _, err := f.WriteAt([]byte("world"), 6); return err },
		func() error { _, err := unix.Writev(g, [][]byte{[]byte("one"), []byte("two")}); return err },
		func() error { _, err := unix.Pwritev(g, [][]byte{[]byte("th"), []byte("ree")}, 6); return err },
		func() error { _, err := unix.CopyFileRange(fd, &zero, g, nil, 3, 0); return err },
		func() error { _, err := unix.Sendfile(g, fd, &zero, 4); return err },
		func() error {
			// The write into the pipe is no point.
			if err := unix.Pipe2(pipe, 0); err != nil {
				return err
			}
			if _, err := unix.Write(pipe[1], []byte("piped")); err != nil {
				return err
			}
			_, err := unix.Splice(pipe[0], nil, fd, nil, 5, unix.SPLICE_F_NONBLOCK)
			return err
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
		func() error { return unix.Fchownat(dirFD, "named", 1, 2, unix.AT_SYMLINK_NOFOLLOW) },
		func() error { return os.Chtimes("d/f", time.Unix(7, 8), time.Unix(9, 10)) },
		func() error { return unix.Setxattr("d/f", "user.a", []byte("b"), 0) },
		func() error { return f.Sync() },
		func() error { return unix.Fdatasync(dirFD) },
		func() error { return unix.Syncfs(fd) },
		func() error { return unix.SyncFileRange(fd, 1, 2, unix.SYNC_FILE_RANGE_WRITE) },
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

// crowd changes files from many threads at once, by chance; argument is the seed.
func crowd(argument string) error {
	seed, err := strconv.ParseUint(argument, 10, 64)
	if err != nil {
		return err
	}
	shared, err := os.OpenFile("log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(worker)))
			name := func() string { return fmt.Sprintf("%c%d", 'a'+r.IntN(3), r.IntN(4)) }
			for range 40 {
				// Most fail now and then, as another thread was first.
				switch r.IntN(10) {
				case 0:
					_ = os.Mkdir(name(), 0o755)
				case 1, 2:
					f, err := os.OpenFile(name(), os.O_CREATE|os.O_RDWR, 0o644)
					if err == nil {
						_, _ = f.WriteAt([]byte(fmt.Sprint("worker ", worker)), int64(r.IntN(20)))
						_, _ = f.WriteString(strings.Repeat("x", r.IntN(5)))
						_ = f.Close()
					}
				case 3:
					_ = os.Rename(name(), name())
				case 4:
					_ = os.Symlink(name(), name())
				case 5:
					_ = os.Link(name(), name())
				case 6:
					_ = os.Remove(name())
				case 7:
					_ = os.Chmod(name(), 0o600|os.FileMode(r.IntN(64)))
				case 8:
					_, _ = shared.WriteString(fmt.Sprintln(worker))
				case 9:
					_ = os.WriteFile(filepath.Join(name(), name()), []byte{byte(worker)}, 0o600)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// nothing does what changes no file system.
func nothing() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	if _, err := w.WriteString("x"); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		return err
	}
	event, err := unix.Eventfd(0, 0)
	if err != nil {
		return err
	}
	if _, err := unix.Write(event, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return err
	}
	memory, err := unix.MemfdCreate("m", 0)
	if err != nil {
		return err
	}
	if _, err := unix.Write(memory, []byte("x")); err != nil {
		return err
	}
	if err := unix.Ftruncate(memory, 4096); err != nil {
		return err
	}
	shared, err := unix.Mmap(memory, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	shared[0] = 'y'
	if err := os.WriteFile("/dev/null", []byte("x"), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1"), 0o600); err != nil {
		return err
	}
	f, err := os.Open(".")
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if _, err := os.ReadFile("/proc/self/status"); err != nil {
		return err
	}
	// What fails in any case is the kernel's to refuse.
	if err := unix.Fsync(-1); err != unix.EBADF {
		return fmt.Errorf("fsync of no descriptor: %v", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_MKDIRAT, 0, 0, 0); errno != unix.EFAULT {
		return fmt.Errorf("mkdir of no name: %v", errno)
	}
	fmt.Print("told\n")
	return nil
}

// strange does something that no supervisor can follow.
func strange(what string) error {
	switch what {
	case "io_uring":
		params := make([]byte, 120)
		_, _, _ = unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	case "mknod":
		_ = unix.Mkfifo("fifo", 0o600)
	case "shared mapping":
		f, err := os.OpenFile("shared", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, _ = unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
	case "new call":
		_, _, _ = unix.Syscall(unix.SYS_RSEQ_SLICE_YIELD+1, 0, 0, 0)
	case "socket":
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		_ = unix.Bind(fd, &unix.SockaddrUnix{Name: "socket"})
	case "flags":
		f, err := os.Open(".")
		if err != nil {
			return err
		}
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
	case "root":
		_ = unix.Chroot(".")
		_ = os.Mkdir("/d", 0o700)
	}
	return makes("went-on", 0o600)
}

// tell makes three folders and tells how each went.
func tell() error {
	for _, name := range []string{"1", "2", "3"} {
		err := os.Mkdir(name, 0o700)
		fmt.Printf("%s: %v\n", name, err)
	}
	return nil
}
