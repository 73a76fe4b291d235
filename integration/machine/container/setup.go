package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/try"
)

// A Plan says what a boot is made of. Paths are the host's.
type Plan struct {
	Dir     string // of the machine: lower/ and root/ are empty, and mounted on; files/ goes over Root; data/ is the disk, agent/ has the socket
	Root    string // the Debian root; only read
	BootID  string // the boot's ID, a UUID
	Console string // device that becomes /dev/console

	Writable bool // the root, with its changes in Dir/upper
}

// BootIDFile is where the guest has its boot ID too. A unit whose sandbox mounts
// a /proc of its own (ProtectKernelTunables= and others do) would see the host's
// there, unless this file is bound over it again.
const BootIDFile = "/run/ota-test-boot-id"

// systemd is the current version in the end.
const systemd = "/lib/systemd/systemd"

// Init is what happens between the clone of a container's namespaces and the first
// instruction of its systemd: what a boot loader, a kernel and an initramfs do for
// the virtual machine. It runs as PID 1 of the new namespaces, in the program
// ota-container-init, and returns only when it cannot become systemd.
//
// Every mount is made in the new mount namespace, which has no other process: it
// goes when the last process in it does, however that ends, and nothing needs to
// be unmounted.
//
// The calling process must have been cloned into new mount, PID, IPC, UTS and
// network namespaces, and into the cgroup that the machine is to have as its root.
// The goroutine must be locked to its thread, which exec makes the process.
func Init(p Plan) error {
	steps := []struct {
		what string
		do   func(Plan) error
	}{
		{"leave the host's mounts alone", private},
		{"make the machine's cgroup the root of all", cgroupRoot},
		{"mount the root", mountRoot},
		{"mount what a boot forgets", func(p Plan) error { return agent.MountMemory(p.in("/"), p.Writable) }},
		{"mount /proc", mountProc},
		{"mount /sys", mountSys},
		{"make /dev", makeDev},
		{"mount the data disk", mountData},
		{"bring the network up", network},
		{"enter the root", enter},
		{"give up rights over the host", dropRights},
	}
	for _, s := range steps {
		if err := s.do(p); err != nil {
			return fmt.Errorf("cannot %s: %w", s.what, err)
		}
	}
	// What goes well, systemd tells the journal, which tells the console.
	err := unix.Exec(systemd, []string{systemd, "--show-status=error"}, []string{
		"container=ota-test", // systemd leaves to the host what is the host's
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"TERM=dumb", // no colours in the log
	})
	return fmt.Errorf("cannot run %s: %w", systemd, err)
}

// private keeps what is mounted from here on out of the host.
func private(Plan) error {
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// cgroupRoot works only from inside the cgroup, and so cannot be part of the clone.
func cgroupRoot(Plan) error {
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}

// network brings up the loopback interface, the only one there is.
func network(Plan) (err error) {
	defer try.End(&err)
	s := try.Get(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	defer unix.Close(s)
	ifr := try.Get(unix.NewIfreq("lo"))
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr)
}

// enter makes the new root the only one. Both are on the same place for a
// moment; the old one is then the upper of the two (pivot_root(2), NOTES).
func enter(p Plan) (err error) {
	defer try.End(&err)
	try.Check(os.Chdir(filepath.Join(p.Dir, "root")))
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	try.Check(unix.Unmount(".", unix.MNT_DETACH))
	return os.Chdir("/")
}

// dropRights takes away what no namespace keeps to the machine: the host's
// clock, its kernel modules and its ports and memory.
func dropRights(Plan) (err error) {
	defer try.End(&err)
	for _, c := range []uintptr{unix.CAP_SYS_MODULE, unix.CAP_SYS_TIME, unix.CAP_SYS_RAWIO} {
		try.Check(unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0))
	}
	return nil
}

// data becomes /data.
func (p Plan) data() string { return filepath.Join(p.Dir, "data") }

// in is the guest's path under the new root.
func (p Plan) in(guest string) string {
	return filepath.Join(p.Dir, "root", strings.TrimPrefix(guest, "/"))
}
