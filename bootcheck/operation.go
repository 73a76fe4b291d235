package bootcheck

import (
	"encoding/json"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Operation is what an install does at this moment, as it is reported to
// device-api, kept in progress.json and served to screens.
//
// progress.json is replaced as a whole at each change, so a reader sees one state
// or the next, never half of one. While its writer lives, it holds a write lock
// (fcntl, of the open file) on the very file that it put there. The lock dies
// with the process, also if it is killed: a file that says "downloading" and is not
// locked is of an install that was killed. Only a user who may write the file can
// lock it, and a reader needs no lock.
type Operation struct {
	Stage    string `json:"stage"`    // "idle": nothing is done
	Progress int    `json:"progress"` // percent of the stage
	Message  string `json:"message"`
	Error    string `json:"error"` // empty, or CODE: text
}

// An Install is what progress.json says: the Operation, and what a screen shows beside it.
type Install struct {
	Operation
	Version OrNull `json:"version"`     // that is installed; empty: not known yet
	Done    int64  `json:"bytes_done"`  // of the stage
	Total   int64  `json:"bytes_total"` // 0: the stage does not count bytes
}

// Stages of an Operation that this package looks at; package report has them all.
const (
	StageIdle    = "idle" // no install runs, and none has ended in this boot
	StageSuccess = "success"
	stageFailed  = "failed"
)

// Running reports whether op is of an install that has not ended.
func (op Operation) Running() bool {
	return op.Stage != StageIdle && op.Stage != StageSuccess && op.Stage != stageFailed
}

// maxOperation is what is read of progress.json, in bytes; a Reporter writes 2 KiB at most.
const maxOperation = 64 << 10

// ReadOperation is the Operation of ReadInstall.
func ReadOperation(name string) Operation { return ReadInstall(name).Operation }

// ReadInstall reads progress.json: what an install does now, or how the last
// one of this boot ended. It is idle where there is no such file (a reboot empties
// /run) or none that can be understood: nothing depends on it. It is idle too, and
// the message says why, when the install was killed before it could say an end.
func ReadInstall(name string) Install {
	var op Install
	// A file that was replaced while it was read is no longer locked: look again.
	// One that is replaced all the time has a writer that lives.
	for range 10 {
		var final bool
		if op, final = readOperation(name); final {
			return op
		}
	}
	return op
}

// readOperation is one look. final is false when the file was exchanged meanwhile.
func readOperation(name string) (op Install, final bool) {
	idle := Install{Operation: Operation{Stage: StageIdle}}
	// A FIFO or a link in its place does not block and leads nowhere.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return idle, true
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return idle, true
	}
	data, err := io.ReadAll(io.LimitReader(f, maxOperation))
	if err != nil || json.Unmarshal(data, &op) != nil || op.Stage == "" {
		return idle, true
	}
	if !op.Running() || writerLives(f) {
		return op, true
	}
	if now, err := os.Lstat(name); err == nil && !os.SameFile(info, now) {
		return op, false
	}
	idle.Message = "the last install was interrupted while " + op.Stage
	return idle, true
}

// writerLives reports whether a process holds a write lock on f. Where the file
// system cannot tell, the file is trusted.
func writerLives(f *os.File) bool {
	lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock)
	return err != nil || lock.Type != unix.F_UNLCK
}

// LockOperation takes the lock that says that the writer of f lives. f is open
// for writing and not yet at its name; the lock ends when f is closed.
func LockOperation(f *os.File) error {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return nil
}
