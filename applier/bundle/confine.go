package bundle

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A wall is the second one around unpacking. The first is the code: paths are
// checked, os.Root is used, no link is followed. Each of these has had its holes,
// here or elsewhere (CVE-2026-39822 is one of os.Root). Behind the wall it is the
// kernel that lets a thread write below one folder only, whatever it was made to
// do: Landlock, which needs no root and no other process.
//
// It is the thread that is confined, not the program, which has to switch versions
// and restart services afterwards. So a goroutine behind the wall is tied to its
// thread for good; when it ends, the thread ends with it, and no other goroutine
// ever runs there. Nor does a thread that is started later inherit it: Go makes
// threads from one that nothing was done to.
//
// What a confined goroutine cannot do: open anything outside by name, also for
// reading; make, move or remove a name there; start a program; connect or listen
// by TCP (kernel 6.7 and newer; UDP, MPTCP and sockets in the file system are not
// Landlock's yet). Files that are open already stay as they are. What a callback of
// the caller's does is done outside, see relay. A hard link out of a folder that
// may only be read is refused too, as the file could be written through it: who
// wants one makes it outside.
type wall struct {
	rules int   // the ruleset; -1: there is none
	err   error // why there is none
}

// mayDo is what may be done below the folder that is unpacked into.
const mayDo = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
	unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_SYM

// newWall makes a wall inside of which only what is below dir can be made, written
// and read; nil: nothing at all. There is always a wall; one of a kernel without
// Landlock keeps nobody in, and says why in err. The caller closes it.
func newWall(dir *os.File) *wall {
	w := &wall{rules: -1}
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
	case unix.ENOSYS, unix.EOPNOTSUPP: // not built in, or not turned on
		w.err = fmt.Errorf("the kernel has no Landlock: %w", errno)
		return w
	default:
		w.err = os.NewSyscallError("landlock_create_ruleset", errno)
		return w
	}
	attr := handled(int(abi))
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		w.err = os.NewSyscallError("landlock_create_ruleset", errno)
		return w
	}
	w.rules = int(fd)
	unix.CloseOnExec(w.rules)
	if dir != nil {
		rule := unix.LandlockPathBeneathAttr{Allowed_access: mayDo, Parent_fd: int32(dir.Fd())}
		_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, fd, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		if errno != 0 {
			w.close() // without a rule nothing could be unpacked
			w.err = os.NewSyscallError("landlock_add_rule", errno)
			return w
		}
	}
	// Try it, on a thread that is thrown away: a filter of system calls may forbid
	// what the kernel offers, and the workers have nobody to say it to.
	tried := make(chan error)
	go func() { tried <- w.enter() }()
	if err := <-tried; err != nil {
		w.close()
		w.err = err
	}
	return w
}

// handled is all that Landlock can forbid, by the version of its interface,
// Documentation/userspace-api/landlock.rst of the kernel: what is not asked for is
// allowed, and what the kernel does not know is an error.
func handled(abi int) unix.LandlockRulesetAttr {
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1}
	if abi >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if abi >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		// Not signals: Go interrupts its own threads by them, and kernels from 6.12 on
		// count those of one process as strangers until 6.15.
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	return attr
}

func (w *wall) close() {
	if w.rules >= 0 {
		_ = unix.Close(w.rules)
		w.rules = -1
	}
}

// enter puts the goroutine that calls it behind the wall, until it ends. It must
// have been started for that: its thread is of no use to anybody else afterwards.
// An error means that it is not behind the wall.
func (w *wall) enter() error {
	if w.rules < 0 {
		return w.err
	}
	runtime.LockOSThread() // and never unlocked
	// Landlock is for those who cannot gain privileges by starting a program.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(w.rules), 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}

// run runs f behind the wall, or without it where there is none.
func (w *wall) run(f func() error) error {
	done := make(chan error)
	go func() {
		err := errors.New("it ended early") // by runtime.Goexit, as a test does
		defer func() { done <- err }()
		_ = w.enter() // newWall has tried it
		err = f()
	}()
	return <-done
}

// relay makes of progress, which may open files or sockets, a function that can be
// called from behind the wall. Calls of tell must not overlap; each waits until
// progress has returned from the one before, and end until it has from the last.
func relay(progress func(done, total int64)) (tell func(done, total int64), end func()) {
	if progress == nil {
		return nil, func() {}
	}
	type step struct{ done, total int64 }
	steps, ended := make(chan step), make(chan struct{})
	go func() {
		defer close(ended)
		for s := range steps {
			progress(s.done, s.total)
		}
	}()
	return func(done, total int64) { steps <- step{done, total} }, func() { close(steps); <-ended }
}
