package debian_test

import (
	"context"
	"debug/elf"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine"
	. "github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

func require(t *testing.T) {
	t.Helper()
	machine.Require(t, "Debian root", Missing())
}

// Each kind of guest that tests have.
func TestRoot(t *testing.T) {
	require(t)
	machine.EachSuite(t, func(t *testing.T, s Suite) { testRoot(t, s, AMD64) })
	t.Run(ARM64.String(), func(t *testing.T) { testRoot(t, Bookworm, ARM64) })
}

func testRoot(t *testing.T, s Suite, a Arch) {
	defer try.Fatal(t)
	v := Variant{Suite: s, Arch: a}
	root := try.Get(v.Root(t.Context()))
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
			t.Errorf("the root has no directory %s to mount over: %v", name, err)
		}
	}
	if got, err := os.Readlink(filepath.Join(root, "etc/systemd/system/getty.target")); got != "/dev/null" {
		t.Errorf("getty.target is not masked: %q, %v", got, err)
	}
	f := try.Get(elf.Open(filepath.Join(root, "usr/lib/systemd/systemd")))
	defer f.Close()
	if f.Machine != a.Facts().ELF {
		t.Errorf("systemd is for %v, want %v", f.Machine, a.Facts().ELF)
	}
	// A masked generator of a name that no package has would mask nothing.
	gens, err := os.ReadDir(filepath.Join(root, "usr/lib/systemd/system-generators"))
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
		_, err := Variant{}.Root(ctx)
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
