package debian

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// require ends a test that needs packages of the host, or the network once.
func require(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("downloads and unpacks Debian when the cache is empty: not in -short")
	}
	if missing := Missing(); len(missing) > 0 {
		text := "the Debian root cannot be built here; MISSING: apt-get install " + strings.Join(missing, " ")
		if os.Getenv("CI") == "true" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
}

func TestRoot(t *testing.T) { eachKind(t, testRoot) }

// eachKind runs the test for each kind of guest that tests have.
func eachKind(t *testing.T, test func(*testing.T, Suite, Arch)) {
	require(t)
	suites, err := Suites()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) { test(t, s, AMD64) })
	}
	t.Run(ARM64.String(), func(t *testing.T) { test(t, Bookworm, ARM64) })
}

func testRoot(t *testing.T, s Suite, a Arch) {
	v := Variant{Suite: s, Arch: a}
	root, err := v.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := v.Root(t.Context())
	if err != nil || again != root {
		t.Errorf("a second Root = %q, %v; want %q from the cache", again, err, root)
	}
	for _, name := range []string{"usr/lib/systemd/systemd", "bin/sh", "sbin/init", a.Facts().Linker, "usr/bin/systemctl", "usr/bin/awk"} {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil && !isAbsLink(root, name) {
			t.Errorf("the root misses %q: %v", name, err)
		}
	}
	for _, name := range MountPoints {
		if st, err := os.Lstat(filepath.Join(root, name)); err != nil || !st.IsDir() {
			t.Errorf("the root has no folder %s to mount over: %v", name, err)
		}
	}
	if got, err := os.Readlink(filepath.Join(root, "etc/systemd/system/getty.target")); got != "/dev/null" {
		t.Errorf("getty.target is not masked: %q, %v", got, err)
	}
	f, err := elf.Open(filepath.Join(root, "usr/lib/systemd/systemd"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != a.Facts().ELF {
		t.Errorf("systemd is for %v, want %v", f.Machine, a.Facts().ELF)
	}
	for _, name := range leftOut(a) {
		if left, _ := os.ReadDir(filepath.Join(root, name)); len(left) > 0 {
			t.Errorf("%s was to be left out, and holds %q and %d more", name, left[0].Name(), len(left)-1)
		}
	}
	// A masked generator of a name that no package has would mask nothing.
	gens, err := os.ReadDir(filepath.Join(root, generators))
	if err != nil || len(gens) == 0 {
		t.Errorf("the root has %d generators, %v", len(gens), err)
	}
	st, err := os.Stat(filepath.Join(root, "usr/bin/mount"))
	if err != nil || st.Mode()&os.ModeSetuid == 0 {
		t.Errorf("mount has lost its setuid bit: %v, %v", st.Mode(), err)
	}
	text, err := os.ReadFile(filepath.Join(root, "../packages.txt"))
	_, version, _ := strings.Cut(string(text), "\nsystemd=")
	major, _ := strconv.Atoi(version[:min(len(version), 3)])
	if err != nil || major < s.Systemd() || s != Forky && major > s.Systemd() {
		t.Errorf("packages.txt = %q, %v; want systemd %d in it", text, err, s.Systemd())
	}
	// What only maintainer scripts need: a new release has it by another name.
	for _, name := range []string{"usr/bin/perl", "usr/bin/dpkg", "usr/bin/debconf"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
			t.Errorf("the root has %s, which nothing needs", name)
		}
	}
}

// A mirror that is away is an error that names it, not a root without packages.
func TestRootWithoutAMirror(t *testing.T) {
	require(t)
	mirror := httptest.NewServer(http.NotFoundHandler())
	defer mirror.Close()
	t.Setenv("OTA_CACHE", t.TempDir())
	t.Setenv("OTA_DEBIAN_MIRROR", mirror.URL)
	for range 2 { // the second try finds what the first one left, its lock among it
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := Root(ctx)
		if err == nil || !strings.Contains(err.Error(), mirror.URL) {
			t.Fatalf("Root = %v, want an error that names %s", err, mirror.URL)
		}
	}
}

// isAbsLink: a link that is absolute leads to the guest's root, not to the host's.
func isAbsLink(root, name string) bool {
	to, err := os.Readlink(filepath.Join(root, name))
	if err != nil || !filepath.IsAbs(to) {
		return false
	}
	_, err = os.Stat(filepath.Join(root, to))
	return err == nil
}

func TestKernel(t *testing.T) { eachKind(t, testKernel) }

// enteredByPVH: QEMU enters where this note of Xen's says: 18 is
// XEN_ELFNOTE_PHYS32_ENTRY, xen/interface/elfnote.h.
func enteredByPVH(t *testing.T, file string) {
	f, err := elf.Open(file)
	if err != nil {
		t.Fatalf("the kernel is no ELF file: %v", err)
	}
	defer f.Close()
	notes, err := f.Section(".notes").Data()
	if err != nil || !bytes.Contains(notes, []byte("\x12\x00\x00\x00Xen\x00")) {
		t.Errorf("the kernel has no note for PVH: %v", err)
	}
}

func testKernel(t *testing.T, s Suite, a Arch) {
	k, err := GetKernel(t.Context(), s, a)
	if err != nil {
		t.Fatal(err)
	}
	if a == AMD64 {
		enteredByPVH(t, k.Image)
	} // Image of arm64: GetKernel has looked at its header
	if !strings.HasSuffix(k.Release, "-"+a.String()) {
		t.Errorf("the kernel is %s, want one for %s", k.Release, a)
	}
	before := make(map[string]bool)
	for _, file := range k.Modules {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := elf.NewFile(bytes.NewReader(data)); err != nil || f.Machine != a.Facts().ELF {
			t.Errorf("module %s is not for %s (%v)", filepath.Base(file), a, err)
		}
		deps, err := moduleDeps(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deps {
			if !before[d] {
				t.Errorf("%s comes before %s, which it needs", filepath.Base(file), d)
			}
		}
		before[moduleName(file)] = true
	}
	for _, m := range []string{"ext4", "erofs", "i6300esb"} { // others may be built in
		if !before[m] {
			t.Errorf("module %s is not in the list", m)
		}
	}
}

func TestImage(t *testing.T) {
	require(t)
	o := Overlay{
		"/etc/hostname":          {Data: []byte("other\n")}, // replaces the root's
		"/lib/ota-test/tool":     {Mode: 0o755, Data: []byte("#!/bin/sh\n")},
		"/etc/systemd/system/a":  Unit("[Unit]\n"),
		"/usr/share/new/empty":   {Mode: os.ModeDir | 0o700},
		"/usr/bin/link-to-tool":  {Link: "../lib/ota-test/tool"},
		"/usr/share/new/private": {Mode: 0o600, Data: []byte("x")},
	}
	o.Enable("a", "multi-user.target")
	file, err := Image(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Image(t.Context(), o); err != nil || again != file {
		t.Errorf("a second Image = %q, %v; want %q from the cache", again, err, file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// 0xE0F5E1E2 at 1024: EROFS_SUPER_MAGIC_V1, linux/magic.h.
	if magic := data[1024:1028]; !bytes.Equal(magic, []byte{0xe2, 0xe1, 0xf5, 0xe0}) {
		t.Errorf("the image starts its super block with % x", magic)
	}
	if !bytes.Contains(data, []byte("other\n")) {
		t.Error("the image does not hold the overlay's file")
	}
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if host, err := os.ReadFile(filepath.Join(root, "etc/hostname")); err != nil || string(host) != "device\n" {
		t.Errorf("making an image has changed the shared root: hostname is %q, %v", host, err)
	}
}

func TestOverlayInstall(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"usr/bin", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := filepath.Join(dir, "shared")
	if err := os.WriteFile(old, []byte("shared"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(old, filepath.Join(dir, "etc/hostname")); err != nil {
		t.Fatal(err)
	}
	o := Overlay{"/etc/hostname": {Data: []byte("new")}, "/bin/tool": {Mode: 0o4755, Data: []byte("tool")}}
	o.Enable("x.service", "multi-user.target")
	if err := o.Install(dir); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(old); string(b) != "shared" {
		t.Errorf("Install has written through a hard link: %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "etc/hostname")); string(b) != "new" {
		t.Errorf("hostname = %q, want new", b)
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/bin/tool")); err != nil {
		t.Errorf("/bin/tool is not where /bin leads to: %v", err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "etc/systemd/system/multi-user.target.wants/x.service")); to != "../x.service" {
		t.Errorf("x.service is enabled by a link to %q, %v", to, err)
	}
}

func TestOverlayRefusals(t *testing.T) {
	for _, row := range []struct{ name, path, want string }{
		{"a relative path", "etc/x", "absolute"},
		{"a path that climbs", "/etc/../x", "clean"},
		{"the root itself", "/", "absolute, clean"},
		{"a mount point", "/data", "hidden"},
		{"a file below a mount point", "/opt/tope/versions/x", "hidden"},
		{"a file in /var, which is in memory", "/var/lib/x", "hidden"},
	} {
		err := Overlay{row.path: {}}.Install(t.TempDir())
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: Install = %v, want an error with %q", row.name, err, row.want)
		}
	}
}

func TestOverlayHash(t *testing.T) {
	base := Overlay{"/a": {Data: []byte("x")}}
	for name, o := range map[string]Overlay{
		"path": {"/b": {Data: []byte("x")}}, "content": {"/a": {Data: []byte("y")}},
		"mode": {"/a": {Mode: 0o600, Data: []byte("x")}}, "link": {"/a": {Link: "x"}}, "nothing": {},
	} {
		if o.Hash() == base.Hash() {
			t.Errorf("another %s, same hash", name)
		}
	}
	if (Overlay{"/a": {Data: []byte("x")}}).Hash() != base.Hash() {
		t.Error("equal overlays have different hashes")
	}
}

func TestExtractVmlinuxRefuses(t *testing.T) {
	boot := func(payload string) []byte {
		b := make([]byte, 0x400+5*512)
		copy(b[offMagic:], "HdrS")
		b[offPayloadOffset] = 0
		b[offPayloadLength] = byte(len(payload))
		copy(b[5*512:], payload)
		return b
	}
	for _, row := range []struct {
		name string
		data []byte
		want string
	}{
		{"something else", []byte("MZ"), "not a bzImage"},
		{"an unknown compression", boot("BZh91AY&SY........"), "unknown compression"},
		{"a payload outside the file", append(boot("")[:0x300], 0)[:0x300], "not inside"},
		{"gzip that is none", boot("\x1f\x8b not gzip at all"), "gzip"},
	} {
		out := filepath.Join(t.TempDir(), "vmlinux")
		err := extractVmlinux(t.Context(), row.data, out)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: extractVmlinux = %v, want an error with %q", row.name, err, row.want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a file was left", row.name)
		}
	}
}

// A compressed kernel would start without a word, and a test wait for minutes.
func TestKernelThatIsNoImage(t *testing.T) {
	out := filepath.Join(t.TempDir(), "Image")
	err := writeImage(t.Context(), append([]byte("\x1f\x8b"), make([]byte, 100)...), out)
	if err == nil || !strings.Contains(err.Error(), "not an arm64 Image") {
		t.Errorf("writeImage = %v, want that it is no Image", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a file was left")
	}
}

// The packages of all processors are in one folder.
func TestPackageOfTheRightProcessor(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"libc6_2.36-9_amd64.deb", "tzdata_1%3a2024_all.deb"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		p    pkg
		a    Arch
		want string
	}{
		{pkg{"libc6", "2.36-9"}, AMD64, "libc6_2.36-9_amd64.deb"},
		{pkg{"libc6", "2.36-9"}, ARM64, ""},
		{pkg{"libc6", "2.36-10"}, AMD64, ""},
		{pkg{"tzdata", "1:2024"}, AMD64, "tzdata_1%3a2024_all.deb"},
		{pkg{"tzdata", "1:2024"}, ARM64, "tzdata_1%3a2024_all.deb"},
	} {
		want := row.want
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got := row.p.file(dir, row.a); got != want {
			t.Errorf("the file of %s for %s is %q, want %q", row.p, row.a, got, want)
		}
	}
}

func TestLoadOrderNamesWhatIsMissing(t *testing.T) {
	_, err := loadOrder(t.Context(), nil, []string{"ext4"})
	if err == nil || !strings.Contains(err.Error(), `"ext4"`) {
		t.Errorf("loadOrder = %v, want an error that names ext4", err)
	}
}

func TestProgramForTheProcessor(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil || testing.Short() {
		t.Skip("builds programs: not without go, and not in -short")
	}
	for _, a := range Arches {
		program, err := ProgramFor(t.Context(), a, "./integration/machine/vm/cmd/init")
		if err != nil {
			t.Fatal(err)
		}
		if f, err := elf.NewFile(bytes.NewReader(program)); err != nil || f.Machine != a.Facts().ELF {
			t.Errorf("a program for %s is for another processor (%v)", a, err)
		}
	}
}

func TestProgramSaysWhatTheCompilerSaid(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go")
	}
	_, err := Program(t.Context(), "./integration/no-such-program")
	if err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("Program = %v, want go's message", err)
	}
}

func TestEndOfContextEndsTheWaitForALock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("lock = %v, want it to end with its context", err)
	}
	unlock()
	unlock2, err := lock(t.Context(), path)
	if err != nil {
		t.Fatalf("a lock that was released cannot be taken: %v", err)
	}
	unlock2()
}
