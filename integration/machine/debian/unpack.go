package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// members calls each for every member of a package's file tree. Names are clean
// and relative ("usr/bin/env"). The packages come from Debian, checked by apt:
// names are not treated as hostile, but each that would leave the tree is refused.
func members(ctx context.Context, deb string, each func(name string, h *tar.Header, r io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	tr := tar.NewReader(out)
	walk := func() error {
		for {
			h, err := tr.Next()
			if err == io.EOF {
				_, err := io.Copy(io.Discard, out) // or dpkg-deb dies of a closed pipe
				return err
			}
			if err != nil {
				return err
			}
			name := path.Clean(h.Name)
			if name == "." {
				continue
			}
			if !fs.ValidPath(name) {
				return fmt.Errorf("member %q leaves the tree", h.Name)
			}
			if err := each(name, h, tr); err != nil {
				return err
			}
		}
	}
	walkErr := walk()
	if walkErr != nil {
		cmd.Process.Kill()
	}
	waitErr := cmd.Wait()
	if walkErr != nil {
		return fmt.Errorf("cannot unpack %q: %w", filepath.Base(deb), walkErr)
	}
	if waitErr != nil {
		return fmt.Errorf("dpkg-deb --fsys-tarfile %q: %w: %s", filepath.Base(deb), waitErr, stderr.String())
	}
	return nil
}

// merged is name in a system where /bin, /sbin and /lib* are links into /usr, as
// they are in every installed Debian 12. Packages still hold the old paths.
func merged(name string) string {
	first, _, _ := strings.Cut(name, "/")
	switch first {
	case "bin", "sbin", "lib", "lib32", "lib64", "libx32":
		return "usr/" + name
	}
	return name
}

// leftOut are folders that no test reads: without them the image is half as big.
func leftOut(a Arch) []string {
	return []string{
		"usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/i18n/",
		"usr/share/lintian/", "usr/share/bug/", "usr/share/bash-completion/", "usr/share/zsh/", "usr/share/menu/",
		libraries(a) + "gconv/", perlBase(a), "usr/lib/udev/hwdb.d/",
		"usr/lib/systemd/catalog/", "usr/share/polkit-1/", "usr/share/initramfs-tools/", "var/lib/dpkg/", "var/cache/",
	}
}

func libraries(a Arch) string { return "usr/lib/" + a.Facts().Triplet + "/" }

// perlBase is Perl as maintainer scripts use it.
func perlBase(a Arch) string { return libraries(a) + "perl-base/" }

func isLeftOut(name string, leftOut []string) bool {
	for _, p := range leftOut {
		if strings.HasPrefix(name+"/", p) {
			return true
		}
	}
	return false
}

// unpack adds a package's files to the tree at root, but for those in the folders
// leftOut. Owners are not set.
func unpack(ctx context.Context, deb, root string, leftOut []string) error {
	return members(ctx, deb, func(name string, h *tar.Header, r io.Reader) error {
		name = merged(name)
		if isLeftOut(name, leftOut) {
			return nil
		}
		dst := filepath.Join(root, name)
		if err := mkdirAll(filepath.Dir(dst)); err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if err := mkdirAll(dst); err != nil {
				return err
			}
			if st, err := os.Lstat(dst); err != nil || !st.IsDir() {
				return err // a link made by the root (bin, lib): it stands for the folder
			}
			return os.Chmod(dst, h.FileInfo().Mode())
		case tar.TypeReg:
			return writeFile(dst, h.FileInfo().Mode(), r)
		case tar.TypeSymlink:
			if slices.Contains(mergedLinks, path.Clean(h.Name)) {
				return nil // base-files of Debian 13 brings those that the root has already
			}
			if err := os.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return os.Symlink(h.Linkname, dst)
		case tar.TypeLink:
			return os.Link(filepath.Join(root, merged(path.Clean(h.Linkname))), dst)
		}
		return fmt.Errorf("member %q has type %q, which a package should not hold", h.Name, h.Typeflag)
	})
}

// writeFile makes a new file at dst, in place of whatever was there, with exactly
// mode (setuid included), not mode less the umask.
func writeFile(dst string, mode fs.FileMode, r io.Reader) error {
	if err := os.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Chmod(mode)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// mkdirAll makes dir and the folders above it, 0755 whatever the umask is: the
// guest's services are other users. A link to a folder stands for the folder.
func mkdirAll(dir string) error {
	err := os.Mkdir(dir, 0o755)
	switch {
	case err == nil:
		return os.Chmod(dir, 0o755)
	case errors.Is(err, fs.ErrNotExist):
		if err := mkdirAll(filepath.Dir(dir)); err != nil {
			return err
		}
		return mkdirAll(dir)
	case errors.Is(err, fs.ErrExist):
		if st, serr := os.Stat(dir); serr == nil && st.IsDir() {
			return nil
		}
	}
	return err
}
