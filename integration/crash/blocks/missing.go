package blocks

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/debian"
)

// A Filesystem is one that a device may have its store on.
type Filesystem struct {
	Name string
	Size int64 // of the disk that it is tested on, in bytes
}

// Filesystems are those that are tested, on disks not much larger than what their
// mkfs wants at least.
var Filesystems = []Filesystem{
	{"ext4", 64 << 20},
	{"xfs", 300 << 20},   // mkfs.xfs wants 300 MiB
	{"btrfs", 128 << 20}, // mkfs.btrfs wants 109 MiB
}

// Missing names what the host lacks; empty: nothing.
func Missing() []string {
	var missing []string
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if os.Geteuid() != 0 {
		missing = append(missing, "root (loop devices and mounts need it)")
	} else if unix.Capget(&head, &data[0]) != nil || data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		missing = append(missing, "CAP_SYS_ADMIN (loop devices and mounts need it; an unprivileged container's root has it not)")
	}
	for _, device := range []string{"/dev/loop-control", "/dev/fuse"} {
		if _, err := os.Stat(device); err != nil {
			missing = append(missing, device)
		}
	}
	if _, err := debian.LookTool("qemu-storage-daemon"); err != nil {
		missing = append(missing, "qemu-storage-daemon")
	}
	supported, _ := os.ReadFile("/proc/filesystems")
	for _, fs := range Filesystems {
		if _, err := debian.LookTool("mkfs." + fs.Name); err != nil {
			missing = append(missing, "mkfs."+fs.Name)
		}
		if !strings.Contains(string(supported), "\t"+fs.Name+"\n") {
			// It may be a module; modprobe knows.
			if !loadable(fs.Name) {
				missing = append(missing, fs.Name+" in the kernel")
			}
		}
	}
	return missing
}

// loadable reports whether the kernel has the file system once it is asked for: a
// mount of it loads its module.
func loadable(fs string) bool {
	err := unix.Mount("/dev/null", "/proc/self/fd", fs, 0, "")
	return err != unix.ENODEV
}
