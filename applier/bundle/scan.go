package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// ignoreFile, at the top of a tree, names what is not packed, as Contents.Exclude does:
// a pattern a line. It is not packed itself.
const ignoreFile = ".otaignore"

// A scanner lists a tree in m, and notes what is wrong with it.
type scanner struct {
	c      *Contents
	root   string
	ignore []string
	m      *bootcheck.Manifest
	found  findings
	inodes map[[2]uint64]string // files with several names: the first, by device and inode
}

// scan lists everything below c.Dir in m's Entries, directories before what is in
// them and names in byte order, without the hashes of the files.
func scan(ctx context.Context, c *Contents, m *bootcheck.Manifest) (findings, error) {
	st, err := os.Stat(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot pack the tree: %w", err)
	}
	if !st.IsDir() {
		return nil, refused("cannot pack %s: it is not a directory", c.Dir)
	}
	s := &scanner{c: c, m: m, found: make(findings), inodes: make(map[[2]uint64]string)}
	// WalkDir does not follow its root if that is a link.
	if s.root, err = filepath.EvalSymlinks(c.Dir); err == nil {
		s.ignore, err = readIgnore(filepath.Join(s.root, ignoreFile))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot pack the tree: %w", err)
	}
	s.ignore = append(s.ignore, c.Exclude...)
	err = filepath.WalkDir(s.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot pack the tree: %w", err)
		}
		if err := ctx.Err(); err != nil || name == s.root {
			return err
		}
		return s.entry(name, d)
	})
	if err == nil && c.SBOM != nil {
		err = s.sbom()
	}
	if err != nil {
		return nil, err
	}
	return s.found, m.CheckLinks(func(e *bootcheck.Entry, why error) error {
		e.External = true
		if !match(c.AllowLink, e.Target) {
			s.found.add(badLink, e.Target, fmt.Sprintf("%s -> %s %v", e.Path, e.Target, why))
		}
		return nil
	})
}

// sbom adds the file that is c.SBOM, which is not in the tree.
func (s *scanner) sbom() error {
	if len(s.c.SBOM) > bootcheck.MaxSBOM {
		return refused("cannot pack the SBOM: it is larger than %s", bootcheck.Size(bootcheck.MaxSBOM))
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(s.c.SBOM, &object); err != nil || object == nil {
		return refused("cannot pack the SBOM: it is not a JSON object").WithAdvice("CycloneDX and SPDX have a form in JSON")
	}
	if object["bomFormat"] == nil && object["spdxVersion"] == nil && object["@context"] == nil {
		s.found.add(oddBill, bootcheck.SBOMPath, bootcheck.SBOMPath)
	}
	return s.add(bootcheck.Entry{Path: bootcheck.SBOMPath, Type: bootcheck.TypeFile, Mode: 0o644, Size: int64(len(s.c.SBOM))})
}

// add lists e in the manifest.
func (s *scanner) add(e bootcheck.Entry) error {
	if len(s.m.Entries) == bootcheck.MaxEntries {
		return refused("cannot pack the tree: it has more than %d entries", bootcheck.MaxEntries)
	}
	s.m.Entries = append(s.m.Entries, e)
	s.m.Size += e.Size
	return nil
}

// readIgnore reads an ignoreFile, which need not be there.
func readIgnore(name string) ([]string, error) {
	text, err := readSmall(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && len(text) > maxKey {
		err = refused("%s is longer than %s", ignoreFile, bootcheck.Size(maxKey))
	}
	if err != nil {
		return nil, err
	}
	patterns := []string{"/" + ignoreFile}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if err := CheckPattern(line); err != nil {
			return nil, refused("%s: %w", ignoreFile, err)
		}
		patterns = append(patterns, line)
	}
	return patterns, nil
}

// openNoFollow opens a file of the tree; a FIFO is not waited for.
func openNoFollow(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// readSmall reads at most the first maxKey+1 bytes of a file of the tree: its caller sees that it is
// longer than maxKey.
func readSmall(name string) ([]byte, error) {
	f, err := openNoFollow(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKey+1))
}

// CheckPattern says what is wrong with a pattern of Contents.
func CheckPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
		return fmt.Errorf("%q is no pattern of path.Match: *, ?, [a-z], and \\ before one of these", pattern)
	}
	return nil
}

// match reports whether one of patterns, of path.Match, is name; one without a slash, is
// the last component of name.
func match(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		is := name
		if !strings.Contains(p, "/") {
			is = path.Base(name)
		}
		ok, _ := path.Match(p, is)
		return ok
	})
}

// ignored reports whether rel is not packed. A slash at the beginning or the end of a
// pattern is as in a .gitignore: from the top, and a directory.
func (s *scanner) ignored(rel string, dir bool) bool {
	return slices.ContainsFunc(s.ignore, func(p string) bool {
		short, slash := strings.CutSuffix(p, "/")
		if top, ok := strings.CutPrefix(short, "/"); ok {
			good, _ := path.Match(top, rel)
			return good && (dir || !slash)
		}
		return match([]string{short}, rel) && (dir || !slash)
	})
}

