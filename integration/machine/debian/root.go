package debian

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// wanted is what the root is made of, with all that it depends on: systemd as
// the device has it, and the small programs that units, hooks and check scripts
// call.
var wanted = []string{
	"systemd", "systemd-sysv", "dbus", "kmod",
	"libseccomp2", // systemd of forky only recommends it, and does without SystemCallFilter=
	"base-files", "base-passwd", "bash", "dash", "coreutils", "findutils", "grep", "sed", "tar",
	"util-linux", "mount", "hostname", "procps",
}

// unwanted are dependencies that only maintainer scripts use.
var unwanted = []string{
	"adduser", "cdebconf", "debconf", "dpkg", "libdebconfclient0", "passwd", "perl-base",
	"libsemanage-common", "libsemanage1", "libsemanage2", "libsepol1", "libsepol2", "usr-is-merged",
	"gcc-10-base", "gcc-12-base", "gcc-14-base", "gcc-16-base",
}

// The folders on which the data disk is bound, and others that must exist because
// the root is read-only.
var folders = []string{
	"data", "opt/tope", "etc/ota", "var/lib/ota", "srv",
	"dev", "proc", "sys", "run", "tmp", "root", "mnt", "home", "var/tmp", "var/log", "etc/systemd/system",
}

// links make the tree look installed: merged /usr, and what maintainer scripts
// would have made.
var links = map[string]string{
	"etc/mtab":                          "../proc/self/mounts",
	"var/run":                           "../run",
	"var/lock":                          "../run/lock",
	"usr/bin/awk":                       "mawk",
	"usr/bin/sh":                        "dash",
	"etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
}

var mergedLinks = []string{"bin", "sbin", "lib", "lib64"}

// files are the tree's own configuration.
var files = map[string]string{
	"etc/machine-id":  "5eedc0de5eedc0de5eedc0de5eedc0de\n", // fixed: a first boot would write one, to a read-only disk
	"etc/hostname":    "device\n",
	"etc/hosts":       "127.0.0.1 localhost\n127.0.1.1 device\n::1 localhost\n",
	"etc/resolv.conf": "",
	"etc/fstab":       "# mounted by the initramfs or by the container\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n" +
		"networks: files\nprotocols: files\nservices: files\n",
	"etc/adjtime": "0.0 0 0.0\n0\nUTC\n",
	"etc/systemd/journald.conf.d/10-volatile.conf": "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\nForwardToSyslog=no\nForwardToWall=no\n" +
		"# tests count what services say; a burst must not be dropped\nRateLimitIntervalSec=0\n",
}

// accounts are added to base-passwd's; uid and gid as on an installed Debian 12.
const (
	passwdLines = "systemd-network:x:998:998:systemd Network Management:/:/usr/sbin/nologin\nmessagebus:x:100:106::/nonexistent:/usr/sbin/nologin\n"
	groupLines  = "systemd-journal:x:999:\nsystemd-network:x:998:\nmessagebus:x:106:\nkvm:x:104:\ninput:x:103:\nrender:x:105:\nsgx:x:102:\n"
)

// masked units are not needed by a device under test and cost time at each boot,
// or could not work on a read-only root without udev.
var masked = []string{
	"getty.target", "getty@.service", "serial-getty@.service", "console-getty.service", "container-getty@.service",
	"getty-static.service", "systemd-logind.service", "dbus-org.freedesktop.login1.service", "systemd-user-sessions.service",
	"user@.service", "user-runtime-dir@.service",
	"systemd-sysusers.service", "systemd-firstboot.service", "systemd-machine-id-commit.service", "systemd-update-done.service",
	"systemd-hwdb-update.service", "systemd-journal-catalog-update.service", "systemd-journal-flush.service", "ldconfig.service",
	"systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-clean.timer", "systemd-tmpfiles-clean.service",
	"systemd-random-seed.service", "systemd-boot-system-token.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
	"systemd-remount-fs.service", "systemd-fsck-root.service", "systemd-modules-load.service", "systemd-sysctl.service", "procps.service",
	"systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "proc-sys-fs-binfmt_misc.mount",
	"systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-pstore.service", "systemd-rfkill.service",
	"systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-networkd.service", "systemd-networkd.socket",
	"systemd-network-generator.service", "systemd-timesyncd.service", "systemd-resolved.service", "systemd-repart.service",
	"systemd-vconsole-setup.service", "systemd-initctl.socket", "modprobe@.service", "kmod-static-nodes.service", "dm-event.socket",
	"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
	"sys-fs-fuse-connections.mount", "fstrim.timer", "systemd-sysext.service", "systemd-fsckd.socket",
}

