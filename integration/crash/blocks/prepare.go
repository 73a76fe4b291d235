package blocks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// Prepare makes a file system of size bytes, mounts it at dir, calls run and unmounts
// it: what the disk then holds is durable.
func Prepare(ctx context.Context, fs string, size int64, dir string, run func() error) (_ *Image, err error) {
	defer try.End(&err)
	mkfs := try.Get(debian.LookTool("mkfs." + fs))
	temp := try.Get(os.MkdirTemp("", "ota-blocks-"))
	defer os.RemoveAll(temp)
	f := try.Get(os.Create(filepath.Join(temp, "disk")))
	defer f.Close()
	try.Check(f.Truncate(size))
	args := []string{"-q"}
	if fs == "ext4" {
		// Or the kernel continues with it, at times of its own, while something is recorded.
		args = append(args, "-E", "lazy_itable_init=0,lazy_journal_init=0")
	}
	if out, err := exec.CommandContext(ctx, mkfs, append(args, f.Name())...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.%s: %w: %s", fs, err, strings.TrimSpace(string(out)))
	}
	try.Check(mount(f, size, fs, dir))
	try.Check(errors.Join(run(), unmount(dir)))
	return LoadImage(f, size)
}
