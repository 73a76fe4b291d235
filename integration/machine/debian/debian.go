// Package debian makes what the test machines run: a Debian root (see Suite) with a real
// systemd, a kernel with its modules, and images of the root with a test's own
// files in it. Nothing is installed on the host and root is not needed: packages
// are chosen by apt in a state directory of its own, fetched by `apt-get download`
// (which checks Debian's signatures) and unpacked; no maintainer script runs.
//
// Everything is cached in .cache/integration, because a cold build takes most of a minute:
//
//	root-<recipe>/    root/ is the tree, packages.txt what it is made of
//	kernel-<recipe>/  kernel, modules/, modules.order
//	tools-<recipe>/   root/ is what is in packages of tools, see Tools
//	image-<recipe>/   root.erofs: the root and an Overlay, read-only
//
// <recipe> is the hash of what was asked for (package names, masks, files). An entry
// is used without asking the network, so that a series of test runs tests one and the
// same Debian; removing the directory gets a newer one. An entry appears whole, by
// rename, under a lock that test packages running in parallel share.
//
// The tree differs from an installed Debian in these ways:
//   - every file belongs to root:root (setgid and setuid bits are kept);
//   - there is no udev, so no unit may wait for a .device unit;
//   - logind, gettys, tmpfiles, sysusers, the generators and what only an
//     interactive machine needs are masked (see masked in root.go): boot takes
//     half the time;
//   - documentation and translations are left out;
//   - the journal is kept in memory, /etc/machine-id is fixed, the zone is UTC.
package debian

import (
	"os"
	"os/exec"
	"slices"

	"golang.org/x/sys/unix"
)

// Mirrors used unless $OTA_DEBIAN_MIRROR names another for both (a mirror that
// holds debian and debian-security side by side, as "http://mirror.example").
const (
	defaultMirror   = "http://deb.debian.org"
	keyring         = "/usr/share/keyrings/debian-archive-keyring.gpg"
	formatOfEntries = "2" // raise when the code that unpacks changes what it makes
)

// hostTools are the programs that this package starts, with the Debian and
// Ubuntu package that has them.
var hostTools = []struct{ tool, pkg string }{
	{"apt-get", "apt"},
	{"dpkg-deb", "dpkg"},
	{"depmod", "kmod"},
	{"xz", "xz-utils"},
	{"mkfs.erofs", "erofs-utils"},
	{"mke2fs", "e2fsprogs"},
	{"go", "golang-go"},
}

// Missing lists the host's packages that have to be installed before Root,
// GetKernel and Image can work; empty when nothing is missing. A test skips
// loudly with this list, or fails where CI=true; see also vm.Missing.
func Missing() []string {
	var missing []string
	for _, h := range hostTools {
		if _, err := LookTool(h.tool); err != nil {
			missing = append(missing, h.pkg)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		missing = append(missing, "debian-archive-keyring")
	}
	return missing
}

// MissingRights names what this process lacks for what root alone may do; empty: nothing.
func MissingRights(what string) []string {
	if os.Geteuid() != 0 {
		return []string{"root (for " + what + ")"}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&head, &data[0]) != nil || data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return []string{"CAP_SYS_ADMIN (for " + what + "; an unprivileged container's root has it not)"}
	}
	return nil
}

// MissingTools are those of the programs that the host does not have.
func MissingTools(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		_, err := LookTool(name)
		return err == nil
	})
}

// LookTool finds a program of the host. It also looks in the sbin directories, which
// are not in the PATH of a Debian user who is not root.
func LookTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/sbin/", "/usr/sbin/", "/sbin/"} {
		if p, err := exec.LookPath(dir + name); err == nil {
			return p, nil
		}
	}
	return "", err
}
