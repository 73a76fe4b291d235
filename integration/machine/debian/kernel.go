package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Kernel is Debian's full kernel, unpacked for QEMU's direct boot.
type Kernel struct {
	Arch    Arch
	Release string   // as uname -r says: "6.1.0-56-amd64"
	Image   string   // file: what QEMU enters at once. amd64: the uncompressed ELF, by PVH
	Modules []string // files of kernel modules, each after those it needs
	ID      string   // names the content, for other cache entries
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
		return without(modules, []string{"crc32c_generic"})
	}
	return modules
}

// GetKernel returns the kernel of s for a, unpacking it when the cache has none (20 to 40 s,
// and a download of 70 MB).
func GetKernel(ctx context.Context, s Suite, a Arch) (*Kernel, error) {
	recipe := Hash(formatOfEntries, s.String(), a.Facts().Kernel, strings.Join(modulesOf(s), " "))
	dir, err := Entry(ctx, "kernel-"+recipe, func(ctx context.Context, dir string) (string, error) { return buildKernel(ctx, dir, s, a) })
	if err != nil {
		return nil, fmt.Errorf("cannot get the kernel of Debian %s: %w", s, err)
	}
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return nil, err
	}
	order, err := os.ReadFile(filepath.Join(dir, "modules.order"))
	if err != nil {
		return nil, err
	}
	k := &Kernel{Arch: a, Release: string(release), Image: filepath.Join(dir, imageName(a)), ID: filepath.Base(dir)}
	for name := range strings.FieldsSeq(string(order)) {
		k.Modules = append(k.Modules, filepath.Join(dir, "modules", name))
	}
	return k, nil
}

// imageName is the file of the entry that QEMU gets.
func imageName(a Arch) string {
	if a.Facts().Packed {
		return "vmlinux"
	}
	return "Image"
}

