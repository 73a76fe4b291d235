// The program ota-container-init makes a container's mounts and becomes its
// systemd. integration/machine/container starts it, in namespaces of its own: it reads
// its plan from descriptor 3 and writes why it could not continue to descriptor 4,
// which is closed without a word when systemd runs.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/container"
)

// The death signal and the namespaces belong to a thread: all is done in the
// first one.
func init() { runtime.LockOSThread() }

func main() {
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	plan, failure := os.NewFile(3, "plan"), os.NewFile(4, "failure")
	// Outside of a namespace it would take the host's mounts apart.
	if os.Getpid() != 1 || plan == nil || failure == nil {
		fmt.Fprintln(os.Stderr, "ota-container-init is started by the test machines only")
		os.Exit(2)
	}
	var p container.Plan
	err := json.NewDecoder(plan).Decode(&p)
	if err == nil {
		err = dieWith(failure)
	}
	if err == nil {
		err = container.Init(p)
	}
	fmt.Fprint(failure, err)
	os.Exit(1)
}

// dieWith has this process killed when the thread that started it ends. exec
// keeps that. A parent that ended before it was said has closed its end of the
// pipe; getppid says nothing across a PID namespace.
func dieWith(pipe *os.File) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("cannot ask for a signal when the parent dies: %w", err)
	}
	fds := []unix.PollFd{{Fd: int32(pipe.Fd())}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return fmt.Errorf("cannot ask for the parent: %w", err)
	}
	if fds[0].Revents&unix.POLLERR != 0 {
		return errors.New("the parent is gone")
	}
	return nil
}
