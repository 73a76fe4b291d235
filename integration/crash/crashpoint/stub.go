package crashpoint

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stubVariable in the environment makes any program that links this package put the
// filter on itself and then become the program that its arguments name.
const stubVariable = "OTA_CRASHPOINT_STUB"

// stubSocket is where the supervisor waits: the first of exec.Cmd.ExtraFiles.
const stubSocket = 3

// The stub runs before any test or main of the program that it is part of.
func init() {
	if os.Getenv(stubVariable) == "" {
		return
	}
	program := filter()
	if os.Getenv(stubVariable) == stubReads {
		program = readFilter()
	}
	err := stub(os.Args[1], os.Args[2:], program)
	_ = unix.Sendto(stubSocket, []byte(err.Error()), 0, nil)
	os.Exit(125) // only a program that does not read the socket sees it
}

// stub becomes the program at path, behind the filter. It returns only if that
// cannot be.
func stub(path string, args []string, program []unix.SockFilter) error {
	runtime.LockOSThread() // the filter is this thread's, and so will be the program
	unix.CloseOnExec(stubSocket)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up new privileges: %w", os.NewSyscallError("prctl", err))
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("cannot filter system calls (it takes Linux 5.19): %w", os.NewSyscallError("seccomp", errno))
	}
	if err := unix.Sendmsg(stubSocket, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	env := os.Environ()
	for i, v := range env {
		if strings.HasPrefix(v, stubVariable+"=") {
			env = append(env[:i], env[i+1:]...)
			break
		}
	}
	return &os.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, args, env)}
}
