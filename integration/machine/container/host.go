package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Missing names what the host lacks to run containers; empty: nothing.
func Missing() []string {
	missing := debian.MissingRights("namespaces and mounts")
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			missing = append(missing, ns+" namespaces in the kernel")
		}
	}
	if _, err := cgroup2(); err != nil {
		missing = append(missing, err.Error())
	}
	return append(missing, debian.Missing()...)
}

// cgroup2 is where the host has its cgroup2: /sys/fs/cgroup, or below it where
// version 1 still has that.
func cgroup2() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if st.Flags&unix.ST_RDONLY != 0 {
			return "", fmt.Errorf("a cgroup2 that can be written to (%s is read-only)", dir)
		}
		return dir, nil
	}
	return "", errors.New("a cgroup2 mounted on /sys/fs/cgroup")
}

type programs struct{ init, agent []byte }

// built are the programs, made once for all machines of this process.
var built = sync.OnceValues(func() (p programs, err error) {
	defer try.End(&err)
	p.agent = try.Get(debian.Program(context.Background(), "./integration/machine/agent/cmd/ota-test-agent"))
	p.init = try.Get(debian.Program(context.Background(), "./integration/machine/container/cmd/ota-container-init"))
	return p, nil
})

// namePrefix begins the names of everything a machine has on the host.
const namePrefix = "ota-container-"

// stateDir is the directory of a machine in the host's directory for temporary files.
// The process that made it holds a lock on it: a directory without a locker is a leftover. The
// machine's cgroup has the same name.
type stateDir struct {
	path string
	lock *os.File
}

func newStateDir() (*stateDir, error) {
	for {
		path, err := os.MkdirTemp("", namePrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(path)
		switch {
		case err == nil:
			if _, err := os.Lstat(path); err == nil {
				return &stateDir{path, lock}, nil
			}
			lock.Close()
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, fs.ErrNotExist):
			os.Remove(path)
			return nil, err
		}
		// Another sweep found it before it was locked.
	}
}

// lockDir locks the directory at path, if no other process has.
func lockDir(path string) (*os.File, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return d, nil
}

func (d *stateDir) cgroup() (string, error) {
	root, err := cgroup2()
	return filepath.Join(root, filepath.Base(d.path)), err
}

func (d *stateDir) makeCgroup() (path string, err error) {
	defer try.End(&err)
	path = try.Get(d.cgroup())
	return path, os.Mkdir(path, 0o755)
}

// remove takes the machine's cgroup and directory from the host. Its processes are
// dead.
func (d *stateDir) remove() (err error) {
	defer d.lock.Close()
	defer try.End(&err)
	cgroup := try.Get(d.cgroup())
	// No process is left in it, unless its init lost its parent without a signal.
	os.WriteFile(filepath.Join(cgroup, "cgroup.kill"), []byte("1"), 0)
	try.Check(removeCgroup(cgroup))
	// The directory goes last: with it goes what tells a sweep of the cgroup.
	return os.RemoveAll(d.path)
}

// removeCgroup removes a cgroup and those in it. A process leaves its cgroup a
// moment after it is reaped, so a busy one is tried again.
func removeCgroup(path string) (err error) {
	defer try.End(&err)
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	try.Check(err)
	for _, e := range entries {
		if e.IsDir() {
			try.Check(removeCgroup(filepath.Join(path, e.Name())))
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Rmdir(path)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return &fs.PathError{Op: "rmdir", Path: path, Err: err}
		}
	}
}

// sweep removes what processes that were killed left of their machines. Those
// died with them; only directories and cgroups stay. What cannot be removed is left
// to the next sweep.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), namePrefix+"*"))
	for _, path := range left {
		lock, err := lockDir(path)
		if err != nil {
			continue // in use, or removed just now
		}
		(&stateDir{path, lock}).remove()
	}
}
