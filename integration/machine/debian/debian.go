// Package debian makes what the test machines run: a Debian root (see Suite) with a real
// systemd, a kernel with its modules, and images of the root with a test's own
// files in it. Nothing is installed on the host and root is not needed: packages
// are chosen by apt in a state folder of its own, fetched by `apt-get download`
// (which checks Debian's signatures) and unpacked; no maintainer script runs.
//
// Everything is cached in CacheDir, because a cold build takes most of a minute:
//
//	apt-<suite>-<processor>/  apt's own state: lists, sources
//	debs/                     the packages as downloaded
//	root-<recipe>-<content>/  root/ is the tree, packages.txt what it is made of
//	kernel-<recipe>-<content>/  vmlinux (or Image), modules/, modules.order, packages.txt
//	tools-<recipe>-<content>/ root/ is what is in packages of tools, see Tools
//	image-<content>/          root.erofs: the root and an Overlay, read-only
//
// <recipe> is the hash of what was asked for (package names, masks, files), and
// <content> of what came (exact versions). An entry whose recipe matches is used
// without asking the network, so that a series of test runs tests one and the
// same Debian; removing the folder gets a newer one. An entry appears whole, by
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
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
)

// Mirrors used unless $OTA_DEBIAN_MIRROR names another for both (a mirror that
// holds debian and debian-security side by side, as "http://mirror.example").
const (
	defaultMirror   = "http://deb.debian.org"
	keyring         = "/usr/share/keyrings/debian-archive-keyring.gpg"
	formatOfEntries = "1" // raise when the code that unpacks changes what it makes
)

// hostTools are the programs that this package starts, with the Debian and
// Ubuntu package that has them.
var hostTools = []struct{ tool, pkg string }{
	{"apt-get", "apt"},
	{"dpkg-deb", "dpkg"},
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

// LookTool finds a program of the host. It also looks in the sbin folders, which
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

// Hash is the start of the SHA-256 of parts, each closed by a zero byte: 64
// bits are plenty to tell a few dozen cache entries apart.
func Hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