// generators run one after the other before anything else at each boot and each
// daemon-reload; without fstab, gettys, LVM or EFI none has anything to say. The
// folder's content is masked as it comes from the packages.
const generators = "usr/lib/systemd/system-generators"

// Root returns the folder of a root of Debian 12, building it when the cache has
// none (15 to 30 s, and the network). Everyone who may read the repository may
// read it; nobody may write to it: it is shared by all tests. As the lower layer
// of an overlay mount it makes a container; Image makes a disk of it. /proc,
// /sys, /dev and /run are empty, and so are the mount points /data, /opt/tope,
// /etc/ota, /var/lib/ota and /srv.
func Root(ctx context.Context) (dir string, err error) { return Variant{}.Root(ctx) }

// A Variant is a root other than the usual one.
type Variant struct {
	// Suite is the release of Debian.
	Suite Suite

	// Arch is the processor that it is for.
	Arch Arch

	// Dpkg adds dpkg with what maintainer scripts need, and says in its status
	// what is installed: a system that takes packages.
	Dpkg bool

	// Packages are what it has besides, with all that they depend on.
	Packages []string
}

// forDpkg are packages of a root with Dpkg: itself, and what it and maintainer
// scripts call.
var forDpkg = []string{"dpkg", "perl-base", "diffutils", "init-system-helpers", "libc-bin"}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

// Root is the function Root for v.
func (v Variant) Root(ctx context.Context) (dir string, err error) {
	wanted, unwanted, leftOut := wanted, unwanted, leftOut(v.Arch)
	if v.Dpkg {
		wanted = append(slices.Clone(wanted), forDpkg...)
		unwanted, leftOut = without(unwanted, forDpkg), without(leftOut, []string{perlBase(v.Arch)})
	}
	wanted = append(slices.Clone(wanted), v.Packages...)
	if suites[v.Suite].usrIsMerged {
		wanted = append(wanted, "usr-is-merged")
	}
	recipe := []string{formatOfEntries, v.Suite.String(), v.Arch.String(), passwdLines, groupLines, generators}
	for _, l := range [][]string{wanted, unwanted, folders, mergedLinks, masked, leftOut} {
		recipe = append(recipe, strings.Join(l, " "))
	}
	for _, m := range []map[string]string{links, files} {
		for _, name := range sortedKeys(m) {
			recipe = append(recipe, name, m[name])
		}
	}
	dir, err = Entry(ctx, "root-"+Hash(recipe...), func(ctx context.Context, dir string) (string, error) {
		return buildRoot(ctx, dir, v, wanted, unwanted, leftOut)
	})
	if err != nil {
		return "", fmt.Errorf("cannot build the root of Debian %s: %w", v.Suite, err)
	}
	return filepath.Join(dir, "root"), nil
}

