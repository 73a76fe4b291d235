package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// scan lists everything below dir in m's Entries, directories before what is in
// them and names in byte order, without the hashes of the files.
func scan(ctx context.Context, dir string, m *bootcheck.Manifest) error {
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("cannot pack the tree: %w", err)
	}
	if !st.IsDir() {
		return refused("cannot pack %s: it is not a directory", dir)
	}
	// WalkDir does not follow its root if that is a link.
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("cannot pack the tree: %w", err)
	}
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot pack the tree: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if name == root {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if err := bootcheck.CheckPath(rel); err != nil {
			return refused("cannot pack the tree: %w", err)
		}
		if len(m.Entries) == bootcheck.MaxEntries {
			return refused("cannot pack the tree: it has more than %d entries", bootcheck.MaxEntries)
		}
		e, err := entryOf(name, rel, d)
		if err != nil {
			return err
		}
		m.Entries = append(m.Entries, e)
		m.Size += e.Size
		return nil
	})
}

func entryOf(name, rel string, d fs.DirEntry) (bootcheck.Entry, error) {
	e := bootcheck.Entry{Path: rel}
	st, err := d.Info()
	if err != nil {
		return e, fmt.Errorf("cannot pack the tree: %w", err)
	}
	switch st.Mode().Type() {
	case 0:
		e.Type, e.Size = bootcheck.TypeFile, st.Size()
	case fs.ModeDir:
		e.Type = bootcheck.TypeDir
	case fs.ModeSymlink:
		e.Type = bootcheck.TypeLink
		if e.Target, err = os.Readlink(name); err != nil {
			return e, fmt.Errorf("cannot pack the tree: %w", err)
		}
		if err := bootcheck.CheckTarget(e.Target); err != nil {
			return e, refused("cannot pack link %q: %w", rel, err)
		}
		return e, nil
	default:
		return e, refused("cannot pack %q: it is a %s, and bundles hold only files, directories and symbolic links", rel, typeName(st.Mode()))
	}
	if special := st.Mode() & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky); special != 0 {
		return e, refused("cannot pack %q: it has mode %v, and bundles hold no setuid, setgid or sticky", rel, st.Mode())
	}
	e.Mode = bootcheck.Mode(st.Mode().Perm())
	return e, checkXattrs(name, rel)
}

func typeName(m fs.FileMode) string {
	switch {
	case m&fs.ModeNamedPipe != 0:
		return "FIFO"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// lostXattrs change who may do what, and a bundle cannot hold them.
var lostXattrs = []string{"security.capability", "system.posix_acl_access", "system.posix_acl_default"}

func checkXattrs(name, rel string) error {
	size, err := unix.Llistxattr(name, nil)
	if err != nil || size == 0 {
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("cannot pack %q: cannot list its attributes: %w", rel, err)
		}
		return nil
	}
	buf := make([]byte, size)
	if size, err = unix.Llistxattr(name, buf); err != nil {
		return fmt.Errorf("cannot pack %q: cannot list its attributes: %w", rel, err)
	}
	for attr := range splitNUL(buf[:size]) {
		if slices.Contains(lostXattrs, attr) {
			return refused("cannot pack %q: it has %s, which bundles do not hold", rel, attr)
		}
	}
	return nil
}
