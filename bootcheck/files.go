package bootcheck

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// readlink is os.Readlink with Retry.
func readlink(name string) (target string, err error) {
	err = Retry(func() error {
		target, err = os.Readlink(name)
		return err
	})
	return target, err
}

// readDir is os.ReadDir with Retry.
func readDir(name string) (entries []fs.DirEntry, err error) {
	err = Retry(func() error {
		entries, err = os.ReadDir(name)
		return err
	})
	return entries, err
}

// ReadRegular reads a file of at most limit bytes, with Retry. A link, a FIFO, a device
// or a folder in its place is refused and never waited for.
func ReadRegular(name string, limit int64) (data []byte, err error) {
	err = Retry(func() error {
		data, err = readRegularOnce(name, limit)
		return err
	})
	return data, err
}

func readRegularOnce(name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, nil
}

// ReplaceFile gives the file name the content data and the mode perm in one step: who
// reads it finds the old content or the new one. durable: so does the boot after a power
// cut, and when ReplaceFile returns nil, that is the new one. A process that is killed
// leaves a file of the name "." + name + digits.
func ReplaceFile(name string, data []byte, perm fs.FileMode, durable bool) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm) // whatever the umask is
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
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
// Everybody may read it.
func writeDurable(name string, content []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// syncDir makes the names in dir durable. Only the opening is tried again: an fsync
// that failed never is.
func syncDir(dir string) error {
	f, err := openDirectory(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
