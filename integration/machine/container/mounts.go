package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/try"
)

func bind(source, target string) error {
	return agent.Mount(source, target, "", unix.MS_BIND, "")
}

// readOnly makes what is at target read-only, there and nowhere else.
func readOnly(target string) (err error) {
	defer try.End(&err)
	try.Check(bind(target, target))
	return agent.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// mountRoot puts files over the Debian root. Without an upper layer the overlay
// is read-only, as the image of the virtual machine is.
func mountRoot(p Plan) (err error) {
	defer try.End(&err)
	try.Check(os.Chdir(p.Dir))
	// Bound to a short name first: a colon or a comma in a path of the host's
	// would end the option.
	try.Check(bind(p.Root, "lower"))
	flags, options := uintptr(unix.MS_RDONLY), "lowerdir=files:lower"
	if p.Writable {
		flags, options = 0, options+",upperdir=upper,workdir=work"
	}
	err = agent.Mount("overlay", "root", "overlay", flags, options)
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w (the kernel has no overlayfs, nor a module of it)", err)
	}
	return err
}

const noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountProc mounts /proc with the parts that are the host's read-only, and the
// boot ID of this boot.
func mountProc(p Plan) (err error) {
	defer try.End(&err)
	proc := p.in("/proc")
	try.Check(agent.Mount("proc", proc, "proc", noExec, ""))
	for _, name := range []string{"sys", "sysrq-trigger", "irq", "bus"} {
		err := readOnly(filepath.Join(proc, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel may be built without it
			return err
		}
	}
	try.Check(os.WriteFile(p.in(BootIDFile), []byte(p.BootID+"\n"), 0o444))
	return bind(p.in(BootIDFile), filepath.Join(proc, "sys/kernel/random/boot_id"))
}

// mountSys mounts a /sys that is only read, with the machine's own cgroups.
func mountSys(p Plan) (err error) {
	defer try.End(&err)
	try.Check(agent.Mount("sysfs", p.in("/sys"), "sysfs", noExec|unix.MS_RDONLY, ""))
	return agent.Mount("cgroup2", p.in("/sys/fs/cgroup"), "cgroup2", noExec, "")
}

// mountData mounts what survives a boot, and the agent's channel.
func mountData(p Plan) (err error) {
	defer try.End(&err)
	try.Check(bind(p.data(), p.in("/data")))
	try.Check(agent.BindData(p.in("/")))
	return bind(filepath.Join(p.Dir, "agent"), p.in(filepath.Dir(agent.SocketPath)))
}
