package container

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/try"
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

func makeDev(p Plan) (err error) {
	defer try.End(&err)
	try.Check(agent.Mount("tmpfs", p.in("/dev"), "tmpfs", unix.MS_NOSUID, "mode=0755"))
	for _, d := range devices {
		path := p.in("/dev/" + d.name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return &fs.PathError{Op: "mknod", Path: path, Err: err}
		}
		if err := os.Chmod(path, 0o666); err != nil { // what the umask took
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		try.Check(os.Symlink(target, p.in("/dev/"+name)))
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm"} {
		try.Check(os.Mkdir(p.in(dir), 0o755))
	}
	// gid 5 is tty.
	try.Check(agent.Mount("devpts", p.in("/dev/pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"))
	try.Check(agent.Mount("tmpfs", p.in("/dev/shm"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"))
	console := p.in("/dev/console")
	try.Check(os.WriteFile(console, nil, 0o600))
	return bind(p.Console, console)
}
