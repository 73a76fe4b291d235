package bundle

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

func TestCreateIsDeterministic(t *testing.T) {
	src := sampleTree(t)
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression, zstd.SpeedBestCompression} {
		c := contents(src)
		c.Level = level
		var first []byte
		for _, procs := range []int{1, 7} {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			got, err := os.ReadFile(mustCreate(t, c))
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = got
			}
			if !bytes.Equal(got, first) {
				t.Errorf("level %v, %d processors: another bundle than with 1", level, procs)
			}
		}
	}
	// Nor do the times and the order in which files were made matter.
	c := contents(src)
	one, err := os.ReadFile(mustCreate(t, c))
	if err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if out, err := exec.Command("cp", "-R", "-P", "--preserve=mode", src+"/.", copied).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	t.Cleanup(func() { chmod(t, copied+"/bin", 0o755) })
	c.Dir = copied
	two, err := os.ReadFile(mustCreate(t, c))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("a copy of the tree makes another bundle")
	}
}

func TestCreateRefuses(t *testing.T) {
	in := func(name string, f func(name string) error) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := f(filepath.Join(dir, name)); err != nil {
				t.Skipf("cannot be made here: %v", err)
			}
		}
	}
	write := func(name string) func(t *testing.T, dir string) {
		return in(name, func(n string) error { return os.WriteFile(n, nil, 0o644) })
	}
	link := func(target string) func(t *testing.T, dir string) {
		return in("l", func(n string) error { return os.Symlink(target, n) })
	}
	mode := func(name string, m uint32) func(t *testing.T, dir string) {
		return in(name, func(n string) error { return syscall.Chmod(n, m) })
	}
	xattr := func(attr, value string) func(t *testing.T, dir string) {
		return in("bin/app", func(n string) error { return unix.Setxattr(n, attr, []byte(value), 0) })
	}
	for _, row := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"a FIFO", in("x", func(n string) error { return syscall.Mkfifo(n, 0o644) }), `"x": it is a FIFO`},
		{"a socket", in("x", func(n string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		}), `"x": it is a socket`},
		{"a device", in("x", func(n string) error { return syscall.Mknod(n, syscall.S_IFCHR|0o644, 1<<8|3) }), `"x": it is a device`},
		{"setuid", mode("bin/app", 0o4755), `"bin/app": it has mode urwxr-xr-x`},
		{"setgid", mode("bin/app", 0o2755), `"bin/app": it has mode grwxr-xr-x`},
		{"sticky", mode("bin", 0o1777), `"bin": it has mode dtrwxrwxrwx`},
		{"a file that its owner cannot read", mode("bin/app", 0o044), `entry "bin/app": mode 0044: its owner could not read it`},
		{"a capability", xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), `"bin/app": it has security.capability`},
		{"an ACL", xattr("system.posix_acl_access", "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x01\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"), `"bin/app": it has system.posix_acl_access`},
		{"case twins", write("BIN"), `"BIN" and "bin" differ only in case`},
		{"a backslash", write(`a\b`), "holds a backslash"},
		{"a newline", write("a\nb"), "holds a control character"},
		{"a name that is not UTF-8", write("a\xff"), "is not UTF-8"},
		{"a tree that was unpacked", func(t *testing.T, dir string) {
			if err := os.Mkdir(dir+"/.ota", 0o755); err != nil {
				t.Fatal(err)
			}
		}, "manifest's own directory"},
		{"an absolute link", link("/etc/passwd"), `link "l": target "/etc/passwd" is absolute`},
		{"a link out", link("../x"), `link "l" -> "../x" leaves the tree`},
		{"a link to itself", link("l"), "is a loop"},
		{"nothing", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir + "/bin"); err != nil {
				t.Fatal(err)
			}
		}, "it lists no file"},
		{"a file", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "is not a directory"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := treeOf(t, map[string]string{"bin/app": "x"})
			row.do(t, dir)
			outDir := t.TempDir()
			out := filepath.Join(outDir, "x.ota")
			_, err := Create(t.Context(), out, contents(dir))
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("Create: %v, want %q in it", err, row.want)
			}
			if bootcheck.Exit(err) != bootcheck.ExitRefused {
				t.Errorf("Create: exit %d, want %d", bootcheck.Exit(err), bootcheck.ExitRefused)
			}
			if left, _ := os.ReadDir(outDir); len(left) > 0 {
				t.Errorf("Create left %v", left)
			}
		})
	}
}

func TestCreateHardLinksAreFiles(t *testing.T) {
	src := treeOf(t, map[string]string{"a": "content"})
	if err := os.Link(src+"/a", src+"/b"); err != nil {
		t.Fatal(err)
	}
	dir, m := unpack(t, mustCreate(t, contents(src)))
	if len(m.Entries) != 2 || m.Entries[1].Type != bootcheck.TypeFile || m.Size != 14 {
		t.Errorf("manifest %+v, want two files", m)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dir+"/b", &st); err != nil || st.Nlink != 1 {
		t.Errorf("b has %d names, %v", st.Nlink, err)
	}
}

func TestCreateReplacesAsAWhole(t *testing.T) {
	src := treeOf(t, map[string]string{"a": "content"})
	outDir := t.TempDir()
	out := filepath.Join(outDir, "x.ota")
	if err := os.WriteFile(out, []byte("the old bundle"), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := contents(src)
	c.Progress = func(int64, int64) { cancel() }
	if _, err := Create(ctx, out, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Create: %v, want %v", err, context.Canceled)
	}
	if got, _ := os.ReadFile(out); string(got) != "the old bundle" {
		t.Errorf("after a Create that was canceled, %s holds %q", out, got)
	}
	c.Progress = nil
	if _, err := Create(t.Context(), out, c); err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(outDir); len(list) != 1 {
		t.Errorf("Create left %v", list)
	}
	openBundle(t, out)
}

func TestCreateInsideTheTree(t *testing.T) {
	src := treeOf(t, map[string]string{"a": "content", "sub/b": ""})
	alias := filepath.Join(t.TempDir(), "alias")
	if err := os.Symlink(src, alias); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{src + "/x.ota", src + "/sub/x.ota", alias + "/x.ota"} {
		if _, err := Create(t.Context(), out, contents(src)); err == nil || !strings.Contains(err.Error(), "it is inside") {
			t.Errorf("Create %s: %v, want a refusal", out, err)
		}
	}
	if _, err := Create(t.Context(), src+"-beside.ota", contents(alias)); err != nil {
		t.Error(err)
	}
}

// A file that changes while it is packed must not get into a bundle half old and
// half new.
func TestCreateFileChanges(t *testing.T) {
	for name, change := range map[string]func(name string) error{
		"longer":  func(n string) error { return os.WriteFile(n, []byte("longer than before"), 0) },
		"shorter": func(n string) error { return os.Truncate(n, 1) },
		"a link": func(n string) error {
			if err := os.Remove(n); err != nil {
				return err
			}
			return os.Symlink("/etc/passwd", n)
		},
		"a FIFO": func(n string) error {
			if err := os.Remove(n); err != nil {
				return err
			}
			return syscall.Mkfifo(n, 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			src := treeOf(t, map[string]string{"a": "content"})
			m := &bootcheck.Manifest{}
			if err := scan(t.Context(), src, m); err != nil {
				t.Fatal(err)
			}
			if err := change(src + "/a"); err != nil {
				t.Fatal(err)
			}
			err := pack(t.Context(), &bytes.Buffer{}, m, contents(src))
			if err == nil {
				t.Error("pack took it")
			}
		})
	}
}
