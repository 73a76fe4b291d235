package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"sync"

	"github.com/tope-ota/ota/integration/agent"
	"github.com/tope-ota/ota/integration/debian"
	"github.com/tope-ota/ota/integration/initramfs"
)

const portName = agent.PortName

// assets are the files that a machine is started with.
type assets struct {
	kernel    *debian.Kernel
	initramfs string // file
	root      string // file: erofs image
}

// common is what all machines of this process share, so that it is built once.
var common struct {
	sync.Mutex
	kernel    *debian.Kernel
	initramfs string
	agent     []byte
}

// prepare builds what is not in the cache: everything takes about a minute.
func prepare(ctx context.Context, o Options) (*assets, error) {
	common.Lock()
	defer common.Unlock()
	if common.kernel == nil {
		kernel, err := debian.GetKernel(ctx)
		if err != nil {
			return nil, err
		}
		archive, err := initramfs.Image(ctx, kernel)
		if err != nil {
			return nil, err
		}
		program, err := debian.Program(ctx, "./integration/agent/cmd/ota-test-agent")
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(archive)
		dir, err := debian.Entry(ctx, "initramfs-"+hex.EncodeToString(sum[:8]), func(_ context.Context, dir string) (string, error) {
			return "", os.WriteFile(filepath.Join(dir, "initramfs.cpio"), archive, 0o644)
		})
		if err != nil {
			return nil, err
		}
		common.kernel, common.agent, common.initramfs = kernel, program, filepath.Join(dir, "initramfs.cpio")
	}
	all := debian.Overlay{
		agent.Path:      {Mode: 0o755, Data: common.agent},
		agent.UnitPath:  debian.Unit(agent.Unit),
		agent.UnitWants: {Link: agent.UnitPath},
	}
	all.Add(o.Overlay)
	root, err := o.Variant.Image(ctx, all)
	if err != nil {
		return nil, err
	}
	return &assets{kernel: common.kernel, initramfs: common.initramfs, root: root}, nil
}
