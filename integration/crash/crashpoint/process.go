package crashpoint

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A process is one that has asked.
type process struct {
	pid, pidfd int
}

// errGone is that of a thread that was killed while it was looked at, or whose own call makes
// no sense: the kernel is to answer, if a thread is left.
var errGone = errors.New("the kernel answers this call")

// process finds out whose thread tid is.
func (s *supervisor) process(tid int) (*process, error) {
	if p := s.threads[tid]; p != nil && p.has(tid) {
		return p, nil
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return nil, errGone
	}
	pid, err := strconv.Atoi(field(status, "Tgid:"))
	if err != nil {
		return nil, fmt.Errorf("cannot read /proc/%d/status: %w", tid, err)
	}
	p := s.processes[pid]
	if p == nil || !p.has(tid) {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return nil, errGone
		}
		if p != nil {
			s.past = append(s.past, p)
		}
		p = &process{pid: pid, pidfd: pidfd}
		s.processes[pid] = p
	}
	s.threads[tid] = p
	return p, nil
}

// has reports whether tid is a thread of p. On a busy machine the kernel gives the numbers
// of those that have ended to others within a minute.
func (p *process) has(tid int) bool {
	return unix.PidfdSendSignal(p.pidfd, 0, nil, 0) == nil &&
		unix.Access(fmt.Sprintf("/proc/%d/task/%d", p.pid, tid), unix.F_OK) == nil
}

// field is the word behind name in a status file of /proc.
func field(status []byte, name string) string {
	_, rest, _ := bytes.Cut(status, []byte("\n"+name))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return strings.TrimSpace(string(line))
}

// An ask is one question of the kernel's: a call that waits for its answer.
type ask struct {
	*process
	tid  int
	nr   uint32
	arg  [6]uint64
	fds  []int // closed when it is answered
	here int   // the working directory, see dir
}

// release closes what was opened for the answer. Nothing may stay: a copy of a
// descriptor keeps its lock.
func (a *ask) release() {
	for _, fd := range a.fds {
		_ = unix.Close(fd)
	}
	a.fds = nil
}

// keep closes fd when the call is answered.
func (a *ask) keep(fd int) int {
	a.fds = append(a.fds, fd)
	return fd
}

// fd is a copy of the caller's descriptor fd: of the same open file, with the same
// position.
func (a *ask) fd(fd int) (int, error) {
	mine, err := unix.PidfdGetfd(a.pidfd, fd, 0)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.EPERM) {
		return 0, fmt.Errorf("cannot take descriptor %d of process %d: %w", fd, a.pid, err)
	}
	if err != nil {
		return 0, errGone // there is none
	}
	return a.keep(mine), nil
}

// memory reads the caller's memory into buf, all of it.
func (a *ask) memory(at uint64, buf []byte) error {
	for len(buf) > 0 {
		local := unix.Iovec{Base: &buf[0]}
		local.SetLen(len(buf))
		n, err := unix.ProcessVMReadv(a.pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: len(buf)}}, 0)
		if err != nil || n == 0 {
			return errGone
		}
		buf, at = buf[n:], at+uint64(n)
	}
	return nil
}

// poke writes a number into the caller's memory.
func (a *ask) poke(at uint64, v int64) error {
	local := unix.Iovec{Base: (*byte)(unsafe.Pointer(&v))}
	local.SetLen(8)
	if _, err := unix.ProcessVMWritev(a.pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(at), Len: 8}}, 0); err != nil {
		return errGone
	}
	return nil
}

// text reads a string that ends with a zero byte.
func (a *ask) text(at uint64) (string, error) {
	var all []byte
	for len(all) < unix.PathMax {
		// Not over the end of a page: what is behind it may not be there.
		part := make([]byte, min(256, 4096-at%4096))
		if err := a.memory(at, part); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(part, 0); i >= 0 {
			return string(append(all, part[:i]...)), nil
		}
		all, at = append(all, part...), at+uint64(len(part))
	}
	return "", errGone // ENAMETOOLONG
}

// numbers reads n numbers of 64 bits.
func (a *ask) numbers(at uint64, n int) ([]int64, error) {
	v := make([]int64, n)
	if n == 0 {
		return v, nil
	}
	return v, a.memory(at, unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 8*n))
}

// path reads a path. What /proc and /dev call "self" is the caller, not us.
func (a *ask) path(at uint64) (string, error) {
	p, err := a.text(at)
	if err != nil {
		return "", err
	}
	own := fmt.Sprintf("/proc/%d/", a.pid)
	for old, new := range map[string]string{
		"/proc/self/": own, "/proc/thread-self/": fmt.Sprintf("%stask/%d/", own, a.tid), "/dev/fd/": own + "fd/",
	} {
		if rest, ok := strings.CutPrefix(p, old); ok {
			return new + rest, nil
		}
	}
	for i, name := range []string{"/dev/stdin", "/dev/stdout", "/dev/stderr"} {
		if p == name {
			return own + "fd/" + strconv.Itoa(i), nil
		}
	}
	return p, nil
}

// umask is that of the caller.
func (a *ask) umask() (uint32, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.tid))
	if err != nil {
		return 0, errGone
	}
	mask, err := strconv.ParseUint(field(status, "Umask:"), 8, 32)
	if err != nil {
		return 0, fmt.Errorf("cannot read the umask of process %d: %w", a.pid, err)
	}
	return uint32(mask), nil
}

// program is the base name of the file that the caller runs.
func (a *ask) program() string {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", a.pid))
	if err != nil {
		return ""
	}
	return filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
}

// inOurs reports whether the caller sees the file systems that we see.
func (a *ask) inOurs() error {
	var mine, other unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/mnt", &mine); err != nil {
		return err
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", a.tid), &other); err != nil {
		return errGone
	}
	root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", a.tid))
	if err != nil {
		return errGone
	}
	if root != "/" || mine.Ino != other.Ino {
		return fmt.Errorf("%s (process %d) has mounts or a root of its own: which file it means is not known here", a.program(), a.pid)
	}
	return nil
}
