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
	missing := append(debian.MissingRights("loop devices and mounts"), debian.MissingTools("qemu-storage-daemon")...)
	for _, device := range []string{"/dev/loop-control", "/dev/fuse"} {
		if _, err := os.Stat(device); err != nil {
			missing = append(missing, device)
		}
	}
	supported, _ := os.ReadFile("/proc/filesystems")
	for _, fs := range Filesystems {
		missing = append(missing, debian.MissingTools("mkfs."+fs.Name)...)
		if !strings.Contains(string(supported), "\t"+fs.Name+"\n") && !loadable(fs.Name) {
			missing = append(missing, fs.Name+" in the kernel")
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
