package vm

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// dataSize is that of the data disk, a sparse file, in bytes.
const dataSize = 1 << 30

// newDataDisk makes an ext4 disk at file: a sparse copy of one that is in the cache.
func newDataDisk(ctx context.Context, file string) (err error) {
	defer try.End(&err)
	dir := try.Get(debian.Entry(ctx, fmt.Sprint("disk-3-", dataSize), func(ctx context.Context, dir string) (err error) {
		defer try.End(&err)
		tool := try.Get(debian.LookTool("mke2fs"))
		// Nothing lazy: the kernel would continue writing inode tables while a test runs.
		// root_owner: or the root directory belongs to the user who runs this.
		try.Run(exec.CommandContext(ctx, tool, "-q", "-F", "-t", "ext4", "-m", "0", "-L", agent.DataSerial,
			"-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
			filepath.Join(dir, "disk.img"), fmt.Sprintf("%dk", dataSize>>10)))
		return nil
	}))
	return copySparse(filepath.Join(dir, "disk.img"), file)
}

// copySparse copies a disk, and leaves its holes holes. Where the file system can share
// blocks, it does.
func copySparse(from, to string) (err error) {
	defer try.End(&err)
	try.Run(exec.Command("cp", "--reflink=auto", "--sparse=always", from, to))
	return nil
}
