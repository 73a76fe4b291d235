package debtest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/tope-ota/ota/integration/machine"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// TestFormats: rpm, apk and ipk hold the same files as the deb, with the same content and
// modes, need the same systemd, and enable the units at the same moments.
func TestFormats(t *testing.T) {
	defer try.Fatal(t)
	machine.Require(t, "package", debian.MissingTools("rpm"))
	dir, work := t.TempDir(), t.TempDir()
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "OUT="+dir, "BIN="+dir+"/bin", "VERSION=1.0.0", "SOURCE_DATE_EPOCH=1700000000")
		return try.Output(cmd)
	}
	repo := try.Get(debian.RepoDir())
	run(repo+"/scripts/package.sh", "--format", "deb,rpm,apk,ipk,image", "amd64")
	unpack := func(kind, script string) string {
		root := filepath.Join(work, kind)
		try.Check(os.Mkdir(root, 0o755))
		run("sh", "-ec", "cd "+root+"\n"+script)
		return root
	}
	want := files(unpack("deb", "dpkg-deb -x "+dir+"/ota_1.0.0_amd64.deb ."))
	rpm := dir + "/ota-1.0.0-1.x86_64.rpm"
	for _, format := range []struct{ name, unpack, needs, scripts string }{
		{"rpm", "rpm --root $PWD --dbpath /db --nodeps --noscripts -i " + rpm + "; rm -r db", "rpm -qpR " + rpm,
			"for s in POSTIN PREUN POSTUN; do rpm -qp --qf %{$s} " + rpm + " >../rpm.$s; done"},
		{"apk", "tar -xzf " + dir + "/ota_1.0.0_x86_64.apk 2>../apk.log; mv .PKGINFO .p* ..", "cat " + work + "/.PKGINFO",
			"mv ../.post-install ../apk.POSTIN; mv ../.pre-deinstall ../apk.PREUN; mv ../.post-deinstall ../apk.POSTUN"},
		{"ipk", "tar -xzf " + dir + "/ota_1.0.0_x86_64.ipk; mkdir ../control; tar -C ../control -xzf control.tar.gz; tar -xzf data.tar.gz; rm control.tar.gz data.tar.gz debian-binary",
			"cat " + work + "/control/control", "mv ../control/postinst ../ipk.POSTIN; mv ../control/prerm ../ipk.PREUN; mv ../control/postrm ../ipk.POSTUN"},
	} {
		root := unpack(format.name, format.unpack)
		got := files(root)
		for name, what := range want {
			if got[name] != what {
				t.Errorf("%s: %s is %q, want %q", format.name, name, got[name], what)
			}
		}
		for name := range got {
			if want[name] == "" {
				t.Errorf("%s has %s, which the deb has not", format.name, name)
			}
		}
		if out := run("sh", "-c", format.needs); !strings.Contains(out, "247") || strings.Contains(out, "${") {
			t.Errorf("%s does not need systemd 247:\n%s", format.name, out)
		}
		run("sh", "-ec", "cd "+root+"\n"+format.scripts)
	}

	// What the scripts do, on a machine with a systemctl that only tells what it is asked.
	stubs := filepath.Join(work, "stubs")
	try.Check(os.Mkdir(stubs, 0o755))
	for _, name := range []string{"systemctl", "journalctl", "mkdir", "cp", "rm"} {
		try.Check(os.WriteFile(filepath.Join(stubs, name), []byte("#!/bin/sh\necho "+name+" $*\n"), 0o755))
	}
	for _, row := range []struct {
		format, script string
		args           []string
		enables        bool
		disables       bool
	}{
		{"rpm", "POSTIN", []string{"1"}, true, false},
		{"rpm", "POSTIN", []string{"2"}, false, false},
		{"rpm", "PREUN", []string{"0"}, false, true},
		{"rpm", "PREUN", []string{"1"}, false, false},
		{"rpm", "POSTUN", []string{"1"}, false, false},
		{"apk", "POSTIN", []string{"1.0.0"}, true, false},
		{"apk", "PREUN", []string{"1.0.0"}, false, true},
		{"ipk", "POSTIN", []string{"configure", ""}, true, false},
		{"ipk", "PREUN", []string{"remove"}, false, true},
		{"ipk", "PREUN", []string{"upgrade"}, false, false},
	} {
		cmd := exec.Command("/bin/sh", append([]string{filepath.Join(work, row.format+"."+row.script)}, row.args...)...)
		cmd.Env = []string{"PATH=" + stubs}
		out, err := cmd.CombinedOutput()
		enables, disables := strings.Contains(string(out), "systemctl --quiet enable"), strings.Contains(string(out), "systemctl --quiet disable")
		if err != nil || enables != row.enables || disables != row.disables {
			t.Errorf("%s of the %s with %q: %v, enables: %v, disables: %v\n%s", row.script, row.format, row.args, err, enables, disables, out)
		}
	}

	// The image holds ota-bundle, which needs nothing else.
	image := unpack("image", "tar -xf "+dir+"/ota-bundle_1.0.0_amd64.image.tar; mkdir root; for l in *.tar.gz; do tar -C root -xzf $l; done")
	cmd := exec.Command("/ota-bundle", "--version")
	if os.Geteuid() == 0 {
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: filepath.Join(image, "root")}
	} else {
		cmd.Path = filepath.Join(image, "root/ota-bundle")
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "1.0.0") {
		t.Errorf("ota-bundle of the image: %v, %s", err, out)
	}

	// opkg takes only a package for a processor by the name that Yocto has for it.
	for arch, want := range map[string]string{"arm64": "aarch64", "arm7": "armv7ahf-vfp"} {
		cmd := exec.Command("go", "-C", repo+"/scripts/package", "run", ".", "ipk", dir)
		cmd.Env = append(os.Environ(), "ARCH="+arch, "VERSION=1.0.0", "STAGE="+work+"/image/root", "SCRIPTS="+stubs, "MAINTAINER=x <x@x>", "DESCRIPTION=x")
		for _, script := range []string{"postinst", "prerm", "postrm"} {
			try.Check(os.WriteFile(filepath.Join(stubs, script), []byte("#!/bin/sh\n"), 0o755))
		}
		if out := try.Output(cmd); strings.TrimSpace(out) != dir+"/ota_1.0.0_"+want+".ipk" {
			t.Errorf("the ipk for %s is %s", arch, out)
		}
	}

	// What each program is made of, in the package.
	var bill struct {
		BomFormat  string
		Components []struct{ Name, Version string }
	}
	try.Check(json.Unmarshal([]byte(run("sh", "-c", "gzip -dc "+work+"/deb/usr/share/doc/ota/ota-guardian.cdx.json.gz")), &bill))
	var modules []string
	for _, c := range bill.Components {
		modules = append(modules, c.Name)
	}
	linked := strings.Fields(run("sh", "-c", "go version -m "+dir+"/bin/amd64/ota-guardian | awk '$1 == \"dep\" { print $2 }'"))
	slices.Sort(modules)
	slices.Sort(linked)
	if bill.BomFormat != "CycloneDX" || len(linked) == 0 || !slices.Equal(modules, linked) {
		t.Errorf("the bill of materials of ota-guardian has %q, Go says %q", modules, linked)
	}
}

// files are mode and content of each file below root.
func files(root string) map[string]string {
	all := map[string]string{}
	try.Check(filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info := try.Get(d.Info())
		var data []byte
		if info.Mode().IsRegular() {
			data = try.Get(os.ReadFile(name))
		}
		all[strings.TrimPrefix(name, root)] = fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(data))
		return nil
	}))
	return all
}
