package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm/layout"
)

// newDataDisk makes an ext4 disk of size bytes at file: a sparse copy of one that
// is in the cache.
func newDataDisk(ctx context.Context, file string, size int64) error {
	dir, err := debian.Entry(ctx, fmt.Sprintf("disk-3-%d", size), func(ctx context.Context, dir string) error {
		tool, err := debian.LookTool("mke2fs")
		if err != nil {
			return err
		}
		// Nothing lazy: the kernel would continue writing inode tables while a test runs.
		// root_owner: or the root directory belongs to the user who runs this.
		out, err := exec.CommandContext(ctx, tool, "-q", "-F", "-t", "ext4", "-m", "0", "-L", layout.DataSerial,
			"-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
			filepath.Join(dir, "disk.img"), fmt.Sprintf("%dk", size>>10)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("mke2fs: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return CopySparse(filepath.Join(dir, "disk.img"), file)
}

// CopySparse copies a file, as a disk, and leaves its holes holes. Where the file system can
// share blocks, it does.
func CopySparse(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for pos := int64(0); pos < st.Size(); {
		start, err := unix.Seek(int(src.Fd()), pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return fmt.Errorf("cannot find the data in %q: %v", from, err)
		}
		end, err := unix.Seek(int(src.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("cannot find the holes in %q: %v", from, err)
		}
		_, err = io.Copy(io.NewOffsetWriter(dst, start), io.NewSectionReader(src, start, end-start))
		if err != nil {
			return err
		}
		pos = end
	}
	return nil
}
