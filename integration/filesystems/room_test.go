package filesystems

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/tope-ota/ota/docs/schema"
	"github.com/tope-ota/ota/integration/try"
)

// reserve is what an install leaves free, in bytes; a test allows for metadata.
const reserve = 4 << 20

// A device has the programs, a key and a store on a small disk, without systemd.
type device struct {
	t               *testing.T
	bin, dir, store string
}

func newDevice(t *testing.T, disk string) *device {
	t.Helper()
	defer try.Fatal(t)
	d := &device{t: t, bin: t.TempDir(), dir: t.TempDir(), store: filepath.Join(disk, "versions")}
	try.Run(exec.Command("go", "build", "-o", d.bin+"/", "../../applier/cmd/ota-apply", "../../applier/cmd/ota-bundle", "../../guardian/cmd/ota-guardian"))
	for _, dir := range []string{d.dir + "/keys", d.dir + "/run", d.dir + "/spool", d.store} {
		try.Check(os.MkdirAll(dir, 0o755))
	}
	config := fmt.Sprintf("root = %q\nrun = %q\nspool = %q\nkeys = %q\nmodel = \"x1\"\nservices = []\nreserve = \"4MiB\"\nreport.url = \"\"\n"+
		"[trial]\nstable = \"50ms\"\ndeadline = \"5s\"\n[[check]]\nname = \"fine\"\nscript = \"/bin/true\"\n", d.store, d.dir+"/run", d.dir+"/spool", d.dir+"/keys")
	try.Check(os.WriteFile(d.dir+"/ota.toml", []byte(config), 0o644))
	d.must("ota-bundle", "keygen", "--no-password", d.dir+"/k")
	d.must("cp", d.dir+"/k.pub", d.dir+"/keys/")
	return d
}

func (d *device) run(name string, args ...string) (string, error) {
	if name == "ota-apply" || name == "ota-guardian" {
		args = append([]string{args[0], "--config", d.dir + "/ota.toml"}, args[1:]...)
	}
	if _, err := os.Stat(filepath.Join(d.bin, name)); err == nil {
		name = filepath.Join(d.bin, name)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %v: %w\n%s", filepath.Base(name), args, err, stderr.String())
	}
	return stdout.String(), schema.CheckOutput(args, stdout.Bytes())
}

func (d *device) must(name string, args ...string) string {
	d.t.Helper()
	defer try.Fatal(d.t)
	return try.Get(d.run(name, args...))
}

// bundle makes a bundle of `same` MiB that all versions have, and `own` that it alone has.
func (d *device) bundle(version string, release, same, own int) string {
	d.t.Helper()
	defer try.Fatal(d.t)
	tree := filepath.Join(d.dir, "tree-"+version)
	try.Check(os.MkdirAll(tree, 0o755))
	for i := range same {
		try.Check(os.WriteFile(fmt.Sprintf("%s/same%d", tree, i), bytes.Repeat([]byte{byte(i), 1, 7}, 1<<20/3), 0o644))
	}
	data := make([]byte, own<<20)
	_, _ = rand.Read(data)
	try.Check(os.WriteFile(tree+"/own", data, 0o644))
	out := filepath.Join(d.dir, version+".ota")
	d.must("ota-bundle", "create", "--dir", tree, "--version", version, "--model", "x1", "--release", fmt.Sprint(release),
		"--key", d.dir+"/k.key", "--level", "fastest", "-o", out)
	return out
}

func (d *device) free() uint64 {
	defer try.Fatal(d.t)
	var st syscall.Statfs_t
	try.Check(syscall.Statfs(d.store, &st))
	return st.Bavail * uint64(st.Bsize)
}

