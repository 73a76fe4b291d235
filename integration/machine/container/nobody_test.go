package container_test

import (
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// asNobody calls f in a thread without rights.
func asNobody(t *testing.T, f func() []string) []string {
	t.Helper()
	got := make(chan []string)
	failed := make(chan syscall.Errno, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		const nobody = 65534
		keep := ^uintptr(0)
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, nobody, keep) // of this thread only
		failed <- errno
		got <- f()
	}()
	if errno := <-failed; errno != 0 {
		t.Fatal(errno)
	}
	return <-got
}
