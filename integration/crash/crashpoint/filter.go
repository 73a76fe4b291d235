package crashpoint

import (
	"math"

	"golang.org/x/sys/unix"
)

// mayMake are the flags with which open changes something. The middle one is
// O_TMPFILE without O_DIRECTORY, which it holds too.
const mayMake = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY | unix.O_TRUNC

// newest is the youngest system call that was looked at when this was written.
// Numbers from 424 on are the same everywhere. One that is younger ends the run.
const newest = unix.SYS_RSEQ_SLICE_YIELD

// filter is the program that the kernel runs at each call: it lets go what changes
// no file system, as far as numbers and flags tell, and asks for all else.
func filter() []unix.SockFilter {
	// Offsets in struct seccomp_data, linux/seccomp.h. The low half of an argument
	// is first on both architectures.
	const nr, arch = 0, 4
	arg := func(i uint32) uint32 { return 16 + 8*i }
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	jump := func(op uint16, k uint32, yes, no int) unix.SockFilter {
		if yes > math.MaxUint8 || no > math.MaxUint8 {
			panic("crashpoint: the filter is too long to jump over")
		}
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | op, K: k, Jt: uint8(yes), Jf: uint8(no)}
	}
	end := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	const ask, allow = unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_RET_ALLOW

	p := []unix.SockFilter{
		load(arch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		end(ask), // a call of another architecture has other numbers
		load(nr),
		jump(unix.BPF_JGT, newest, 0, 1), // also those of x32, from 2^30 on
		end(ask),
	}
	// only is asked about if the block, which ends in an answer, says so.
	only := func(nr uint32, block ...unix.SockFilter) {
		p = append(p, jump(unix.BPF_JEQ, nr, 0, len(block)))
		p = append(p, block...)
	}
	for nr, flags := range opens {
		only(nr, load(arg(flags)), jump(unix.BPF_JSET, mayMake, 0, 1), end(ask), end(allow))
	}
	only(unix.SYS_MMAP, // with any protection: mprotect changes that
		load(arg(3)), jump(unix.BPF_JSET, unix.MAP_SHARED, 1, 0), end(allow), // MAP_SHARED_VALIDATE has its bit too
		jump(unix.BPF_JSET, unix.MAP_ANONYMOUS, 0, 1), end(allow),
		end(ask))
	var ioctl []unix.SockFilter
	ioctl = append(ioctl, load(arg(1)))
	for i, request := range ioctls {
		ioctl = append(ioctl, jump(unix.BPF_JEQ, request, len(ioctls)-i, 0))
	}
	only(unix.SYS_IOCTL, append(ioctl, end(allow), end(ask))...)
	for nr := range calls {
		if _, ok := opens[nr]; ok || nr == unix.SYS_MMAP || nr == unix.SYS_IOCTL {
			continue
		}
		p = append(p, jump(unix.BPF_JEQ, nr, 0, 1), end(ask))
	}
	return append(p, end(allow))
}

// ioctls are the requests that change a file, or what it is.
var ioctls = []uint32{
	unix.FICLONE, unix.FICLONERANGE,
	unix.FIDEDUPERANGE, unix.FS_IOC_SETFLAGS, fsSetXattr, unix.FS_IOC_ENABLE_VERITY, // not understood
}

// fsSetXattr is FS_IOC_FSSETXATTR, linux/fs.h.
const fsSetXattr = 0x401c5820
