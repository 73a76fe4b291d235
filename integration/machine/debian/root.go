package debian

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/try"
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

// The directories on which the data disk is bound, and others that must exist because
// the root is read-only.
var directories = []string{
	"data", "opt/tope", "etc/ota", "var/lib/ota", "srv",
	"dev", "proc", "sys", "run", "root", "mnt", "home", "var/log", "etc/systemd/system",
}

// links make the tree look installed: what maintainer scripts would have made.
var links = map[string]string{
	"etc/mtab":                          "../proc/self/mounts",
	"var/run":                           "../run",
	"var/lock":                          "../run/lock",
	"usr/bin/awk":                       "mawk",
	"usr/bin/sh":                        "dash",
	"etc/systemd/system/default.target": "/usr/lib/systemd/system/multi-user.target",
}

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
// directory's content is masked as it comes from the packages.
const generators = "usr/lib/systemd/system-generators"

// A Variant is a root; the zero value is the usual one, of Debian 12.
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

// leftOut are directories that no test reads: without them the image is half as big.
func leftOut(a Arch) (all []string) {
	for _, dir := range []string{
		"share/doc", "share/man", "share/info", "share/locale", "share/i18n", "share/lintian", "share/bug", "share/bash-completion",
		"share/zsh", "share/menu", "lib/" + a.Facts().Triplet + "/gconv", "lib/udev/hwdb.d",
		"lib/systemd/catalog", "share/polkit-1", "share/initramfs-tools",
	} {
		all = append(all, "./usr/"+dir)
		if strings.HasPrefix(dir, "lib/") { // in packages that know of no merged /usr
			all = append(all, "./"+dir)
		}
	}
	return append(all, "./var/lib/dpkg", "./var/cache")
}

// Root returns the directory of the root, building it when the cache has
// none (15 to 30 s, and the network). Every user who may read the repository may
// read it; no test may write to it: it is shared by all tests. As the lower layer
// of an overlay mount it makes a container; Image makes a disk of it. /proc,
// /sys, /dev and /run are empty, and so are the mount points /data, /opt/tope,
// /etc/ota, /var/lib/ota and /srv.
func (v Variant) Root(ctx context.Context) (dir string, err error) {
	wanted, unwanted := slices.Concat(wanted, v.Packages), unwanted
	if v.Dpkg {
		wanted, unwanted = append(wanted, forDpkg...), without(unwanted, forDpkg)
	}
	if suites[v.Suite].usrIsMerged {
		wanted = append(wanted, "usr-is-merged")
	}
	recipe := fmt.Sprint(formatOfEntries, v, wanted, unwanted, directories, links, files, passwdLines, groupLines, masked, leftOut(v.Arch))
	dir, err = Entry(ctx, "root-"+Hash(recipe), func(ctx context.Context, dir string) (err error) {
		defer try.End(&err)
		root, status := filepath.Join(dir, "root"), ""
		if v.Dpkg {
			status = filepath.Join(dir, "status")
		}
		pkgs := try.Get(fetch(ctx, v, root, wanted, leftOut(v.Arch), status, func(all []string) []string { return named(all, false, unwanted...) }))
		try.Check(configure(root, status))
		return os.WriteFile(filepath.Join(dir, "packages.txt"), []byte(strings.Join(pkgs, "\n")+"\n"), 0o644)
	})
	return filepath.Join(dir, "root"), err
}

// configure does what maintainer scripts would have done, as far as it matters. status
// is what dpkg trusts to be installed; empty: there is no dpkg.
func configure(root, status string) (err error) {
	defer try.End(&err)
	all := Overlay{"/tmp": {Mode: fs.ModeDir | fs.ModeSticky | 0o777}, "/var/tmp": {Mode: fs.ModeDir | fs.ModeSticky | 0o777}}
	for _, name := range directories {
		all["/"+name] = File{Mode: fs.ModeDir | 0o755}
	}
	for name, text := range files {
		all["/"+name] = File{Data: []byte(text)}
	}
	for name, to := range links {
		all["/"+name] = File{Link: to}
	}
	for _, unit := range masked {
		all["/etc/systemd/system/"+unit] = File{Link: "/dev/null"}
	}
	gens := try.Get(os.ReadDir(filepath.Join(root, generators)))
	for _, g := range gens {
		all["/etc/systemd/system-generators/"+g.Name()] = File{Link: "/dev/null"}
	}
	for name, more := range map[string]string{"passwd": passwdLines, "group": groupLines} {
		base := try.Get(os.ReadFile(filepath.Join(root, "usr/share/base-passwd", name+".master")))
		all["/etc/"+name] = File{Data: []byte(strings.ReplaceAll(string(base), ":*:", ":x:") + more)}
	}
	var shadow strings.Builder
	for line := range strings.Lines(string(all["/etc/passwd"].Data)) {
		name, _, _ := strings.Cut(line, ":")
		fmt.Fprintf(&shadow, "%s:*:19000:0:99999:7:::\n", name) // no login
	}
	all["/etc/shadow"] = File{Mode: 0o640, Data: []byte(shadow.String())}
	if status != "" {
		installed := try.Get(os.ReadFile(status))
		all["/var/lib/dpkg/status"] = File{Data: installed}
		for _, name := range []string{"info", "updates", "triggers", "alternatives", "parts"} {
			all["/var/lib/dpkg/"+name] = File{Mode: fs.ModeDir | 0o755}
		}
	}
	return all.install(root)
}
