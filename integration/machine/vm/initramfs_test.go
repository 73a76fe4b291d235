package vm

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/tope-ota/ota/integration/machine/debian"
)

func TestInitramfs(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program: not in -short")
	}
	dir := t.TempDir()
	k := &debian.Kernel{}
	for _, name := range []string{"first.ko", "a-second.ko"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("module "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		k.Modules = append(k.Modules, file)
	}
	image, err := initramfs(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := initramfs(t.Context(), k); err != nil || !bytes.Equal(again, image) {
		t.Errorf("a second image of the same modules differs (%d and %d bytes), %v", len(again), len(image), err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(image)))
	if err != nil {
		t.Fatal(err)
	}
	content := make(map[string]string)
	for _, r := range records {
		b, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if err != nil {
			t.Fatal(err)
		}
		content[r.Name] = string(b)
		switch {
		case r.Name == "dev/console" && (r.Mode&cpio.S_IFMT != cpio.S_IFCHR || r.Rmajor != 5 || r.Rminor != 1):
			t.Errorf("dev/console is %v, want the character device 5:1", r)
		case r.Name == "init" && r.Mode&0o111 == 0:
			t.Error("init cannot be executed")
		}
	}
	if got, want := content["modules.order"], "first.ko\na-second.ko\n"; got != want {
		t.Errorf("modules.order = %q, want %q: the order of the kernel's list", got, want)
	}
	if got := content["modules/a-second.ko"]; got != "module a-second.ko" {
		t.Errorf("modules/a-second.ko = %q", got)
	}
	if _, ok := content["dev/console"]; !ok {
		t.Error("no dev/console: init could not print")
	}
	init, err := elf.NewFile(bytes.NewReader([]byte(content["init"])))
	if err != nil {
		t.Fatalf("init is no program: %v", err)
	}
	for _, p := range init.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("init wants a dynamic linker, and the archive has none")
		}
	}
}

func TestImageNamesTheModuleThatIsMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program: not in -short")
	}
	_, err := initramfs(t.Context(), &debian.Kernel{Modules: []string{"/no/such.ko"}})
	if !os.IsNotExist(err) {
		t.Errorf("Image = %v, want that the file does not exist", err)
	}
}
