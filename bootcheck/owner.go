package bootcheck

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many links CheckOwner follows: path_resolution(7).
const maxLinks = 40

// CheckOwner fails unless only root, or the user that runs this program, can change
// what name leads to or put something else in its place: name itself, every
// directory above it and every link on the way. In a sticky directory, such as /tmp,
// only the owner of an entry can replace it. The error is an *Error with ExitRefused
// and the hint, or says why a part of name cannot be looked at.
func CheckOwner(name string) error {
	name, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	at, rest, links := "/", strings.Split(name, "/"), 0
	for len(rest) > 0 {
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		info, err := lstat(next)
		if err != nil {
			return err
		}
		if err := checkEntry(next, info, len(rest) == 0); err != nil {
			return err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			at = next
			continue
		}
		target, err := readlink(next)
		if err != nil {
			return err
		}
		if links++; links > maxLinks {
			return &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return nil
}

// checkEntry is CheckOwner of one entry of a directory.
func checkEntry(name string, info fs.FileInfo, last bool) error {
	st := info.Sys().(*syscall.Stat_t)
	self := int(st.Uid) == os.Geteuid()
	others := fs.FileMode(0o022)
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		others = 0 // its mode means nothing
	case info.IsDir() && info.Mode()&fs.ModeSticky != 0 && !last:
		others = 0
	case self && st.Uid != 0 && int(st.Gid) == os.Getegid():
		others = 0o002 // a user's own group
	}
	if (st.Uid == 0 || self) && info.Mode().Perm()&others == 0 {
		return nil
	}
	return Errorf(ExitRefused, "", "%q can be changed by others than root (owner %d, mode %04o)", name, st.Uid, info.Mode().Perm()).
		WithAdvice("`chown root:root %[1]s && chmod go-w %[1]s`", name)
}
