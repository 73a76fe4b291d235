package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// Options of Unpack and Check.
type Options struct {
	// Progress is told how many bytes of file content are done, of how many,
	// after each frame, but for those that are done while it is called. Calls do
	// not overlap and never go back. nil: nobody wants to know.
	Progress func(doneBytes, total int64)

	// Read is a folder below which files may be read while the bundle is unpacked.
	// nil: none.
	Read *os.File

	// Log gets a line if the kernel offers no second wall around the unpacking, or
	// not all of it. nil: nobody wants to know.
	Log func(line string)
}

// maxWorkers is how many frames are worked on at once, at most: each needs two
// buffers of up to 4 MiB, and the eMMC is the limit before three cores are.
const maxWorkers = 3

// Unpack writes the version in the bundle r to root, an empty directory of the
// caller's. h is r's head and m its manifest, both from Verify. r may still grow
// while Unpack works, if its ReadAt waits for what is not there yet, and gives up
// when ctx ends.
//
// Each frame is hashed before it is decoded and each file before, or for a large
// one while, it is written; a file that is there already is never written to and
// no link is followed. Links are made last, and each must then lead to a place
// inside root, or to none. All of it is done behind a second wall, where the
// kernel has one: see wall.
//
// When it returns without an error all of it, files and directories, is durable
// below root, .ota too: one syncfs at the end, on a descriptor that was opened
// before the first write, so that no write error of the device can be missed.
// root's own name in its parent is the caller's business, and so is to remove
// what an error leaves behind.
//
// A bundle that is not what its manifest says is an *bootcheck.Error with
// ExitDamaged. Errors of r and of the disk are in the error: a full disk is
// found by bootcheck.IsNoSpace.
func Unpack(ctx context.Context, r io.ReaderAt, h *Head, m *bootcheck.Manifest, root *os.Root, opt Options) error {
	disk, err := root.Open(".")
	if err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	defer func() { _ = disk.Close() }()
	if _, err := disk.ReadDir(1); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("the directory is not empty")
		}
		return fmt.Errorf("cannot unpack into %s: %w", root.Name(), err)
	}
	wall := newWall(disk, opt.Read)
	defer wall.close()
	if wall.err != nil && opt.Log != nil {
		opt.Log(fmt.Sprintf("unpacking without a second wall: %v", wall.err))
	}
	if err := wall.run(func() error { return makeDirs(root, h, m) }); err != nil {
		return fmt.Errorf("cannot unpack: %w", err)
	}
	if err := run(ctx, r, h, m, root, wall, opt); err != nil {
		return err
	}
	if err := wall.run(func() error { return finish(root, m) }); err != nil {
		return err
	}
	if err := unix.Syncfs(int(disk.Fd())); err != nil {
		return fmt.Errorf("cannot unpack: the disk did not take it: %w", os.NewSyscallError("syncfs", err))
	}
	return nil
}

// Check does all that Unpack does but for the writing: every frame, every
// member and every file is compared with the manifest.
func Check(ctx context.Context, r io.ReaderAt, h *Head, m *bootcheck.Manifest, opt Options) error {
	wall := newWall(nil, nil)
	defer wall.close()
	return run(ctx, r, h, m, nil, wall, opt)
}

// makeDirs makes all directories, and .ota with what is in it. Directories get
// their modes in finish: until then this program must be able to write to them.
func makeDirs(root *os.Root, h *Head, m *bootcheck.Manifest) error {
	if err := root.Mkdir(bootcheck.ManifestDir, 0o700); err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		bootcheck.ManifestPath:  h.RawManifest,
		bootcheck.SignaturePath: h.Signature,
	} {
		f, err := create(root, name)
		if err != nil {
			return err
		}
		if err := writeAndClose(f, content, 0o644); err != nil {
			return err
		}
	}
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeDir {
			if err := root.Mkdir(e.Path, 0o700); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish makes the links, sees where each leads on this disk, and gives the
// directories their modes, the deepest first.
func finish(root *os.Root, m *bootcheck.Manifest) error {
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeLink {
			if err := root.Symlink(e.Target, e.Path); err != nil {
				return fmt.Errorf("cannot unpack: %w", err)
			}
		}
	}
	// ParseManifest has resolved the links on paper. This is the same by the
	// kernel, in case the two do not agree.
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeLink {
			if _, err := root.Stat(e.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return damaged(bootcheck.CodeInvalidManifest, "link %q -> %q refused: %w", e.Path, e.Target, err)
			}
		}
	}
	for i := len(m.Entries) - 1; i >= 0; i-- {
		if e := &m.Entries[i]; e.Type == bootcheck.TypeDir {
			if err := chmodDir(root, e.Path, e.Mode); err != nil {
				return fmt.Errorf("cannot unpack: %w", err)
			}
		}
	}
	for _, dir := range []string{bootcheck.ManifestDir, "."} {
		if err := chmodDir(root, dir, 0o755); err != nil {
			return fmt.Errorf("cannot unpack: %w", err)
		}
	}
	return nil
}

// chmodDir changes the mode of an open directory: Root.Chmod follows links
// (CVE-2026-32282).
func chmodDir(root *os.Root, dir string, mode bootcheck.Mode) error {
	d, err := root.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Chmod(mode.Perm())
}

func create(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
}

func writeAndClose(f *os.File, content []byte, mode bootcheck.Mode) error {
	_, err := f.Write(content)
	if err == nil {
		err = f.Chmod(mode.Perm())
	}
	// Close reports what a network file system or a quota has kept for it.
	return errors.Join(err, f.Close())
}