func buildRoot(ctx context.Context, dir string, v Variant, wanted, unwanted, leftOut []string) (string, error) {
	a, unlock, err := newApt(ctx, v.Suite, v.Arch)
	if err != nil {
		return "", err
	}
	defer unlock()
	pkgs, err := a.closure(ctx, wanted...)
	if err != nil {
		return "", err
	}
	pkgs = slices.DeleteFunc(pkgs, func(p pkg) bool { return slices.Contains(unwanted, p.name) })
	debs, err := a.download(ctx, pkgs)
	if err != nil {
		return "", err
	}
	root := filepath.Join(dir, "root")
	for _, l := range mergedLinks {
		if err := mkdirAll(filepath.Join(root, "usr", l)); err != nil {
			return "", err
		}
		if err := os.Symlink("usr/"+l, filepath.Join(root, l)); err != nil {
			return "", err
		}
	}
	for _, deb := range debs {
		if err := unpack(ctx, deb, root, leftOut); err != nil {
			return "", err
		}
	}
	if v.Dpkg {
		if err := writeStatus(ctx, debs, root); err != nil {
			return "", err
		}
	}
	if err := configure(root); err != nil {
		return "", err
	}
	text := list(pkgs)
	if err := os.WriteFile(filepath.Join(dir, "packages.txt"), []byte(text), 0o644); err != nil {
		return "", err
	}
	return Hash(text), nil
}

// writeStatus makes dpkg believe that debs are installed.
func writeStatus(ctx context.Context, debs []string, root string) error {
	var status strings.Builder
	for _, deb := range debs {
		control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", deb).Output()
		if err != nil {
			return fmt.Errorf("dpkg-deb --field %s: %w", filepath.Base(deb), err)
		}
		for line := range strings.Lines(string(control)) {
			status.WriteString(line)
			if strings.HasPrefix(line, "Package: ") {
				status.WriteString("Status: install ok installed\n")
			}
		}
		status.WriteString("\n")
	}
	dir := filepath.Join(root, "var/lib/dpkg")
	for _, name := range []string{"info", "updates", "triggers", "alternatives", "parts"} {
		if err := mkdirAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, "status"), 0o644, strings.NewReader(status.String()))
}

// configure does what maintainer scripts would have done, as far as it matters.
func configure(root string) error {
	in := func(name string) string { return filepath.Join(root, name) }
	for _, name := range folders {
		if err := mkdirAll(in(name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(in(name), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	all := make(map[string]string, len(files)+3)
	for name, text := range files {
		all[name] = text
	}
	for _, f := range []struct{ name, master, more string }{
		{"etc/passwd", "passwd.master", passwdLines},
		{"etc/group", "group.master", groupLines},
	} {
		base, err := os.ReadFile(in("usr/share/base-passwd/" + f.master))
		if err != nil {
			return err
		}
		all[f.name] = strings.ReplaceAll(string(base), ":*:", ":x:") + f.more
	}
	var shadow strings.Builder
	for line := range strings.Lines(all["etc/passwd"]) {
		name, _, _ := strings.Cut(line, ":")
		fmt.Fprintf(&shadow, "%s:*:19000:0:99999:7:::\n", name) // nobody logs in
	}
	all["etc/shadow"] = shadow.String()
	for name, text := range all {
		if err := mkdirAll(filepath.Dir(in(name))); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if name == "etc/shadow" {
			mode = 0o640
		}
		if err := writeFile(in(name), mode, strings.NewReader(text)); err != nil {
			return err
		}
	}
	made := make(map[string]string, len(links)+len(masked))
	for name, to := range links {
		made[name] = to
	}
	for _, unit := range masked {
		made["etc/systemd/system/"+unit] = "/dev/null"
	}
	gens, err := os.ReadDir(in(generators))
	if err != nil {
		return err
	}
	if err := mkdirAll(in("etc/systemd/system-generators")); err != nil {
		return err
	}
	for _, g := range gens {
		made["etc/systemd/system-generators/"+g.Name()] = "/dev/null"
	}
	for _, name := range sortedKeys(made) {
		if err := mkdirAll(filepath.Dir(in(name))); err != nil {
			return err
		}
		if err := os.RemoveAll(in(name)); err != nil {
			return err
		}
		if err := os.Symlink(made[name], in(name)); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
