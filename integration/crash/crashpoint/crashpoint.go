// Package crashpoint runs real programs and stops the world at their every change to
// a file system: there it kills them, makes the call fail, or only takes note.
//
// A filter of system calls (seccomp) is put on the program before it starts; its
// children inherit it. At each call that may change a file system, or make a change
// last, the kernel stops the caller and asks the supervisor, Run:
//
//	filter.go   which calls are asked for
//	stub.go     how the filter gets onto a program: this program starts itself again
//	run.go      the supervisor: one question after the other, and the end
//	calls.go    which calls there are, and how a file is opened
//	content.go  calls that change what a file holds
//	names.go    calls that change names and what is known of a file
//	place.go    which file a path or a descriptor means
//	process.go  memory, descriptors and umask of the process that asked
//	log.go      what is noted
//
// The supervisor makes the call itself, on copies of the caller's descriptors and
// of its memory, and answers with the result. It could also tell the kernel to go
// on; but then nothing says when the call has ended and with what, another thread's
// would be made meanwhile, and a log of such calls would have an order that never
// was. So a call is made when all before it have ended, its result and the identity
// of each file are known, and a look at the disk between two calls sees what
// a crash would leave there. What is given up: the call is made with the rights of
// the supervisor, that is root, and without RLIMIT_FSIZE. A test of that must not do
// it here.
//
// No file system is changed by writes to pipes, sockets, devices, memory files,
// /proc, /sys and control groups, nor by locks: these continue at once and are no
// points. What could change a file system and is not understood (io_uring, a shared
// writable mapping, a system call that is younger than this package) ends the run
// with an error: nothing is missed silently.
//
// Needed: Linux 5.19 (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: a signal, of which
// Go's scheduler sends many, would make a call twice), amd64 or arm64, root.
package crashpoint

import "golang.org/x/sys/unix"

// An Action is what becomes of a call that was not made yet. The zero Action: it
// is made.
type Action struct {
	Kill  bool       // everything is killed instead
	Errno unix.Errno // if not 0: it fails with it instead
}

// A Plan decides what becomes of each call. While it does, nothing moves: what it
// finds on the disk is what all calls before this one have left there. nil: all
// calls are made.
type Plan func(*Call) Action

// Kill kills all processes just before call n.
func Kill(n int) Plan {
	return func(c *Call) Action { return Action{Kill: c.Point >= n} }
}

// Fail makes call n fail with errno.
func Fail(n int, errno unix.Errno) Plan {
	return func(c *Call) (a Action) {
		if c.Point == n {
			a.Errno = errno
		}
		return a
	}
}

// FailFrom makes call n and all after it fail with errno.
func FailFrom(n int, errno unix.Errno) Plan {
	return func(c *Call) (a Action) {
		if c.Point >= n {
			a.Errno = errno
		}
		return a
	}
}
