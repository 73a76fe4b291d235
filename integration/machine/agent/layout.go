package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// Disks are told apart by the serial numbers that QEMU gives them: the order in
// which the kernel finds them is not promised.
const (
	RootSerial = "root" // erofs, read-only
	DataSerial = "data" // ext4; holds the directories of dataDirs
)

// Writable is the word of the kernel's command line that makes the root writable,
// by a layer on the data disk: the directories UpperDir and WorkDir of it.
const (
	Writable = "ota.writable"
	UpperDir = "root-upper"
	WorkDir  = "root-work"
)

// dataDirs are directories of the data disk, and where they are bound over directories of
// the read-only root.
var dataDirs = map[string]string{"opt-tope": "/opt/tope", "etc-ota": "/etc/ota", "var-lib-ota": "/var/lib/ota"}

// Mount is mount(2).
func Mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return &fs.PathError{Op: "mount " + fstype + " " + source, Path: target, Err: err}
	}
	return nil
}

// BindData binds the directories of the disk that is mounted on /data below root, and
// makes those that it does not have.
func BindData(root string) (err error) {
	defer try.End(&err)
	made := false
	for name, target := range dataDirs {
		dir := filepath.Join(root, "data", name)
		switch err := os.Mkdir(dir, 0o755); {
		case err == nil: // a new disk
			made = true
		case !errors.Is(err, fs.ErrExist):
			return err
		}
		try.Check(Mount(dir, root+target, "", unix.MS_BIND, ""))
	}
	if made { // or a power cut could take a directory away, with the synced files in it
		d := try.Get(os.Open(filepath.Join(root, "data")))
		defer d.Close()
		return unix.Syncfs(int(d.Fd()))
	}
	return nil
}

// MountMemory mounts below root what is in memory and gone with the boot: of a root that is
// writable without /var.
func MountMemory(root string, writable bool) (err error) {
	defer try.End(&err)
	for _, m := range []struct{ target, mode string }{{"/tmp", "mode=1777"}, {"/run", "mode=0755"}, {"/var", "mode=0755"}} {
		if m.target == "/var" && writable {
			continue
		}
		try.Check(Mount("tmpfs", root+m.target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, m.mode))
	}
	for _, dir := range []string{"/var/lib/ota", "/var/lib/systemd", "/var/log", "/var/cache", "/var/spool", "/var/tmp", "/run/lock"} {
		try.Check(os.MkdirAll(root+dir, 0o755))
	}
	try.Check(os.Chmod(root+"/var/tmp", 0o777|fs.ModeSticky))
	if writable {
		return nil // the root has the links
	}
	return errors.Join(os.Symlink("../run", root+"/var/run"), os.Symlink("../run/lock", root+"/var/lock"))
}
