package crashpoint

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stubReads in stubVariable asks for reads instead of changes.
const stubReads = "reads"

// readers says whose reads of what are points.
type readers struct {
	under    string   // only files below this directory
	programs []string // only calls of these, by the base names of their files
}

func (r *readers) filter() string {
	if r == nil {
		return "changes"
	}
	return stubReads
}

// StartReads is Start with other points: the calls that look at what is below the
// directory under, made by one of programs. A call that is not made to fail is left to the
// kernel, so nothing but its name, its file and its thread is in the log, and plan
// cannot kill. What changes a file system continues at once.
func StartReads(ctx context.Context, cmd *exec.Cmd, under string, programs []string, plan Plan) (*Run, error) {
	return start(ctx, cmd, plan, &readers{under, programs})
}

// A readCall says where a call that looks at a file has what that is.
type readCall struct {
	name      string
	dir, path int // arguments; path here: dir is the descriptor itself
	flags     int // argument of open's flags; 0: there are none
}

// reads are the calls that StartReads asks for: of open those that neither make nor
// truncate a file; stat is also access, list is getdents.
var reads = map[uint32]readCall{
	unix.SYS_OPENAT:     {name: "open", dir: 0, path: 1, flags: 2},
	unix.SYS_OPENAT2:    {name: "open", dir: 0, path: 1},
	unix.SYS_STATX:      {name: "stat", dir: 0, path: 1},
	unix.SYS_FSTAT:      {name: "stat", dir: 0, path: here},
	unix.SYS_FACCESSAT:  {name: "stat", dir: 0, path: 1},
	unix.SYS_FACCESSAT2: {name: "stat", dir: 0, path: 1},
	unix.SYS_READLINKAT: {name: "readlink", dir: 0, path: 1},
	unix.SYS_READ:       {name: "read", dir: 0, path: here},
	unix.SYS_PREAD64:    {name: "read", dir: 0, path: here},
	unix.SYS_READV:      {name: "read", dir: 0, path: here},
	unix.SYS_PREADV:     {name: "read", dir: 0, path: here},
	unix.SYS_GETDENTS64: {name: "list", dir: 0, path: here},
}

// readFilter is the program that the kernel runs at each call of a run of StartReads.
func readFilter() []unix.SockFilter {
	p := []unix.SockFilter{load(callNumber)}
	for nr, call := range reads {
		block := []unix.SockFilter{end(toAsk)}
		if call.flags != 0 {
			block = []unix.SockFilter{load(argument(call.flags)), jump(unix.BPF_JSET, mayMake, 1, 0), end(toAsk), end(toAllow)}
		}
		p = append(p, jump(unix.BPF_JEQ, nr, 0, len(block)))
		p = append(p, block...)
	}
	return append(p, end(toAllow))
}

// read answers a question of a run of StartReads.
func (s *supervisor) read(q *question, a *ask) {
	path := ""
	if call, ok := reads[a.nr]; ok && q.arch == auditArch {
		path = a.readPath(call)
	}
	if rel, err := filepath.Rel(s.readers.under, path); path != "" && err == nil && rel != ".." && !strings.HasPrefix(rel, "../") &&
		slices.Contains(s.readers.programs, a.program()) {
		c := Call{Point: len(s.run.Calls) + 1, PID: a.pid, TID: a.tid, Program: a.program(), Name: reads[a.nr].name, File: Place{Path: path}}
		if errno := s.plan(&c).Errno; errno != 0 {
			c.Injected, c.Errno, c.Result = true, errno, -1
			s.run.Calls = append(s.run.Calls, c)
			s.send(&answer{id: q.id, err: -int32(errno)})
			return
		}
		s.run.Calls = append(s.run.Calls, c)
	}
	s.send(&answer{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE})
}

// readPath is the file of a call, as far as its name tells; empty: it is none.
func (a *ask) readPath(call readCall) string {
	of := func(argument int) string {
		link := fmt.Sprintf("/proc/%d/cwd", a.tid)
		if argument != here && int32(a.arg[argument]) != unix.AT_FDCWD {
			link = fmt.Sprintf("/proc/%d/fd/%d", a.tid, int32(a.arg[argument]))
		}
		name, err := os.Readlink(link)
		if err != nil || !filepath.IsAbs(name) { // a socket, a pipe
			return ""
		}
		return name
	}
	if call.path == here {
		return of(call.dir)
	}
	name, err := a.path(a.arg[call.path])
	if err != nil {
		return ""
	}
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	if base := of(call.dir); base != "" {
		return filepath.Join(base, name)
	}
	return ""
}
