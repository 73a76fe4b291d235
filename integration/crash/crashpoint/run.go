package crashpoint

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// A Run is what was seen of a program.
type Run struct {
	Calls []Call // all that were made or made to fail, in their order
	// Killed: the plan said so; then Next is the call that was not made.
	Killed bool
	Next   *Call
	// State is how the program ended.
	State *os.ProcessState
}

// Start runs cmd, which must not have been started, until it and all its children
// have ended. Each of their calls that changes a file system becomes what plan says.
//
// The error says that nothing was proved: the program could not be started, or did
// what cannot be followed, or ctx has ended. Then, too, nothing of it runs any more,
// and what was seen until then is returned. However the program itself ended, it is
// no error.
func Start(ctx context.Context, cmd *exec.Cmd, plan Plan) (*Run, error) {
	return start(ctx, cmd, plan, nil)
}

func start(ctx context.Context, cmd *exec.Cmd, plan Plan, of *readers) (*Run, error) {
	if plan == nil {
		plan = func(*Call) Action { return Action{} }
	}
	if cmd.Err != nil {
		return nil, cmd.Err
	}
	if len(cmd.ExtraFiles) > 0 {
		return nil, errors.New("cannot supervise a program that is given descriptors")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := pair[0], os.NewFile(uintptr(pair[1]), "stub")
	defer func() { _ = unix.Close(ours) }()
	name := cmd.Path
	cmd.Path, cmd.Args = "/proc/self/exe", append([]string{"crashpoint", name}, cmd.Args...)
	cmd.Env = append(cmd.Environ(), stubVariable+"="+of.filter())
	cmd.ExtraFiles = []*os.File{theirs}
	// A session of its own is how its children are found that have lost their parents.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setsid = true
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	listener, err := receive(ours)
	pidfd := -1
	if err == nil {
		if pidfd, err = unix.PidfdOpen(cmd.Process.Pid, 0); err != nil {
			_ = unix.Close(listener)
		}
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, fmt.Errorf("cannot supervise %s: %w", name, err)
	}
	s := &supervisor{
		main: cmd.Process.Pid, pidfd: pidfd, listener: listener, plan: plan, readers: of,
		threads: make(map[int]*process), processes: make(map[int]*process),
	}
	defer s.close()
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		s.wake = -1
		err = os.NewSyscallError("eventfd", err)
	}
	watched := make(chan error, 1)
	go func() {
		if err != nil {
			watched <- err
			return
		}
		watched <- s.watch()
	}()
	stop := context.AfterFunc(ctx, s.stop)
	var failed error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if failed = <-watched; failed != nil {
			s.killAll()
		}
	}()
	// The end of the program is waited for first: the filter has its users as long
	// as it is a zombie, on kernels before 6.11.
	waitErr := cmd.Wait()
	<-ended
	if !stop() {
		failed = errors.Join(failed, context.Cause(ctx))
	}
	run := &s.run
	run.State = cmd.ProcessState
	if failed == nil {
		// The stub says it here if it could not become the program.
		failed = failure(ours)
	}
	if failed == nil && waitErr != nil && run.State == nil {
		failed = waitErr
	}
	if failed != nil {
		return run, fmt.Errorf("cannot follow %s: %w", name, failed)
	}
	return run, nil
}

