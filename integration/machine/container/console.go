package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

// openConsole makes the terminal that becomes the guest's /dev/console: systemd
// writes to nothing else there. The name of the slave is its path.
func openConsole() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	defer try.End(&err)
	try.Check(unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)) // it unlocks the slave
	n := try.Get(unix.IoctlGetInt(fd, unix.TIOCGPTN))
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}
