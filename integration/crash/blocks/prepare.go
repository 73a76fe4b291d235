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
)

// Prepare makes a file system of size bytes, mounts it at dir, calls run and unmounts
// it: what the disk then holds is durable.
func Prepare(ctx context.Context, fs string, size int64, dir string, run func() error) (*Image, error) {
	mkfs, err := debian.LookTool("mkfs." + fs)
	if err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "ota-blocks-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	f, err := os.Create(filepath.Join(temp, "disk"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	args := []string{"-q"}
	if fs == "ext4" {
		// Or the kernel goes on with it, at times of its own, while something is recorded.
		args = append(args, "-E", "lazy_itable_init=0,lazy_journal_init=0")
	}
	if out, err := exec.CommandContext(ctx, mkfs, append(args, f.Name())...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.%s: %w: %s", fs, err, strings.TrimSpace(string(out)))
	}
	if err := mount(f, size, fs, dir); err != nil {
		return nil, err
	}
	if err := errors.Join(run(), unmount(dir)); err != nil {
		return nil, err
	}
	return LoadImage(f, size)
}
