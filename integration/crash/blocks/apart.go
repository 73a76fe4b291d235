package blocks

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// inside is set where this process is the first of namespaces of its own: to the
// directory for temporary files outside. outsideMounts is then a descriptor of the
// mounts outside.
const (
	inside        = "OTA_BLOCKS_INSIDE"
	outsideMounts = 3
)

// Isolate is the first thing that a program does that records or replays. It runs
// the program again in namespaces of its own, of mounts and of processes, and returns
// its exit code and true; or, in there, false. However the inner one ends, killed
// too, the kernel then ends what it left: programs, mounts, and with these the loop
// devices. Files are removed by the outer one, or, if that was killed, by the next.
func Isolate() (code int, ended bool) {
	var err error
	if os.Getenv(inside) == "" {
		ended = true
		code, err = isolated()
	} else if err = unix.Mount("proc", "/proc", "proc", 0, ""); err != nil { // of the inner processes
		code, ended = 1, true
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: cannot run in namespaces:", err)
	}
	return code, ended
}

// tempPrefix begins the name of the directory of one run, which holds a lock on it.
const tempPrefix = "ota-blocks-"

func isolated() (code int, err error) {
	defer try.End(&err)
	code = 1
	try.Check(sweep())
	dir := try.Get(os.MkdirTemp("", tempPrefix))
	lock := try.Get(os.Open(dir))
	defer lock.Close()
	try.Check(unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	defer os.RemoveAll(dir)
	mounts := try.Get(os.Open("/proc/self/ns/mnt"))
	defer mounts.Close()

	runtime.LockOSThread() // Pdeathsig is of the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"="+os.TempDir(), "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{mounts}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWPID,
		Unshareflags: unix.CLONE_NEWNS, // with this, Go makes all mounts private
		Pdeathsig:    syscall.SIGKILL,
	}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(1, exit.ExitCode()), nil
	}
	try.Check(err)
	return 0, nil
}

// sweep removes the directories of runs that were killed.
func sweep() error {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	for _, dir := range dirs {
		f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			continue // another run swept it, or it is of another program
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = os.RemoveAll(dir)
		}
		f.Close()
		if err != nil {
			return fmt.Errorf("cannot remove what a run that was killed left: %w", err)
		}
	}
	return nil
}

// startApart starts a program that serves a disk. It gets mounts of its own, which
// are those outside: was it in the namespace in which the disk's file system is
// mounted, and were all killed, it might be the last one there, which unmounts; and
// wait for the disk that it serves itself, for ever.
func startApart(cmd *exec.Cmd) error {
	if os.Getenv(inside) == "" {
		return errors.New("a disk is served only to a program that called Isolate")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			started <- os.NewSyscallError("unshare", err)
			return
		}
		if err := unix.Setns(outsideMounts, unix.CLONE_NEWNS); err != nil {
			started <- os.NewSyscallError("setns", err)
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}