// receive takes the listener that the stub sends.
func receive(socket int) (int, error) {
	text, rights := make([]byte, 1024), make([]byte, unix.CmsgSpace(4))
	var n, m int
	var err error
	for {
		n, m, _, _, err = unix.Recvmsg(socket, text, rights, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m])
	if err == nil && len(messages) == 1 {
		fds, err := unix.ParseUnixRights(&messages[0])
		if err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	if n == 0 {
		return 0, errors.New("its stub ended without a word")
	}
	return 0, errors.New(string(text[:n]))
}

// failure is what the stub said last.
func failure(socket int) error {
	text := make([]byte, 1024)
	n, _, err := unix.Recvfrom(socket, text, unix.MSG_DONTWAIT)
	if err != nil || n == 0 {
		return nil
	}
	return errors.New(string(text[:n]))
}

// A supervisor follows one program.
type supervisor struct {
	main     int // its process
	pidfd    int // the same
	listener int
	wake     int // an eventfd: ctx has ended
	plan     Plan
	readers  *readers // nil: changes are asked for
	run      Run

	mu        sync.Mutex // of processes, which killAll reads, and of the end of wake
	threads   map[int]*process
	processes map[int]*process
	past      []*process // whose numbers are those of others now
}

func (s *supervisor) close() {
	for _, p := range slices.AppendSeq(s.past, maps.Values(s.processes)) {
		_ = unix.Close(p.pidfd)
	}
	_ = unix.Close(s.listener)
	_ = unix.Close(s.pidfd)
	s.mu.Lock()
	_ = unix.Close(s.wake)
	s.wake = -1
	s.mu.Unlock()
}

// stop makes watch end. It may come after close, when the descriptor is another file's.
func (s *supervisor) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// The questions of the kernel and their answers, linux/seccomp.h.
type question struct {
	id    uint64
	pid   uint32 // of the thread
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	arg   [6]uint64
}

type answer struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

type descriptor struct {
	id      uint64
	flags   uint32
	fd      uint32
	newFD   uint32
	fdFlags uint32
}

const addFD = 0x40182103 // SECCOMP_IOCTL_NOTIF_ADDFD

// watch answers until no thread is left that could ask. An error says that the answer
// to a question is not known; none was answered, and all wait.
func (s *supervisor) watch() error {
	// This thread has a umask of its own, as the mode of a new file is computed for
	// the caller; it ends with this function.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	unix.Umask(0)
	fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return os.NewSyscallError("poll", err)
		}
		switch {
		case fds[1].Revents != 0:
			return errStopped
		case fds[0].Revents&unix.POLLIN != 0:
			var q question
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
				if errno == unix.ENOENT || errno == unix.EINTR {
					continue // the caller was interrupted, and asks again
				}
				return os.NewSyscallError("ioctl", errno)
			}
			if end, err := s.answer(&q); end || err != nil {
				return err
			}
		case fds[0].Revents&unix.POLLHUP != 0:
			return nil
		}
		// POLLERR is only that the kernel was interrupted while it looked, by a signal
		// of Go's scheduler.
	}
}

// errStopped is that of a run whose context has ended, which says why.
var errStopped = errors.New("it was stopped")

// answer makes the call of a question. end: all were killed instead.
func (s *supervisor) answer(q *question) (end bool, err error) {
	defer try.End(&err)
	s.mu.Lock()
	p, err := s.process(int(q.pid))
	s.mu.Unlock()
	if errors.Is(err, errGone) {
		return false, nil
	}
	try.Check(err)
	a := &ask{process: p, tid: int(q.pid), nr: uint32(q.nr), arg: q.arg}
	defer a.release()
	if s.readers != nil {
		s.read(q, a)
		return false, nil
	}
	parse := calls[a.nr]
	if q.arch != auditArch || parse == nil {
		parse = unknown(fmt.Sprintf("number %d of architecture %#x", q.nr, q.arch))
	}
	t, err := parse(a)
	if errors.Is(err, errGone) {
		s.send(&answer{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
		return false, nil
	}
	try.Check(err)
	c := &t.Call
	c.Point, c.PID, c.TID, c.Program = len(s.run.Calls)+1, a.pid, a.tid, a.program()
	action := s.plan(c)
	if action.Kill {
		a.release()
		s.run.Killed, s.run.Next = true, c
		return true, s.killAll()
	}
	if action.Errno != 0 {
		c.Injected, c.Errno, c.Result = true, action.Errno, -1
		if c.Name == "copy" || c.Name == "clone" {
			c.Data = nil
		}
		s.run.Calls = append(s.run.Calls, *c)
		a.release()
		s.send(&answer{id: q.id, err: -int32(action.Errno)})
		return false, nil
	}
	result, err := t.do()
	if err != nil {
		errno, ok := errors.AsType[unix.Errno](err)
		if !ok {
			return false, err
		}
		c.Errno, c.Result = errno, -1
		s.run.Calls = append(s.run.Calls, *c)
		a.release()
		s.send(&answer{id: q.id, err: -int32(errno)})
		return false, nil
	}
	c.Result = result
	if t.done != nil {
		t.done(result)
	}
	if !t.opens {
		s.run.Calls = append(s.run.Calls, *c)
		a.release()
		s.send(&answer{id: q.id, value: result})
		return false, nil
	}
	d := descriptor{id: q.id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, fd: uint32(result), fdFlags: uint32(t.fdFlags)}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), addFD, uintptr(unsafe.Pointer(&d)))
	if errno != 0 && errno != unix.ENOENT && errno != unix.EINPROGRESS {
		return false, fmt.Errorf("cannot give process %d what it opened: %w", a.pid, errno)
	}
	c.Result = int64(fd)
	s.run.Calls = append(s.run.Calls, *c)
	return false, nil
}

// send answers. A thread that was killed meanwhile does not need it.
func (s *supervisor) send(a *answer) {
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(s.listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(a)))
}

// Missing is what this machine lacks to supervise a program; empty: nothing.
func Missing() []string {
	if os.Geteuid() != 0 {
		return []string{"root"}
	}
	if _, err := Start(context.Background(), exec.Command("/bin/true"), nil); err != nil {
		return []string{err.Error()}
	}
	return nil
}
