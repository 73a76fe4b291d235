package blocks

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// attach makes the first size bytes of f a block device, open. The device is gone
// when the last one has closed it, be it by a mount's end or by the death of the process that
// holds it.
func attach(f *os.File, size int64) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	// Another process may get the same free device.
	for tries := 0; ; tries++ {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("cannot get a loop device: %w", err)
		}
		device, err := openDevice(fmt.Sprintf("/dev/loop%d", n))
		if err == nil {
			config := unix.LoopConfig{Fd: uint32(f.Fd())}
			config.Info.Sizelimit = uint64(size)
			config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
			copy(config.Info.File_name[:len(config.Info.File_name)-1], f.Name())
			if err = unix.IoctlLoopConfigure(int(device.Fd()), &config); err == nil {
				return device, nil
			}
			device.Close()
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) || tries > 1000 {
			return nil, fmt.Errorf("cannot make %s a loop device: %w", f.Name(), err)
		}
		time.Sleep(time.Millisecond)
	}
}

// openDevice opens a device whose node may be made only now.
func openDevice(name string) (*os.File, error) {
	for tries := 0; ; tries++ {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err == nil || !errors.Is(err, os.ErrNotExist) || tries > 100 {
			return f, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// mount mounts the first size bytes of f at dir. Unmount ends it, with the device.
func mount(f *os.File, size int64, fs, dir string) error {
	device, err := attach(f, size)
	if err != nil {
		return err
	}
	defer device.Close() // the mount holds it
	if err := unix.Mount(device.Name(), dir, fs, 0, ""); err != nil {
		return &os.PathError{Op: "mount " + fs, Path: device.Name(), Err: err}
	}
	return nil
}

// unmount ends the mount at dir, and waits while a process still uses it: a program
// that was just killed is in its last system call for a while.
func unmount(dir string) error {
	for tries := 0; ; tries++ {
		err := unix.Unmount(dir, 0)
		if err == nil || !errors.Is(err, unix.EBUSY) || tries > 1000 {
			if err != nil {
				return &os.PathError{Op: "umount", Path: dir, Err: err}
			}
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
}
