package bootcheck

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// readlink is os.Readlink with Retry.
func readlink(name string) (string, error) {
	return retried(func() (string, error) { return os.Readlink(name) })
}

// linkTo is where the link name leads; empty: nothing is there, or something else.
func linkTo(name string) (string, error) {
	target, err := readlink(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return "", nil
	}
	return target, err
}

// readDir is os.ReadDir with Retry.
func readDir(name string) ([]fs.DirEntry, error) {
	return retried(func() ([]fs.DirEntry, error) { return listDir(name) })
}

var listDir = os.ReadDir // a variable for the tests

// ReadRegular reads a file of at most limit bytes, with Retry. A link, a FIFO, a device
// or a directory in its place is refused and never waited for.
func ReadRegular(name string, limit int64) ([]byte, error) {
	return retried(func() ([]byte, error) { return readOnce(name, limit, unix.O_NOFOLLOW) })
}

// ReadSecret is ReadLinked of a file that only its owner can read; others make it an error
// that says how to end that. No error shows what the file holds.
func ReadSecret(name string, limit int64) ([]byte, error) {
	return retried(func() ([]byte, error) {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			f.Close()
			return nil, fmt.Errorf("others can read it (mode %04o): chmod 600 %s", info.Mode().Perm(), name)
		}
		return readOpened(f, name, limit)
	})
}

// ReadLinked is ReadRegular of what name leads to, if it is a link.
func ReadLinked(name string, limit int64) ([]byte, error) {
	return retried(func() ([]byte, error) { return readOnce(name, limit, 0) })
}

func readOnce(name string, limit int64, flags int) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, err
	}
	return readOpened(f, name, limit)
}

// readOpened reads f, a regular file that messages call name, and closes it.
func readOpened(f *os.File, name string, limit int64) ([]byte, error) {
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", name)
	}
	size, data := info.Size(), new(bytes.Buffer)
	if size <= limit {
		data.Grow(int(size) + bytes.MinRead)
		if size, err = data.ReadFrom(io.LimitReader(f, limit+1)); err != nil { // it may grow meanwhile
			return nil, err
		}
	}
	if size > limit {
		return nil, fmt.Errorf("%q is larger than %s", name, Size(limit))
	}
	return data.Bytes(), nil
}

// DialUnix connects to the socket of the file system at path. The caller closes the
// file, whose SetDeadline works. Package net would be 130 kB of the guardian.
func DialUnix(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "connect", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ReplaceFile gives the file name the content data and the mode perm in one step: a
// reader finds the old content or the new one. durable: so does the boot after a power
// cut, and when ReplaceFile returns nil, that is the new one. A process that is killed
// leaves a file of the name "." + name + digits.
func ReplaceFile(name string, data []byte, perm fs.FileMode, durable bool) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"*")
	if err != nil {
		return err
	}
	err = f.Chmod(perm) // not reduced by the umask
	if err = cmp.Or(err, writeAndSync(f, data, durable)); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if durable {
		return syncDir(dir)
	}
	return nil
}

// BootID is the kernel's ID of this boot; empty if it does not say.
func BootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// writeDurable makes the file name, which must not be there, with content that is
// durable when it returns nil; its name is not. After an error the file is of no use.
// Every user may read it.
func writeDurable(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	return writeAndSync(f, content, true)
}

// writeAndSync makes data the content of f, durable if that is set.
func writeAndSync(f *os.File, data []byte, durable bool) error {
	_, err := f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	return cmp.Or(err, f.Close())
}

// syncDir makes the names in dir durable. Only the opening is tried again: an fsync
// that failed never is.
func syncDir(dir string) error {
	f, err := openDirectory(dir)
	if err != nil {
		return err
	}
	return cmp.Or(f.Sync(), f.Close())
}