// TestRoom updates a device until there is room for no further version, on file systems
// on which files can be shared and on which they cannot: an old version goes, the
// reserve stays, and the dry run says both beforehand.
func TestRoom(t *testing.T) {
	needsRoot(t)
	for name, disk := range map[string]func(t *testing.T) string{
		"ext4, links": func(t *testing.T) string { return mountOf(t, 100, "mkfs.ext4", "-m", "0") },
		"ext4, another group": func(t *testing.T) string {
			dir := mountOf(t, 100, "mkfs.ext4", "-m", "0")
			try.Run(exec.Command("mount", "-o", "remount,grpid", dir))
			try.Check(os.Chown(dir, 0, 50))
			return dir
		},
		"btrfs, clones": func(t *testing.T) string { return mountOf(t, 256, "mkfs.btrfs", "-m", "single") },
		"an overlay": func(t *testing.T) string {
			dir := mountOf(t, 100, "mkfs.ext4", "-m", "0")
			low, merged := t.TempDir(), t.TempDir()
			for _, sub := range []string{"/up", "/work"} {
				try.Check(os.Mkdir(dir+sub, 0o755))
			}
			try.Check(syscall.Mount("overlay", merged, "overlay", 0, "lowerdir="+low+",upperdir="+dir+"/up,workdir="+dir+"/work"))
			t.Cleanup(func() { _ = syscall.Unmount(merged, 0) })
			return merged
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer try.Fatal(t)
			d := newDevice(t, disk(t))
			for i := range 6 {
				version := fmt.Sprintf("1.%d.0", i)
				file := d.bundle(version, i+1, 18, 1)
				var says struct {
					Remove []string `json:"remove"`
				}
				if i > 0 {
					try.Check(json.Unmarshal([]byte(d.must("ota-apply", "install", "--dry-run", "--json", file)), &says))
				}
				d.must("ota-apply", "install", file)
				if free := d.free(); free < reserve*3/4 {
					t.Errorf("after %s %d KiB are free, the reserve is %d", version, free>>10, reserve>>10)
				}
				for _, gone := range says.Remove {
					if _, err := os.Lstat(d.store + "/v" + gone); err == nil {
						t.Errorf("the dry run of %s said that %s goes, and it is there", version, gone)
					}
				}
				d.must("ota-guardian", "boot")
				d.must("ota-guardian", "confirm")
				if i == 0 {
					d.must("ota-guardian", "factory", "create")
				}
			}
			d.must("ota-apply", "verify", "1.5.0")
		})
	}
}

// TestDiskFillsUp lets another program use up the disk while a version is unpacked: an
// old version makes room for it, and what was downloaded is not downloaded again.
func TestDiskFillsUp(t *testing.T) {
	needsRoot(t)
	for _, mkfs := range [][]string{{"mkfs.ext4", "-m", "0"}, {"mkfs.btrfs", "-m", "single"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			defer try.Fatal(t)
			d := newDevice(t, mountOf(t, 128, mkfs...))
			for i, version := range []string{"1.0.0", "1.1.0", "1.2.0"} {
				d.must("ota-apply", "install", d.bundle(version, i+1, 0, 20))
				d.must("ota-guardian", "confirm")
			}
			file := d.bundle("1.3.0", 4, 0, 15)
			info := try.Get(os.Stat(file))
			filler := filepath.Join(filepath.Dir(d.store), "filler")
			var sent int64
			fillUp := sync.OnceFunc(func() {
				f, err := os.Create(filler)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				for piece := 1 << 20; piece >= 4096; piece /= 2 {
					for err = nil; err == nil; _, err = f.Write(make([]byte, piece)) {
					}
				}
				_ = f.Sync()
			})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") != "bytes=0-262143" {
					fillUp() // the head was checked, and found room
				}
				http.ServeFile(counting{w, &sent}, r, file)
			}))
			defer server.Close()
			d.must("ota-apply", "install", server.URL+"/1.3.0.ota")
			d.must("ota-apply", "verify", "1.3.0")
			// What was on its way when the disk was full, up to the buffers of two sockets, is sent again.
			if most := info.Size() * 3 / 2; sent > most {
				t.Errorf("%d bytes were sent of a bundle of %d: it was downloaded twice", sent, info.Size())
			}
			if _, err := os.Lstat(d.store + "/v1.0.0"); err == nil {
				t.Error("1.0.0, which nothing needs, is still there")
			}
		})
	}
}

// counting counts the bytes of answers.
type counting struct {
	http.ResponseWriter
	sent *int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	*c.sent += int64(n)
	return n, err
}
