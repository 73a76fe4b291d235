package crashpoint

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// opens are the calls that open, with where their flags are. openat2 has them in
// memory, where no filter can look.
var opens = map[uint32]int{unix.SYS_OPEN: 1, unix.SYS_OPENAT: 2}

// These are older than the forms with "at", and not on arm64.
func init() {
	calls[unix.SYS_OPEN] = func(a *ask) (*act, error) {
		return a.open(here, 0, int(int32(a.arg[1])), uint32(a.arg[2]))
	}
	calls[unix.SYS_CREAT] = func(a *ask) (*act, error) {
		return a.open(here, 0, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, uint32(a.arg[1]))
	}
	calls[unix.SYS_MKDIR] = func(a *ask) (*act, error) { return a.mkdir(here, 0, 1) }
	calls[unix.SYS_RMDIR] = func(a *ask) (*act, error) { return a.unlink(here, 0, unix.AT_REMOVEDIR) }
	calls[unix.SYS_UNLINK] = func(a *ask) (*act, error) { return a.unlink(here, 0, 0) }
	calls[unix.SYS_SYMLINK] = func(a *ask) (*act, error) { return a.symlink(0, here, 1) }
	calls[unix.SYS_LINK] = func(a *ask) (*act, error) { return a.link(here, 0, here, 1, 0) }
	calls[unix.SYS_RENAME] = func(a *ask) (*act, error) { return a.rename(here, 0, here, 1, 0) }
	calls[unix.SYS_CHMOD] = func(a *ask) (*act, error) { return a.chmod(here, 0, 1, 0) }
	for nr, name := range map[uint32]string{
		unix.SYS_CHOWN: "chown", unix.SYS_LCHOWN: "lchown", unix.SYS_MKNOD: "mknod",
		unix.SYS_UTIME: "utime", unix.SYS_UTIMES: "utimes", unix.SYS_FUTIMESAT: "futimesat",
	} {
		calls[nr] = unknown(name)
	}
}

// The same of reads. newfstatat is fstatat's number on arm64.
func init() {
	reads[unix.SYS_OPEN] = readCall{name: "open", dir: here, path: 0, flags: 1}
	reads[unix.SYS_NEWFSTATAT] = readCall{name: "stat", dir: 0, path: 1}
	for _, nr := range []uint32{unix.SYS_STAT, unix.SYS_LSTAT, unix.SYS_ACCESS} {
		reads[nr] = readCall{name: "stat", dir: here, path: 0}
	}
	reads[unix.SYS_READLINK] = readCall{name: "readlink", dir: here, path: 0}
}
