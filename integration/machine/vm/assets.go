package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"sync"

	"github.com/tope-ota/ota/integration/machine/agent"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// assets are what a machine is started with.
type assets struct {
	*common
	root string // file: erofs image
}

// guest is what a kernel and its initramfs are for.
type guest struct {
	suite debian.Suite
	arch  debian.Arch
}

// common is what all machines of one kind of guest share in this process, so that it is
// built once.
type common struct {
	kernel    *debian.Kernel
	initramfs string // file
	agent     []byte
}

var built struct {
	sync.Mutex
	of map[guest]*common
}

// commonOf builds what is not in the cache.
func commonOf(ctx context.Context, g guest) (_ *common, err error) {
	defer try.End(&err)
	built.Lock()
	defer built.Unlock()
	if c := built.of[g]; c != nil {
		return c, nil
	}
	kernel := try.Get(debian.GetKernel(ctx, g.suite, g.arch))
	archive := try.Get(initramfs(ctx, kernel))
	program := try.Get(debian.ProgramFor(ctx, g.arch, "./integration/machine/agent/cmd/ota-test-agent"))
	sum := sha256.Sum256(archive)
	dir := try.Get(debian.Entry(ctx, "initramfs-"+hex.EncodeToString(sum[:8]), func(_ context.Context, dir string) error {
		return os.WriteFile(filepath.Join(dir, "initramfs.cpio"), archive, 0o644)
	}))
	if built.of == nil {
		built.of = make(map[guest]*common)
	}
	built.of[g] = &common{kernel: kernel, agent: program, initramfs: filepath.Join(dir, "initramfs.cpio")}
	return built.of[g], nil
}

// prepare builds what is not in the cache: everything takes about a minute.
func prepare(ctx context.Context, o Options) (_ *assets, err error) {
	defer try.End(&err)
	c := try.Get(commonOf(ctx, guest{o.Variant.Suite, o.Variant.Arch}))
	all := debian.Overlay{
		agent.Path:      {Mode: 0o755, Data: c.agent},
		agent.UnitPath:  debian.Unit(agent.Unit),
		agent.UnitWants: {Link: agent.UnitPath},
	}
	all.Add(o.Overlay)
	return &assets{c, try.Get(o.Variant.Image(ctx, all))}, nil
}
