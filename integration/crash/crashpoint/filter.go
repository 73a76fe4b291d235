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

// Offsets in struct seccomp_data, linux/seccomp.h.
const callNumber, architecture = 0, 4

// argument is the offset of the low half of one, which is first on both architectures.
func argument(i int) uint32 { return uint32(16 + 8*i) }

const toAsk, toAllow = unix.SECCOMP_RET_USER_NOTIF, unix.SECCOMP_RET_ALLOW

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func jump(op uint16, k uint32, yes, no int) unix.SockFilter {
	if yes > math.MaxUint8 || no > math.MaxUint8 {
		panic("crashpoint: the filter is too long to jump over")
	}
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | op, K: k, Jt: uint8(yes), Jf: uint8(no)}
}

func end(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// filter is the program that the kernel runs at each call: it lets go what changes
// no file system, as far as numbers and flags tell, and asks for all else.
func filter() []unix.SockFilter {
	p := []unix.SockFilter{
		load(architecture),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		end(toAsk), // a call of another architecture has other numbers
		load(callNumber),
		jump(unix.BPF_JGT, newest, 0, 1), // also those of x32, from 2^30 on
		end(toAsk),
	}
	// only is asked about if the block, which ends in an answer, says so.
	only := func(nr uint32, block ...unix.SockFilter) {
		p = append(p, jump(unix.BPF_JEQ, nr, 0, len(block)))
		p = append(p, block...)
	}
	for nr, flags := range opens {
		only(nr, load(argument(flags)), jump(unix.BPF_JSET, mayMake, 0, 1), end(toAsk), end(toAllow))
	}
	only(unix.SYS_MMAP, // with any protection: mprotect changes that
		load(argument(3)), jump(unix.BPF_JSET, unix.MAP_SHARED, 1, 0), end(toAllow), // MAP_SHARED_VALIDATE has its bit too
		jump(unix.BPF_JSET, unix.MAP_ANONYMOUS, 0, 1), end(toAllow),
		end(toAsk))
	var ioctl []unix.SockFilter
	ioctl = append(ioctl, load(argument(1)))
	for i, request := range ioctls {
		ioctl = append(ioctl, jump(unix.BPF_JEQ, request, len(ioctls)-i, 0))
	}
	only(unix.SYS_IOCTL, append(ioctl, end(toAllow), end(toAsk))...)
	for nr := range calls {
		if _, ok := opens[nr]; ok || nr == unix.SYS_MMAP || nr == unix.SYS_IOCTL {
			continue
		}
		p = append(p, jump(unix.BPF_JEQ, nr, 0, 1), end(toAsk))
	}
	return append(p, end(toAllow))
}

// ioctls are the requests that change a file, or what it is.
var ioctls = []uint32{
	unix.FICLONE, unix.FICLONERANGE,
	unix.FIDEDUPERANGE, unix.FS_IOC_SETFLAGS, fsSetXattr, unix.FS_IOC_ENABLE_VERITY, // not understood
}

// fsSetXattr is FS_IOC_FSSETXATTR, linux/fs.h.
const fsSetXattr = 0x401c5820