func buildKernel(ctx context.Context, dir string, s Suite, of Arch) (string, error) {
	meta := of.Facts().Kernel
	a, unlock, err := newApt(ctx, s, of)
	if err != nil {
		return "", err
	}
	defer unlock()
	all, err := a.closure(ctx, meta)
	if err != nil {
		return "", err
	}
	// The meta package depends on linux-image-6.1.0-56-amd64 and nothing else of
	// that form; most of the rest of the closure is for making an initramfs.
	const image = "linux-image-"
	i := slices.IndexFunc(all, func(p pkg) bool { return strings.HasPrefix(p.name, image) && p.name != meta })
	if i < 0 {
		return "", fmt.Errorf("%s depends on no kernel", meta)
	}
	release := strings.TrimPrefix(all[i].name, image)
	// From Debian 14 on that depends on linux-binary-… and linux-modules-…, and is empty.
	pkgs := slices.DeleteFunc(all, func(p pkg) bool { return !strings.HasSuffix(p.name, "-"+release) })
	debs, err := a.download(ctx, pkgs)
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(filepath.Join(dir, "modules"), 0o755); err != nil {
		return "", err
	}
	mods := make(map[string][]byte) // nil: built in
	var vmlinuz []byte
	for _, deb := range debs {
		err := members(ctx, deb, func(name string, h *tar.Header, r io.Reader) (err error) {
			switch {
			case name == "boot/vmlinuz-"+release || path.Base(name) == "vmlinuz": // the second from Debian 14 on
				vmlinuz, err = io.ReadAll(r)
			case path.Base(name) == "modules.builtin":
				var list []byte
				list, err = io.ReadAll(r)
				for file := range strings.FieldsSeq(string(list)) {
					mods[moduleName(file)] = nil
				}
			case (strings.HasSuffix(name, ".ko") || strings.HasSuffix(name, ".ko.xz")) && mayNeed(name):
				mods[moduleName(name)], err = io.ReadAll(r)
			}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	order, err := loadOrder(ctx, mods, modulesOf(s))
	if err != nil {
		return "", err
	}
	for _, m := range order {
		if err := os.WriteFile(filepath.Join(dir, "modules", m+".ko"), mods[m], 0o644); err != nil {
			return "", err
		}
	}
	write := writeImage
	if of.Facts().Packed {
		write = extractVmlinux
	}
	if err := write(ctx, vmlinuz, filepath.Join(dir, imageName(of))); err != nil {
		return "", fmt.Errorf("vmlinuz of %s: %w", release, err)
	}
	text := list(pkgs)
	for name, content := range map[string]string{
		"modules.order": strings.Join(order, ".ko\n") + ".ko\n", "release": release, "packages.txt": text,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return "", err
		}
	}
	return Hash(text), nil
}

// mayNeed bounds what is held in memory while the 300 MB of modules pass by.
func mayNeed(name string) bool {
	for _, part := range []string{"/drivers/virtio/", "/drivers/block/", "/drivers/char/", "/drivers/watchdog/",
		"/drivers/mfd/", "/drivers/i2c/", "/fs/", "/lib/", "/crypto/"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// moduleName is the name as the kernel says it: iTCO-wdt.ko is iTCO_wdt.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(path.Base(file), ".xz"), ".ko"), "-", "_")
}

// loadOrder is names and all modules that they depend on, each after those it
// depends on, without those that are built in: what depmod would find out, which runs only
// when a package is installed. Of these mods is uncompressed.
func loadOrder(ctx context.Context, mods map[string][]byte, names []string) ([]string, error) {
	var order []string
	done := make(map[string]bool)
	var visit func(name, by string) error
	visit = func(name, by string) error {
		if done[name] {
			return nil
		}
		done[name] = true
		data, ok := mods[name]
		if !ok {
			return fmt.Errorf("the kernel's package has no module %q, wanted by %s", name, by)
		}
		if data == nil {
			return nil
		}
		data, err := unxz(ctx, data)
		if err != nil {
			return fmt.Errorf("module %q: %w", name, err)
		}
		mods[name] = data
		deps, err := moduleDeps(data)
		if err != nil {
			return fmt.Errorf("module %q: %w", name, err)
		}
		for _, d := range deps {
			if err := visit(d, name); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name, "the test machine"); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// unxz is data without the compression that Debian's modules have since 6.12.
func unxz(ctx context.Context, data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte(payloads[0].magic)) {
		return data, nil
	}
	cmd := exec.CommandContext(ctx, "xz", "-dc")
	cmd.Stdin = bytes.NewReader(data)
	return cmd.Output()
}

// moduleDeps reads "depends=a,b" of the module's .modinfo.
func moduleDeps(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	info := f.Section(".modinfo")
	if info == nil {
		return nil, errors.New("no section .modinfo")
	}
	data, err := info.Data()
	if err != nil {
		return nil, err
	}
	var deps []string
	for entry := range strings.SplitSeq(string(data), "\x00") {
		if d, ok := strings.CutPrefix(entry, "depends="); ok {
			for name := range strings.SplitSeq(d, ",") {
				if name != "" {
					deps = append(deps, strings.ReplaceAll(name, "-", "_"))
				}
			}
		}
	}
	return deps, nil
}

// writeImage writes a kernel that is one already. A compressed one would be refused by
// QEMU only after a start without a word.
func writeImage(_ context.Context, image []byte, file string) error {
	// Documentation/arm64/booting.rst of Linux: the magic number of its header.
	if len(image) < 64 || string(image[56:60]) != "ARM\x64" {
		return errors.New("not an arm64 Image")
	}
	return os.WriteFile(file, image, 0o644)
}

// Where a bzImage says what is in it: Documentation/arch/x86/boot.rst of Linux.
const (
	offSetupSects    = 0x1f1 // byte: sectors of real-mode code, 0 means 4
	offMagic         = 0x202 // "HdrS"
	offPayloadOffset = 0x248 // uint32, from the start of the protected-mode code
	offPayloadLength = 0x24c // uint32
)

// payloads are the compressions that Debian and Ubuntu have used, with the
// program that undoes each. gzip comes with Debian's base, zstd may have to be
// installed; the message says so.
var payloads = []struct {
	magic string
	argv  []string
}{
	{"\xfd7zXZ\x00", []string{"xz", "-dc"}},
	{"\x28\xb5\x2f\xfd", []string{"zstd", "-dc"}},
	{"\x1f\x8b", []string{"gzip", "-dc"}},
}

// extractVmlinux writes the ELF kernel that is packed into the bzImage to file.
func extractVmlinux(ctx context.Context, bzImage []byte, file string) error {
	if len(bzImage) < 0x250 || string(bzImage[offMagic:offMagic+4]) != "HdrS" {
		return errors.New("not a bzImage")
	}
	sects := int(bzImage[offSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + int(binary.LittleEndian.Uint32(bzImage[offPayloadOffset:]))
	length := int(binary.LittleEndian.Uint32(bzImage[offPayloadLength:]))
	if start+length > len(bzImage) || length < 8 {
		return errors.New("the payload is not inside the file")
	}
	payload := bzImage[start : start+length]
	var argv []string
	for _, p := range payloads {
		if strings.HasPrefix(string(payload[:8]), p.magic) {
			argv = p.argv
		}
	}
	if argv == nil {
		return fmt.Errorf("unknown compression, starting with % x", payload[:8])
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// The build system appends the uncompressed size, 4 bytes, which xz and zstd
	// refuse as trailing garbage only after writing everything: take them off.
	cmd.Stdin = bytes.NewReader(payload[:length-4])
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, stderr.String())
	}
	if size := binary.LittleEndian.Uint32(payload[length-4:]); int(size) != stdout.Len() {
		return fmt.Errorf("%s made %d bytes, want %d", argv[0], stdout.Len(), size)
	}
	if !bytes.HasPrefix(stdout.Bytes(), []byte(elf.ELFMAG)) {
		return errors.New("the payload is not an ELF file")
	}
	return os.WriteFile(file, stdout.Bytes(), 0o644)
}
