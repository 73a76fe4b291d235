package debian

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tope-ota/ota/integration/try"
)

// A File is one entry that an Overlay adds to the root.
type File struct {
	Mode fs.FileMode // permissions; 0 means 0644. With fs.ModeDir an (empty) directory
	Data []byte      // content of a regular file
	Link string      // not empty: a symlink to this, and Mode and Data mean nothing
}

// An Overlay is what a test adds to the root: guest path, absolute and clean, to
// File. It may replace the root's files, but not put anything below one of the
// mount points, since that would be hidden in the guest.
type Overlay map[string]File

// Unit is the file of a systemd unit that is in /etc/systemd/system.
func Unit(text string) File { return File{Data: []byte(text)} }

// Add puts more over o: what both have is taken from more.
func (o Overlay) Add(more Overlay) {
	for name, f := range more {
		o[name] = f
	}
}

// Enable links the unit name into target's wants, as `systemctl enable` would.
func (o Overlay) Enable(name, target string) {
	o["/etc/systemd/system/"+target+".wants/"+name] = File{Link: "../" + name}
}

// MountPoints are the directories that are mounted over before systemd starts.
var MountPoints = []string{"/data", "/opt/tope", "/etc/ota", "/var/lib/ota", "/dev", "/proc", "/sys", "/run", "/tmp", "/var"}

func (o Overlay) check() error {
	for name := range o {
		if !path.IsAbs(name) || path.Clean(name) != name || name == "/" {
			return fmt.Errorf("overlay: %q is not an absolute, clean path", name)
		}
		for _, m := range MountPoints {
			if name == m || strings.HasPrefix(name, m+"/") {
				return fmt.Errorf("overlay: %q would be hidden below the mount point %s", name, m)
			}
		}
	}
	return nil
}

// Hash names the content: equal overlays have equal hashes.
func (o Overlay) Hash() string {
	parts := make([]string, 0, 4*len(o))
	for _, name := range slices.Sorted(maps.Keys(o)) {
		sum := sha256.Sum256(o[name].Data)
		parts = append(parts, name, o[name].Mode.String(), o[name].Link, hex.EncodeToString(sum[:]))
	}
	return Hash(parts...)
}

// Install writes the files into the tree at dir, for a container whose upper
// layer that is. Missing directories are made, 0755.
func (o Overlay) Install(dir string) (err error) {
	defer try.End(&err)
	try.Check(o.check())
	return o.install(dir)
}

func (o Overlay) install(dir string) error {
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if err := o[name].install(filepath.Join(dir, merged(name[1:]))); err != nil {
			return fmt.Errorf("overlay: cannot install %q: %w", name, err)
		}
	}
	return nil
}

// merged is name in a system where /bin, /sbin and /lib* are links into /usr.
func merged(name string) string {
	switch first, _, _ := strings.Cut(name, "/"); first {
	case "bin", "sbin", "lib", "lib64":
		return "usr/" + name
	}
	return name
}

func (f File) install(dst string) (err error) {
	defer try.End(&err)
	switch {
	case f.Link != "":
		try.Check(errors.Join(mkdirAll(filepath.Dir(dst)), os.RemoveAll(dst)))
		return os.Symlink(f.Link, dst)
	case f.Mode.IsDir():
		try.Check(mkdirAll(dst))
		return os.Chmod(dst, f.Mode)
	}
	return writeFile(dst, cmp.Or(f.Mode, 0o644), f.Data)
}

// writeFile makes a new file at dst, in place of what was there, with exactly
// mode (setuid included), not mode less the umask.
func writeFile(dst string, mode fs.FileMode, data []byte) (err error) {
	defer try.End(&err)
	try.Check(errors.Join(mkdirAll(filepath.Dir(dst)), os.RemoveAll(dst)))
	return errors.Join(os.WriteFile(dst, data, 0o600), os.Chmod(dst, mode))
}

// mkdirAll makes dir and the directories above it, 0755 under any umask: the
// guest's services are other users. A link to a directory stands for the directory.
func mkdirAll(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	if err := mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	return errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755))
}

// Image returns a read-only erofs image of the root with o in it, building it
// when the cache has none (1 to 2 s). It is shared: never write to it. It is not
// compressed: an emulated CPU would pay for it at each read.
func (v Variant) Image(ctx context.Context, o Overlay) (file string, err error) {
	defer try.End(&err)
	try.Check(o.check())
	root := try.Get(v.Root(ctx))
	name := "image-" + Hash(formatOfEntries, filepath.Base(filepath.Dir(root)), o.Hash())
	dir, err := Entry(ctx, name, func(ctx context.Context, dir string) (err error) {
		defer try.End(&err)
		// Hard links: a file is replaced in the copy, and never edited.
		tree := filepath.Join(dir, "tree")
		try.Get(output(ctx, "", nil, "cp", "-al", root, tree))
		try.Check(o.install(tree))
		// The same image of the same tree each time: fixed times and UUID.
		try.Get(output(ctx, "", nil, "mkfs.erofs", "--quiet", "-T1700000000", "-x-1", "--all-root",
			"-U6f746100-0000-4000-8000-000000000001", filepath.Join(dir, "root.erofs"), tree))
		return os.RemoveAll(tree)
	})
	return filepath.Join(dir, "root.erofs"), err
}

// Program builds the command in the package of this repository ("./guardian/cmd/
// ota-guardian", or an import path) for the guest: static, without symbols, as
// `make build` does. Go's own build cache makes a second call cheap (0.3 s).
func Program(ctx context.Context, pkg string) ([]byte, error) { return ProgramFor(ctx, AMD64, pkg) }

// ProgramFor is Program for a guest that is not the usual one.
func ProgramFor(ctx context.Context, a Arch, pkg string) (_ []byte, err error) {
	defer try.End(&err)
	repo := try.Get(RepoDir())
	dir := try.Get(os.MkdirTemp("", "ota-build-"))
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "program")
	try.Get(output(ctx, repo, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + a.String()},
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg))
	return os.ReadFile(out)
}