// entry adds the entry that is at name to the manifest, or says why not.
func (s *scanner) entry(name string, d fs.DirEntry) error {
	rel, err := filepath.Rel(s.root, name)
	if err != nil {
		return err
	}
	if s.ignored(rel, d.IsDir()) {
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	if rel == bootcheck.SBOMPath && s.c.SBOM != nil {
		s.found.add(twoBills, rel, rel)
		return nil
	}
	info, err := d.Info()
	if err != nil {
		return fmt.Errorf("cannot pack the tree: %w", err)
	}
	st := info.Sys().(*syscall.Stat_t)
	e := bootcheck.Entry{Path: rel}
	err = bootcheck.CheckPath(rel)
	switch info.Mode().Type() {
	case 0:
		e.Type, e.Size = bootcheck.TypeFile, info.Size()
	case fs.ModeDir:
		e.Type = bootcheck.TypeDir
	case fs.ModeSymlink:
		e.Type = bootcheck.TypeLink
		target, readErr := os.Readlink(name)
		if readErr != nil {
			return fmt.Errorf("cannot pack the tree: %w", readErr)
		}
		e.Target = target
		if wrong := bootcheck.CheckTarget(target); err == nil && wrong != nil {
			err = fmt.Errorf("link %q: %w", rel, wrong)
		}
	default:
		s.found.add(notPacked, rel, bootcheck.OneLine(rel))
		return nil
	}
	if err != nil {
		s.found.add(badName, rel, err.Error())
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	if e.Type != bootcheck.TypeLink {
		e.Mode = bootcheck.Mode(info.Mode().Perm())
		if err := s.look(name, &e, st); err != nil {
			return fmt.Errorf("cannot pack %q: %w", rel, err)
		}
	}
	if name := path.Base(rel); name == ".git" || name == ".env" {
		s.found.add(private, rel, rel)
	}
	return s.add(e)
}

// look notes what is wrong with the file or directory e, at name.
func (s *scanner) look(name string, e *bootcheck.Entry, st *syscall.Stat_t) error {
	mode, allowed := fmt.Sprintf("%s (%04o)", e.Path, st.Mode&0o7777), match(s.c.Allow, e.Path)
	// refuse notes what is packed only where it is allowed; then it loses something, or not.
	refuse := func(k *kind, entry string, loses bool) {
		switch {
		case !allowed:
			s.found.add(k, e.Path, entry)
		case loses:
			s.found.add(lost, e.Path, entry)
		}
	}
	if st.Mode&0o7000 != 0 {
		refuse(special, mode, true)
	}
	if st.Mode&0o002 != 0 {
		refuse(writable, mode, false)
	}
	user, group, other := st.Mode>>6&5, st.Mode>>3&5, st.Mode&5
	readable := user&4 != 0 && (e.Type == bootcheck.TypeFile || user == 5)
	if !readable {
		s.found.add(unreadable, e.Path, mode)
	} else if st.Uid != 0 && user&^other != 0 || st.Gid != 0 && group&^other != 0 {
		s.found.add(owners, e.Path, fmt.Sprintf("%s (%04o of %d:%d)", e.Path, st.Mode&0o7777, st.Uid, st.Gid))
	}
	names, err := xattrs(name)
	if err != nil {
		return fmt.Errorf("cannot list its attributes: %w", err)
	}
	for _, attr := range names {
		entry := fmt.Sprintf("%s (%s)", e.Path, bootcheck.OneLine(attr))
		switch attr {
		case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
			refuse(capability, entry, true)
		default:
			s.found.add(attributes, e.Path, entry)
		}
	}
	if e.Type != bootcheck.TypeFile {
		return nil
	}
	if onDisk := st.Blocks * 512; onDisk+1<<20 < e.Size {
		s.found.add(sparse, e.Path, fmt.Sprintf("%s (%s, %s on disk)", e.Path, bootcheck.Size(e.Size), bootcheck.Size(onDisk)))
	}
	inode := [2]uint64{st.Dev, st.Ino}
	if first := s.inodes[inode]; first != "" {
		s.found.add(copies, e.Path, fmt.Sprintf("%s is %s (%s more)", e.Path, first, bootcheck.Size(e.Size)))
	} else if st.Nlink > 1 {
		s.inodes[inode] = e.Path
	}
	if e.Size > maxKey || allowed || !readable {
		return nil
	}
	data, err := readSmall(name)
	if err == nil && isPrivateKey(data) {
		s.found.add(privateKey, e.Path, e.Path)
	}
	return err
}

// xattrs are the names of the extended attributes of the file name.
func xattrs(name string) ([]string, error) {
	size, err := unix.Llistxattr(name, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	buf := make([]byte, size)
	if size, err = unix.Llistxattr(name, buf); err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(buf[:size]), "\x00"), "\x00"), nil
}
