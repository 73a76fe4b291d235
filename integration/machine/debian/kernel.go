package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/boot/bzimage"

	"github.com/tope-ota/ota/integration/try"
)

// A Kernel is Debian's full kernel, unpacked for QEMU's direct boot.
type Kernel struct {
	Arch    Arch
	Image   string   // file: what QEMU enters at once. amd64: the uncompressed ELF, by PVH
	Modules []string // files of kernel modules, each after those it needs
}

// modules are what the initramfs loads: the devices of the test machine, the file
// systems of its disks, both watchdogs, and what their .modinfo does not name
// because they ask for it by an alias when they start (crc32c).
var modules = []string{
	"crc32c_generic", "virtio_pci", "virtio_blk", "virtio_console", "virtio_rng",
	"ext4", "erofs", "overlay", "loop", "autofs4", "i6300esb",
}

// modulesOf are modules, as far as s has them: CRC32C is in the kernel itself since Linux 6.14.
func modulesOf(s Suite) []string {
	if s == Forky {
		return modules[1:]
	}
	return modules
}

// GetKernel returns the kernel of s for a, unpacking it when the cache has none (20 to 40 s,
// and a download of 70 MB).
func GetKernel(ctx context.Context, s Suite, a Arch) (_ *Kernel, err error) {
	defer try.End(&err)
	recipe := Hash(formatOfEntries, s.String(), a.Facts().Kernel, strings.Join(modulesOf(s), " "))
	dir := try.Get(Entry(ctx, "kernel-"+recipe, func(ctx context.Context, dir string) error { return buildKernel(ctx, dir, s, a) }))
	order := try.Get(os.ReadFile(filepath.Join(dir, "modules.order")))
	k := &Kernel{Arch: a, Image: filepath.Join(dir, "kernel")}
	for name := range strings.FieldsSeq(string(order)) {
		k.Modules = append(k.Modules, filepath.Join(dir, "modules", name+".ko"))
	}
	return k, nil
}

// What of a kernel's package is not even unpacked.
var notForMachines = []string{
	"*/kernel/sound", "*/kernel/net", "*/kernel/drivers/net", "*/kernel/drivers/gpu", "*/kernel/drivers/media",
	"*/kernel/drivers/iio", "*/kernel/drivers/scsi", "*/kernel/drivers/staging", "./usr/share",
}

func buildKernel(ctx context.Context, dir string, s Suite, a Arch) (err error) {
	defer try.End(&err)
	const image = "linux-image-"
	meta, release, tree := a.Facts().Kernel, "", filepath.Join(dir, "tree")
	_, err = fetch(ctx, Variant{Suite: s, Arch: a}, tree, []string{meta}, notForMachines, "", func(all []string) []string {
		// The meta package depends on linux-image-6.1.0-56-amd64 and nothing else of that
		// form; most of the rest is for making an initramfs. From Debian 14 on that depends
		// on linux-binary-… and linux-modules-…, and is empty.
		for _, p := range all {
			if name, _, _ := strings.Cut(p, "="); strings.HasPrefix(name, image) && name != meta {
				release = strings.TrimPrefix(name, image)
			}
		}
		return slices.DeleteFunc(all, func(p string) bool { return release == "" || !strings.Contains(p, "-"+release+"=") })
	})
	try.Check(err)
	defer os.RemoveAll(tree)
	order := try.Get(loadOrder(ctx, tree, release, modulesOf(s)))
	var names []string
	for _, file := range order {
		data := try.Get(os.ReadFile(file))
		if strings.HasSuffix(file, ".xz") {
			data = try.Get(output(ctx, "", nil, "xz", "-dc", file))
		}
		try.Check(writeFile(filepath.Join(dir, "modules", moduleName(file)+".ko"), 0o644, data))
		names = append(names, moduleName(file))
	}
	try.Check(os.WriteFile(filepath.Join(dir, "modules.order"), []byte(strings.Join(names, "\n")), 0o644))
	vmlinuz, err := os.ReadFile(filepath.Join(tree, "boot/vmlinuz-"+release))
	if err != nil { // from Debian 14 on
		vmlinuz, err = os.ReadFile(filepath.Join(tree, "usr/lib/modules", release, "vmlinuz"))
	}
	try.Check(err)
	if a.Facts().Packed {
		var packed bzimage.BzImage
		try.Check(packed.UnmarshalBinary(vmlinuz))
		vmlinuz = packed.KernelCode
	} else if len(vmlinuz) < 64 || string(vmlinuz[56:60]) != "ARM\x64" { // Documentation/arm64/booting.rst of Linux
		return errors.New("vmlinuz is not an arm64 Image: QEMU would refuse it without a word")
	}
	return os.WriteFile(filepath.Join(dir, "kernel"), vmlinuz, 0o644)
}

// moduleName is the name as the kernel says it: iTCO-wdt.ko is iTCO_wdt.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// loadOrder is the files of names and all modules that they depend on, each after those it
// depends on, without those that are built in.
func loadOrder(ctx context.Context, tree, release string, names []string) (_ []string, err error) {
	defer try.End(&err)
	dir := filepath.Join(tree, "lib/modules", release)
	try.Get(output(ctx, "", nil, "depmod", "-b", tree, release))
	builtin := try.Get(os.ReadFile(filepath.Join(dir, "modules.builtin")))
	deps := try.Get(os.ReadFile(filepath.Join(dir, "modules.dep")))
	needs := make(map[string][]string) // its file, and those it needs, in the opposite order
	for line := range strings.Lines(string(builtin)) {
		needs[moduleName(line)] = []string{}
	}
	for line := range strings.Lines(string(deps)) {
		file, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		needs[moduleName(file)] = append([]string{file}, strings.Fields(rest)...)
	}
	var order []string
	for _, name := range names {
		files, ok := needs[name]
		if !ok {
			return nil, fmt.Errorf("the kernel's package has no module %q", name)
		}
		for _, file := range slices.Backward(files) {
			if file = filepath.Join(dir, file); !slices.Contains(order, file) {
				order = append(order, file)
			}
		}
	}
	return order, nil
}
