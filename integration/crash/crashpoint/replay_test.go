package crashpoint_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	. "github.com/tope-ota/ota/integration/crash/crashpoint"
)

// replay makes all calls that succeeded in another folder: by names, and where the
// file had none, through a descriptor of the file that was made.
func replay(t *testing.T, calls []Call, from, to string) {
	t.Helper()
	files := make(map[ID]*os.File) // those that were made
	t.Cleanup(func() {
		for _, f := range files {
			_ = f.Close()
		}
	})
	for i := range calls {
		c := &calls[i]
		if c.Errno != 0 {
			continue
		}
		at := func(p Place) string {
			if p.Path == "" {
				return to // where a file without a name is made
			}
			return strings.Replace(p.Path, from, to, 1)
		}
		if err := again(c, files, at); err != nil {
			t.Fatalf("cannot replay call %d (%s): %v", c.Point, sentence(from, c), err)
		}
	}
}

func again(c *Call, files map[ID]*os.File, at func(Place) string) error {
	name := at(c.File)
	file := func() *os.File { return files[c.File.ID] }
	path := func() string { return fmt.Sprintf("/proc/self/fd/%d", file().Fd()) }
	switch c.Name {
	case "open":
		if !c.File.Made && c.Flags&unix.O_TRUNC != 0 {
			return file().Truncate(0)
		}
		if !c.File.Made {
			return nil
		}
		flags := os.O_RDWR | os.O_CREATE | os.O_EXCL
		if c.File.Path == "" {
			flags = os.O_RDWR | unix.O_TMPFILE
		}
		f, err := os.OpenFile(name, flags, 0o600)
		if err != nil {
			return err
		}
		files[c.File.ID] = f
		return f.Chmod(c.Mode)
	case "write", "copy", "clone":
		_, err := file().WriteAt(c.Data, c.Offset)
		return err
	case "truncate":
		return file().Truncate(c.Offset)
	case "fallocate":
		return unix.Fallocate(int(file().Fd()), uint32(c.Flags), c.Offset, c.Length)
	case "mkdir":
		delete(files, c.File.ID) // a number that a file had
		if err := os.Mkdir(name, 0o700); err != nil {
			return err
		}
		return os.Chmod(name, c.Mode)
	case "symlink":
		delete(files, c.File.ID)
		return os.Symlink(c.Target, name)
	case "link":
		if files[c.Source.ID] == nil { // of a symlink
			return os.Link(at(c.Source), at(c.To))
		}
		return unix.Linkat(unix.AT_FDCWD, path(), unix.AT_FDCWD, at(c.To), unix.AT_SYMLINK_FOLLOW)
	case "rename":
		return unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, at(c.To), uint(c.Flags))
	case "unlink":
		return unix.Unlinkat(unix.AT_FDCWD, name, c.Flags)
	case "chmod":
		if file() == nil { // a folder
			return os.Chmod(name, c.Mode)
		}
		return file().Chmod(c.Mode)
	case "chown":
		return os.Lchown(name, c.Owner, c.Group)
	case "utimes", "setxattr", "fsync", "syncfs", "syncrange":
		return nil // trees are compared without times
	}
	return fmt.Errorf("unknown call")
}

// tree is what is in dir, a line a file, sorted. Files with several names have a
// number that says which are one.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	numbers := make(map[uint64]int)
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line := fmt.Sprint(rel, " ", info.Mode())
		st := info.Sys().(*syscall.Stat_t)
		line += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if numbers[st.Ino] == 0 {
				numbers[st.Ino] = len(numbers) + 1
			}
			line += fmt.Sprintf(" file %d of %d names: %q", numbers[st.Ino], st.Nlink, data)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	sort.Strings(all)
	return all
}
