package crashpoint

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// opens are the calls that open, with where their flags are. openat2 has them in
// memory, where no filter can look.
var opens = map[uint32]int{unix.SYS_OPENAT: 2}

func init() { reads[unix.SYS_FSTATAT] = readCall{name: "stat", dir: 0, path: 1} }
