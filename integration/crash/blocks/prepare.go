package blocks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Prepare makes a file system of size bytes, mounts it at dir, calls run and unmounts
// it: what the disk then holds is durable. Its caller closes that.
func Prepare(ctx context.Context, fs string, size int64, dir string, run func() error) (_ *os.File, err error) {
	defer try.End(&err)
	mkfs := try.Get(debian.LookTool("mkfs." + fs))
	f := try.Get(newDisk(size))
	defer f.Close()
	args := []string{"-q"}
	if fs == "ext4" {
		// Or the kernel continues with it, at times of its own, while something is recorded.
		args = append(args, "-E", "lazy_itable_init=0,lazy_journal_init=0")
	}
	try.Run(exec.CommandContext(ctx, mkfs, append(args, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()))...))
	try.Check(mount(f, size, fs, dir))
	try.Check(errors.Join(run(), unmount(dir)))
	base := try.Get(newDisk(size))
	return base, copyDisk(base, f)
}
