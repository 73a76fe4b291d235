package bootcheck

import (
	"io/fs"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A file that was found right when it was written says so itself, in the fraction
// of a second of its modification time: nanoseconds that its SHA-256 gives. Who
// writes to it later gives it the time of then, whose fraction is another one (by
// accident, one time in 10^9). So it needs no list that can be lost, and moves
// with a hard link or a clone. Whole seconds stay those of the clock: servers of
// static files compare them.
//
// It is evidence of nobody having written, for choosing what is copied without
// being hashed again. It is none against who can set times, which takes root or
// the file's owner, nor against a flash that forgets. File systems without
// nanoseconds keep no mark: there, files are hashed.

// MarkVerified marks f, which has the content of sha256 (hex) and was last written
// to at that time. A file system that cannot keep the mark is no error: the file
// is hashed again when that matters.
func MarkVerified(f *os.File, sha256 string, written time.Time) {
	times := [2]unix.Timespec{
		{Nsec: unix.UTIME_OMIT},
		unix.NsecToTimespec(written.Unix()*int64(time.Second) + verifiedNanoseconds(sha256)),
	}
	// futimens: the os package knows files by name only, and follows links.
	_, _, _ = unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
}

// IsVerified reports whether the regular file of info still bears the mark of
// MarkVerified for sha256.
func IsVerified(info fs.FileInfo, sha256 string) bool {
	n := verifiedNanoseconds(sha256)
	return n > 0 && int64(info.ModTime().Nanosecond()) == n
}

// verifiedNanoseconds is never 0, which a time set by hand usually has, unless
// sha256 is none.
func verifiedNanoseconds(sha256 string) int64 {
	if len(sha256) < 16 {
		return 0
	}
	n, err := strconv.ParseUint(sha256[:16], 16, 64)
	if err != nil {
		return 0
	}
	return 1 + int64(n%(1e9-1))
}
