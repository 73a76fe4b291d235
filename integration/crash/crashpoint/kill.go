package crashpoint

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killed is how long those that were killed may take to be gone. The kernel may be
// busy to free what they had.
const killed = time.Minute

// killAll kills the program and all its children, and returns when none is left.
func (s *supervisor) killAll() error {
	// All that ask are stopped; one that does not may start others, until it is stopped. The
	// program itself may have ended, and its number be another process's.
	stopped := make(map[int]bool)
	for more := true; more && unix.PidfdSendSignal(s.pidfd, unix.SIGSTOP, nil, 0) == nil; {
		more = false
		for _, pid := range family(s.main) {
			if !stopped[pid] {
				_ = unix.Kill(pid, unix.SIGSTOP)
				stopped[pid], more = true, true
			}
		}
	}
	for pid := range stopped {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	s.mu.Lock()
	for _, p := range s.processes { // those, too, whose parents ended before
		_ = unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
	}
	s.mu.Unlock()
	until := time.Now().Add(killed)
	for {
		fds := []unix.PollFd{{Fd: int32(s.listener)}}
		n, err := unix.Poll(fds, 20)
		if n == 0 {
			s.killSession()
		}
		switch {
		case fds[0].Revents&unix.POLLHUP != 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("poll", err)
		case time.Now().After(until):
			return fmt.Errorf("process %d and its children do not end although they were killed", s.main)
		}
	}
}

// killSession kills what is left of the program's session.
func (s *supervisor) killSession() {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return // the next round tries again
	}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if session, err := unix.Getsid(pid); err == nil && session == s.main {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// family is a process and all that descend from it.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", all[i]))
		if err != nil {
			continue // gone
		}
		for _, task := range tasks {
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", all[i], task.Name()))
			for _, word := range strings.Fields(string(children)) {
				if child, err := strconv.Atoi(word); err == nil {
					all = append(all, child)
				}
			}
		}
	}
	return all
}
