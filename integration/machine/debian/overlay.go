package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// A File is one entry that an Overlay adds to the root.
type File struct {
	Mode fs.FileMode // permissions; 0 means 0644. With fs.ModeDir an (empty) folder
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

// MountPoints are the folders that are mounted over before systemd starts.
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
	for _, name := range sortedKeys(o) {
		sum := sha256.Sum256(o[name].Data)
		parts = append(parts, name, o[name].Mode.String(), o[name].Link, hex.EncodeToString(sum[:]))
	}
	return Hash(parts...)
}

// Install writes the files into the tree at dir, for a container whose upper
// layer that is. Missing folders are made, 0755.
func (o Overlay) Install(dir string) error {
	if err := o.check(); err != nil {
		return err
	}
	for _, name := range sortedKeys(o) {
		if err := o[name].install(filepath.Join(dir, merged(name[1:]))); err != nil {
			return fmt.Errorf("overlay: cannot install %q: %w", name, err)
		}
	}
	return nil
}

func (f File) install(dst string) error {
	if err := mkdirAll(filepath.Dir(dst)); err != nil {
		return err
	}
	mode := f.Mode
	switch {
	case f.Link != "":
		if err := os.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(f.Link, dst)
	case mode.IsDir():
		if err := mkdirAll(dst); err != nil {
			return err
		}
		return os.Chmod(dst, mode)
	case mode == 0:
		mode = 0o644
	}
	return writeFile(dst, mode, bytes.NewReader(f.Data))
}

// Image returns a read-only erofs image of the root with o in it, building it
// when the cache has none (1 to 2 s). It is shared: never write to it.
func (v Variant) Image(ctx context.Context, o Overlay) (file string, err error) {
	if err := o.check(); err != nil {
		return "", err
	}
	root, err := v.Root(ctx)
	if err != nil {
		return "", err
	}
	// The root's entry is named for its recipe and content.
	name := "image-" + Hash(formatOfEntries, filepath.Base(filepath.Dir(root)), o.Hash())
	dir, err := Entry(ctx, name, func(ctx context.Context, dir string) (string, error) {
		tree := filepath.Join(dir, "tree")
		if err := linkTree(root, tree); err != nil {
			return "", err
		}
		if err := o.Install(tree); err != nil {
			return "", err
		}
		if err := mkErofs(ctx, filepath.Join(dir, "root.erofs"), tree); err != nil {
			return "", err
		}
		return "", removeTree(tree)
	})
	if err != nil {
		return "", fmt.Errorf("cannot make the root image: %w", err)
	}
	return filepath.Join(dir, "root.erofs"), nil
}

// mkErofs makes the same image of the same tree each time: fixed times and UUID.
// It is not compressed: an emulated CPU would pay for it at each read.
func mkErofs(ctx context.Context, file, tree string) error {
	tool, err := LookTool("mkfs.erofs")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, "--quiet", "-T1700000000", "-x-1", "--all-root",
		"-U6f746100-0000-4000-8000-000000000001", file, tree)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.erofs: %w: %s", err, out)
	}
	return nil
}

// linkTree makes a copy of the tree at from whose regular files are hard links:
// files that are replaced in the copy (never edited) leave the original alone.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			st, err := d.Info()
			if err != nil {
				return err
			}
			if err := os.Mkdir(dst, 0o755); err != nil {
				return err
			}
			return os.Chmod(dst, st.Mode())
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(target, dst)
		}
		return os.Link(name, dst)
	})
}

// Program builds the command in the package of this repository ("./guardian/cmd/
// ota-guardian", or an import path) for the guest: static, without symbols, as
// `make build` does. ldflags are added to "-s -w": "-X main.version=1.2.0". Go's
// own build cache makes a second call cheap (0.3 s).
func Program(ctx context.Context, pkg string, ldflags ...string) ([]byte, error) {
	return ProgramFor(ctx, AMD64, pkg, ldflags...)
}

// ProgramFor is Program for a guest that is not the usual one.
func ProgramFor(ctx context.Context, a Arch, pkg string, ldflags ...string) ([]byte, error) {
	repo, err := RepoDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ota-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	out := filepath.Join(dir, "program")
	flags := strings.Join(append([]string{"-s", "-w"}, ldflags...), " ")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", out, pkg)
	cmd.Dir = repo
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+a.String())
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("go build %s: %w\n%s", pkg, err, msg)
	}
	return os.ReadFile(out)
}
