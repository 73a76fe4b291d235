package bundle

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

func TestCreateIsDeterministic(t *testing.T) {
	src := sampleTree(t)
	needTool(t, "zstd")
	for _, level := range []Level{LevelFast, LevelDefault, "better", LevelBest, LevelMax} {
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
	text := func(content string) func(t *testing.T, dir string) {
		return in("deep/notes.txt", func(n string) error {
			return errors.Join(os.Mkdir(filepath.Dir(n), 0o755), os.WriteFile(n, []byte(content), 0o644))
		})
	}
	key := func(file string) func(t *testing.T, dir string) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return text(string(content))
	}
	for _, row := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"a FIFO", in("x", func(n string) error { return syscall.Mkfifo(n, 0o644) }), "sockets, FIFOs and devices: 1\n  x"},
		{"a socket", in("x", func(n string) error {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n})
			if err != nil {
				return err
			}
			l.SetUnlinkOnClose(false)
			return l.Close()
		}), "sockets, FIFOs and devices: 1\n  x"},
		{"a device", in("x", func(n string) error { return syscall.Mknod(n, syscall.S_IFCHR|0o644, 1<<8|3) }), "sockets, FIFOs and devices: 1\n  x"},
		{"setuid", mode("bin/app", 0o4755), "bundles do not hold: 1\n  bin/app (4755)"},
		{"setgid", mode("bin/app", 0o2755), "bundles do not hold: 1\n  bin/app (2755)"},
		{"sticky", mode("bin", 0o1777), "bundles do not hold: 1\n  bin (1777)"},
		{"a file that its owner cannot read", mode("bin/app", 0o044), "could not read the entry: 1\n  bin/app (0044)"},
		{"a capability", xattr("security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), "bin/app (security.capability)"},
		{"an ACL", xattr("system.posix_acl_access", "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x01\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"), "bin/app (system.posix_acl_access)"},
		{"a file that every user can write", mode("bin/app", 0o666), "every user can write: 1\n  bin/app (0666)"},
		{"a directory that every user can write", mode("bin", 0o777), "every user can write: 1\n  bin (0777)"},
		{"a directory that its owner cannot list", mode("bin", 0o355), "could not read the entry: 1\n  bin (0355)"},
		{"a private key of minisign", key("testdata/test.key"), "private keys: 1\n  deep/notes.txt"},
		{"one that is encrypted", text(encryptedKey), "private keys: 1\n  deep/notes.txt"},
		{"a private key of OpenSSL, after its certificate", text(pemOf("CERTIFICATE") + pemOf("EC PRIVATE KEY")), "private keys: 1\n  deep/notes.txt"},
		{"a private key of OpenSSH", text(pemOf("OPENSSH PRIVATE KEY")), "private keys: 1\n  deep/notes.txt"},
		{"21 FIFOs", func(t *testing.T, dir string) {
			for i := range maxShown + 1 {
				if err := syscall.Mkfifo(fmt.Sprintf("%s/%d", dir, i), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}, "  8\n  and 1 more\n  hint: leave them out"},
		{"a newline", write("a\nb"), "holds a control character"},
		{"a name that is not UTF-8", write("a\xff"), "is not UTF-8"},
		{"a tree that was unpacked", func(t *testing.T, dir string) {
			if err := os.Mkdir(dir+"/.ota", 0o755); err != nil {
				t.Fatal(err)
			}
		}, "manifest's own directory"},
		{"an absolute link", link("/etc/passwd"), "l -> /etc/passwd is absolute"},
		{"a link out", link("../x"), "l -> ../x leaves the tree"},
		{"a link to itself", link("l"), "is a loop"},
		{"a link with a newline", link("a\nb"), "holds a control character"},
		{"an ignore file that is too long", in(".otaignore", func(n string) error {
			return os.WriteFile(n, []byte(strings.Repeat("# long\n", 10_000)+"*.key\n"), 0o644)
		}), ".otaignore is longer than 64 KiB"},
		{"a pattern that is none", in(".otaignore", func(n string) error { return os.WriteFile(n, []byte("*.o\n[\n"), 0o644) }), `.otaignore: "[" is no pattern`},
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
			var said []string
			c := contents(dir)
			c.Say = func(line string) { said = append(said, line) }
			_, err := Create(t.Context(), out, c)
			if err == nil || !strings.Contains(strings.Join(append(said, err.Error()), "\n"), row.want) {
				t.Fatalf("Create: %q, %v, want %q in it", said, err, row.want)
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

func pemOf(kind string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("a key, as it were")}))
}

// encryptedKey is a private key of minisign that has a password and is used nowhere: to make one
// takes seconds.
const encryptedKey = "untrusted comment: minisign encrypted secret key\n" +
	"RWRTY0Iy5L3JHWn7myLbJlwr2nv/MqQ/WeAZijbDcd8J2Zg28R4AAAACAAAAAAAAAEAAAAAAIA2j1wRpTUYQSyDt86+PwS7v" +
	"So509e691AyBrGtUXHeKEuaeQRL3tz2qepm5p8C8yAai0iGb2R9kwzdSqfagstAS16AYHfO+DiKeUGJ+z0HH82mMVEgoulc/VpbgsNGW2R4LSVW4eeI="

// What the flags of create allow, and what is no more than said.
func TestCreateAllows(t *testing.T) {
	dir := treeOf(t, map[string]string{
		"bin/app": "x", "bin/App": "twin", "e\u0301": "", "\u00e9": "", `mnt-my\x2ddata.mount`: "", "release.pub": "", "not.key": "-----BEGIN PRIVATE KEY-----",
		"key.pem": pemOf("PRIVATE KEY"), "open": "", "set": "", "mine": "", "role": "", ".git/config": "", "build/out.o": "", "src/build/x": "", "src/a.o": "",
		".otaignore": "# a comment\n\n/build/\n*.o\npipe\n",
	})
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pub, err := testKey.Public().(minisign.PublicKey).MarshalText()
	do(err)
	do(os.WriteFile(dir+"/release.pub", pub, 0o644))
	do(syscall.Chmod(dir+"/open", 0o666))
	do(syscall.Chmod(dir+"/set", 0o4755))
	do(syscall.Chmod(dir+"/mine", 0o600))
	do(os.Symlink("/usr/bin/python3", dir+"/bin/python3"))
	do(os.Symlink("python3", dir+"/bin/python"))
	do(os.Symlink("../../shared/", dir+"/shared"))
	do(os.Symlink("shared/x", dir+"/through"))
	do(os.Link(dir+"/bin/app", dir+"/bin/same"))
	do(syscall.Mkfifo(dir+"/pipe", 0o644))
	do(os.WriteFile(dir+"/sparse", nil, 0o644))
	do(os.Truncate(dir+"/sparse", 8<<20))
	want := []string{
		"warning: setuid, setgid, sticky, capabilities or ACLs are lost: 1", "  set (4755)",
		"warning: hard links are packed as copies: 1", "  bin/same is bin/app (1 B",
		"warning: sparse files are packed in full: 1", "  sparse (8 MiB, 0 B on disk)",
		"warning: a repository or its secrets are packed: 1", "  .git",
	}
	if os.Geteuid() == 0 {
		do(os.Chown(dir+"/mine", 1234, 1234))
		want = append(want, "warning: owners are lost: only root can use these on the device: 1", "  mine (0600 of 1234:1234)")
	}
	if unix.Setxattr(dir+"/role", "user.role", []byte("x"), 0) == nil {
		want = append(want, "  role (user.role)")
	}
	var said []string
	c := contents(dir)
	c.Say = func(line string) { said = append(said, line) }
	c.Exclude = []string{"src"}
	c.Allow = []string{"*.pem", "open", "/set", "set"}
	c.AllowLink = []string{"/usr/bin/python3*", "../../*/", "shared/*"}
	out := mustCreate(t, c)
	text := strings.Join(said, "\n")
	for _, line := range want {
		if !strings.Contains(text, line) {
			t.Errorf("Create does not say %q but\n%s", line, text)
		}
	}
	if strings.Contains(text, "refused") {
		t.Errorf("Create says %s", text)
	}
	got, m := unpack(t, out)
	var external []string
	for _, e := range m.Entries {
		if strings.Contains(e.Path, "build") || strings.Contains(e.Path, "src") || e.Path == ".otaignore" || e.Path == "pipe" {
			t.Errorf("%s was packed", e.Path)
		}
		if e.External {
			external = append(external, e.Path)
		}
	}
	if got := strings.Join(external, " "); got != "bin/python3 shared through" {
		t.Errorf("external are %s", got)
	}
	for link, want := range map[string]string{"bin/python3": "/usr/bin/python3", "bin/python": "python3", "shared": "../../shared/"} {
		if target, err := os.Readlink(filepath.Join(got, link)); target != want {
			t.Errorf("%s leads to %q, %v, want %q", link, target, err, want)
		}
	}
	if info, err := os.Stat(got + "/set"); err != nil || info.Mode() != 0o755 {
		t.Errorf("set: %v, %v", info, err)
	}
	if info, err := os.Stat(got + "/bin/App"); err != nil || info.Size() != 4 {
		t.Errorf("bin/App: %v, %v", info, err)
	}
}

// All that is wrong is said at once, and an output that is there is a part of it.
func TestCreateRefusesAllAtOnce(t *testing.T) {
	dir := treeOf(t, map[string]string{"bin/app": "x", "k.pem": pemOf("PRIVATE KEY")})
	out := filepath.Join(t.TempDir(), "x.ota")
	if err := errors.Join(os.WriteFile(out, nil, 0o644), syscall.Chmod(dir+"/bin/app", 0o4777), os.Symlink("/x", dir+"/l"), syscall.Mkfifo(dir+"/p", 0o644)); err != nil {
		t.Fatal(err)
	}
	var said []string
	c := contents(dir)
	c.Say = func(line string) { said = append(said, line) }
	_, err := Create(t.Context(), out, c)
	if bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(fmt.Sprint(err), "6 problems") {
		t.Errorf("Create: %v", err)
	}
	for _, line := range []string{"  bin/app (4777)", "  l -> /x is absolute", "  p", "  k.pem", "  " + out} {
		if !slices.Contains(said, line) {
			t.Errorf("Create does not say %q but\n%s", line, strings.Join(said, "\n"))
		}
	}
}

// A store that folds case: its other names of a file are hard links here.
func TestStoreThatFoldsCase(t *testing.T) {
	for _, row := range []struct {
		name  string
		other string
		want  string
	}{
		{"case twins", "bin/APP", `"bin/APP" and "bin/app" are one name`},
		{"none", "", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := treeOf(t, map[string]string{"bin/x": "", ".ota/x": ""})
			if err := os.Link(dir+"/.ota/x", dir+"/.OTA"); err != nil {
				t.Fatal(err)
			}
			if row.other != "" {
				if err := errors.Join(os.WriteFile(dir+"/"+row.other, nil, 0o644), os.Link(dir+"/"+row.other, dir+"/bin/app")); err != nil {
					t.Fatal(err)
				}
			}
			m := &bootcheck.Manifest{Entries: []bootcheck.Entry{{Path: "bin", Type: bootcheck.TypeDir}, {Path: "bin/link", Type: bootcheck.TypeLink}, {Path: "bin/app", Type: bootcheck.TypeFile, Size: 1}}}
			err := checkNames(openRoot(t, dir), m)
			if row.want == "" && err != nil || row.want != "" && (bootcheck.Exit(err) != bootcheck.ExitRefused || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("checkNames: %v, want %q", err, row.want)
			}
			if _, err := os.Lstat(dir + "/bin/link"); err == nil {
				t.Error("it leaves bin/link")
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
	c.Overwrite = true
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
			m, c := &bootcheck.Manifest{}, contents(src)
			if _, err := scan(t.Context(), &c, m); err != nil {
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
