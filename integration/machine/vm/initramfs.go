package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// initramfs makes the first file system of the virtual test machine: the kernel's
// modules and one static program, /init (cmd/init), that loads them, mounts the
// disks and starts systemd.
//
//	/init            cmd/init
//	/modules.order   file names, one a line, in the order to load them
//	/modules/*.ko
//	/dev/console     what /init prints to; /newroot is where it mounts the root
//
// The bytes are the same for the same modules and source. It is not compressed: the
// emulated CPU would have to undo it.
func initramfs(ctx context.Context, k *debian.Kernel) (_ []byte, err error) {
	defer try.End(&err)
	init := try.Get(debian.ProgramFor(ctx, k.Arch, "./integration/machine/vm/cmd/init"))
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("newroot", 0o755),
		cpio.Directory("modules", 0o755),
		cpio.StaticFile("init", string(init), 0o755),
	}
	var order strings.Builder
	for _, file := range k.Modules {
		data := try.Get(os.ReadFile(file))
		name := path.Base(file)
		fmt.Fprintln(&order, name)
		records = append(records, cpio.StaticFile("modules/"+name, string(data), 0o644))
	}
	records = append(records, cpio.StaticFile("modules.order", order.String(), 0o644))

	var out bytes.Buffer
	w := cpio.Newc.Writer(&out)
	cpio.MakeAllReproducible(records)
	if err := cpio.WriteRecords(w, records); err != nil {
		return nil, fmt.Errorf("cannot write the initramfs: %w", err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, fmt.Errorf("cannot write the initramfs: %w", err)
	}
	return out.Bytes(), nil
}
