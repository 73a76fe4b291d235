// Command init is the first program of the virtual test machine. It loads the
// modules, mounts the disks and becomes systemd:
//
//	/                                  the root disk, read-only
//	/data                              the data disk, ext4 with its defaults
//	/opt/tope, /etc/ota, /var/lib/ota  directories of the data disk
//	/var, /tmp                         in memory
//
// With agent.Writable on the kernel's command line a layer on the data disk makes
// the root writable, and /var is part of it.
//
// Without udev systemd never hears of a device, so that nothing it mounted
// itself would be found: all disks are mounted here. A step that fails prints
// one line and switches the machine off; so does a start that takes longer than
// limit. No test waits for a machine that will not come.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/try"
)

// limit is for a step that hangs. Quiet, everything here takes 1 s; an emulated
// CPU on a loaded host may be twenty times slower.
const limit = 2 * time.Minute

const newRoot = "/newroot"

func main() {
	defer func() { powerOff(recover()) }()
	time.AfterFunc(limit, func() { powerOff(fmt.Sprintf("not done after %s", limit)) })
	for _, step := range []func() error{mountKernel, loadModules, mountRoot, func() error { return agent.MountMemory(newRoot, writable()) }, mountData, becomeSystemd} {
		if err := step(); err != nil {
			powerOff(err)
		}
	}
}

func powerOff(why any) {
	fmt.Fprintf(os.Stderr, "\ninitramfs: %v; switching off\n", why)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for { // if PID 1 ended here, the kernel's panic would hide the line above
		time.Sleep(time.Hour)
	}
}

func mountKernel() (err error) {
	defer try.End(&err)
	for _, m := range []struct{ fstype, target string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		try.Check(os.MkdirAll(m.target, 0o755))
		try.Check(agent.Mount(m.fstype, m.target, m.fstype, unix.MS_NOSUID, ""))
	}
	return nil
}

func loadModules() (err error) {
	defer try.End(&err)
	order := try.Get(os.ReadFile("/modules.order"))
	for name := range strings.FieldsSeq(string(order)) {
		f := try.Get(os.Open("/modules/" + name))
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("cannot load module %q: %w", name, err)
		}
	}
	return nil
}

// disk is the device with the serial number that QEMU gave it. The drivers have
// found all disks before the module's loading is over.
func disk(serial string) (string, error) {
	files, _ := filepath.Glob("/sys/block/vd*/serial")
	var seen []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if got := strings.TrimSpace(string(b)); got != serial {
			seen = append(seen, got)
			continue
		}
		return "/dev/" + filepath.Base(filepath.Dir(f)), nil
	}
	return "", fmt.Errorf("no disk has the serial number %q, only %q", serial, seen)
}

func mountRoot() (err error) {
	defer try.End(&err)
	dev := try.Get(disk(agent.RootSerial))
	if !writable() {
		return agent.Mount(dev, newRoot, "erofs", unix.MS_RDONLY, "")
	}
	for _, dir := range []string{"/lower", "/upper"} {
		try.Check(os.MkdirAll(dir, 0o755))
	}
	try.Check(agent.Mount(dev, "/lower", "erofs", unix.MS_RDONLY, ""))
	dev = try.Get(disk(agent.DataSerial))
	try.Check(agent.Mount(dev, "/upper", "ext4", unix.MS_NOATIME, ""))
	upper, work := "/upper/"+agent.UpperDir, "/upper/"+agent.WorkDir
	for _, dir := range []string{upper, work} {
		try.Check(os.MkdirAll(dir, 0o755))
	}
	return agent.Mount("overlay", newRoot, "overlay", 0, "lowerdir=/lower,upperdir="+upper+",workdir="+work)
}

// writable reports whether the root is to be written.
func writable() bool {
	words, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(words)), agent.Writable)
}

// mountData mounts the disk that survives. ext4's defaults are what a device
// has: data=ordered, barriers, commit every 5 s. The journal is replayed here.
func mountData() (err error) {
	defer try.End(&err)
	try.Check(agent.Mount(try.Get(disk(agent.DataSerial)), newRoot+"/data", "ext4", unix.MS_NOATIME, ""))
	return agent.BindData(newRoot)
}

// becomeSystemd moves the root over the initramfs, whose files are removed: they
// would keep their memory for as long as the machine runs.
func becomeSystemd() (err error) {
	defer try.End(&err)
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		try.Check(agent.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""))
	}
	for _, name := range []string{"/modules", "/modules.order", "/init"} {
		try.Check(os.RemoveAll(name))
	}
	try.Check(os.Chdir(newRoot))
	try.Check(agent.Mount(".", "/", "", unix.MS_MOVE, ""))
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot make %q the root: %w", newRoot, err)
	}
	try.Check(os.Chdir("/"))
	const systemd = "/lib/systemd/systemd"
	return fmt.Errorf("cannot start %s: %w", systemd, unix.Exec(systemd, []string{systemd}, []string{"TERM=linux"}))
}
