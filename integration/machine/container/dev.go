package container

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// devices are the ones every program expects (numbers: the kernel's
// Documentation/admin-guide/devices.txt). The machine sees no disk and no port
// of the host's.
var devices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

func makeDev(p Plan) error {
	if err := mount("tmpfs", p.in("/dev"), "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return err
	}
	for _, d := range devices {
		path := p.in("/dev/" + d.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return &fs.PathError{Op: "mknod", Path: path, Err: err}
		}
		if err := os.Chmod(path, 0o666); err != nil { // whatever the umask took
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, p.in("/dev/"+name)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm"} {
		if err := os.Mkdir(p.in(dir), 0o755); err != nil {
			return err
		}
	}
	// gid 5 is tty.
	if err := mount("devpts", p.in("/dev/pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"); err != nil {
		return err
	}
	if err := mount("tmpfs", p.in("/dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	console := p.in("/dev/console")
	if err := os.WriteFile(console, nil, 0o600); err != nil {
		return err
	}
	return bind(p.Console, console)
}
