package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return &fs.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %q on %q: %w", source, target, err)
	}
	return nil
}

// readOnly makes what is at target read-only, there and nowhere else.
func readOnly(target string) error {
	if err := bind(target, target); err != nil {
		return err
	}
	return mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
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
	err = mount("overlay", "root", "overlay", flags, options)
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
	try.Check(mount("proc", proc, "proc", noExec, ""))
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
func mountSys(p Plan) error {
	if err := mount("sysfs", p.in("/sys"), "sysfs", noExec|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	return mount("cgroup2", p.in("/sys/fs/cgroup"), "cgroup2", noExec, "")
}

// mountVolatile mounts what is in memory and gone with the boot. /tmp, /run and
// /var are as in the virtual machine.
func mountVolatile(p Plan) (err error) {
	defer try.End(&err)
	for _, m := range []struct {
		at, options string
		flags       uintptr
	}{
		{"/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
		{"/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"/var", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if m.at == "/var" && p.Writable {
			continue
		}
		try.Check(mount("tmpfs", p.in(m.at), "tmpfs", m.flags, m.options))
	}
	if p.Writable {
		return os.Mkdir(p.in("/run/lock"), 0o755)
	}
	for _, dir := range []string{"/var/lib", "/var/log", "/var/cache", "/var/spool", "/var/lib/systemd", "/run/lock"} {
		try.Check(os.Mkdir(p.in(dir), 0o755))
	}
	try.Check(os.Mkdir(p.in("/var/tmp"), 0o777))
	try.Check(os.Chmod(p.in("/var/tmp"), 0o777|fs.ModeSticky))
	try.Check(os.Symlink("../run", p.in("/var/run")))
	return os.Symlink("../run/lock", p.in("/var/lock"))
}

// mountData mounts what survives a boot, and the agent's channel.
func mountData(p Plan) (err error) {
	defer try.End(&err)
	try.Check(bind(p.Data, p.in("/data")))
	for _, b := range p.Binds {
		from := filepath.Join(p.in("/data"), b.From)
		if err := os.Mkdir(from, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
		to := p.in(b.To)
		if err := os.Mkdir(to, 0o755); err != nil && !os.IsExist(err) {
			return err
		}
		try.Check(bind(from, to))
	}
	return bind(p.Agent, p.in(p.AgentAt))
}
