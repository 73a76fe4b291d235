package bootcheck

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ValidVersion reports whether s can name a version: a letter or digit, then at
// most 63 letters, digits, '.', '_', '+' or '-'. Such a name is safe as a file
// name and as an argument.
func ValidVersion(s string) bool { return len(s) <= maxWord && plainWord(s, "._+-") }

// ValidService reports whether s is the full name of a systemd service,
// "device-api.service": systemd's unit names (systemd.unit(5)) without the
// escapes, which are not written by hand.
func ValidService(s string) bool {
	name, ok := strings.CutSuffix(s, ".service")
	return ok && len(s) <= MaxName && plainWord(name, ":_.@-")
}

// ValidKeyID reports whether s is the ID of a signing key as minisign writes it:
// 16 hex digits, the letters upper-case.
func ValidKeyID(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789ABCDEF") == ""
}

// plainWord reports whether s is a letter or digit, then letters, digits and
// characters of also. By hand: regexp would be 4 % of the guardian's program.
func plainWord(s, also string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || strings.IndexByte(also, c) < 0) {
			return false
		}
	}
	return s != ""
}

// CheckModel says what is wrong with the name of a device model; nil: nothing.
func CheckModel(s string) error {
	switch {
	case s == "":
		return errors.New("a model is empty")
	case len(s) > maxWord:
		return fmt.Errorf("model %q is longer than %d bytes", s[:maxWord], maxWord)
	}
	if err := checkText(s); err != nil {
		return fmt.Errorf("model %q %v", s, err)
	}
	return nil
}

// check refuses what ParseManifest documents. How much m lists was counted before.
func (m *Manifest) check() error {
	if !ValidVersion(m.Version) {
		return fmt.Errorf("version %.80q is not a letter or digit and then at most 63 letters, digits, or any of ._+-", m.Version)
	}
	if len(m.Models) == 0 {
		return errors.New("it names no model")
	}
	for i, model := range m.Models {
		if err := CheckModel(model); err != nil {
			return err
		}
		if slices.Contains(m.Models[:i], model) {
			return fmt.Errorf("model %q is listed twice", model)
		}
	}
	if m.Release < 0 {
		return fmt.Errorf("release %d is negative", m.Release)
	}
	for i, s := range m.Services {
		if !ValidService(s) {
			return fmt.Errorf("service %.80q is not the name of a systemd service", s)
		}
		if slices.Contains(m.Services[:i], s) {
			return fmt.Errorf("service %q is listed twice", s)
		}
	}
	for i, id := range m.RevokedKeys {
		if !ValidKeyID(id) {
			return fmt.Errorf("revoked key %.80q is not the ID of a key, 16 upper-case hex digits", id)
		}
		if slices.Contains(m.RevokedKeys[:i], id) {
			return fmt.Errorf("revoked key %s is listed twice", id)
		}
	}
	if err := m.checkEntries(); err != nil {
		return err
	}
	return m.checkFrames()
}

func (m *Manifest) checkEntries() error {
	known := make(map[string]*Entry, len(m.Entries))
	var size int64
	files := 0
	for i := range m.Entries {
		e := &m.Entries[i]
		if err := CheckPath(e.Path); err != nil {
			return err
		}
		if known[e.Path] != nil {
			return fmt.Errorf("entry %q is listed twice", e.Path)
		}
		if dir := path.Dir(e.Path); dir != "." {
			switch parent := known[dir]; {
			case parent == nil:
				return fmt.Errorf("entry %q: its directory is not listed before it", e.Path)
			case parent.Type != TypeDir:
				return fmt.Errorf("entry %q is below %q, which is a %s", e.Path, dir, parent.Type)
			}
		}
		known[e.Path] = e
		if err := e.check(); err != nil {
			return fmt.Errorf("entry %q: %v", e.Path, err)
		}
		if e.Type == TypeFile {
			files++
			size += e.Size // cannot overflow: MaxEntries × MaxFileSize < 2^63
		}
	}
	switch {
	case files == 0:
		return errors.New("it lists no file")
	case size > MaxTreeSize:
		return fmt.Errorf("its files are %d bytes, at most %d are allowed", size, int64(MaxTreeSize))
	case size != m.Size:
		return fmt.Errorf("its files are %d bytes together, but it says %d", size, m.Size)
	}
	// Last, when all entries are known: a link may point forward.
	return m.CheckLinks(func(e *Entry, why error) error {
		return fmt.Errorf("link %q -> %q %v", e.Path, e.Target, why)
	})
}

// CheckLinks calls bad for each link that is not External and leads out of the tree,
// nowhere or in a circle. The error of bad ends it; else bad has made e External.
func (m *Manifest) CheckLinks(bad func(e *Entry, why error) error) error {
	t := links{entries: make(map[string]*Entry, len(m.Entries)), done: make(map[*Entry]followed)}
	for i := range m.Entries {
		t.entries[m.Entries[i].Path] = &m.Entries[i]
	}
	for i := range m.Entries {
		for e := &m.Entries[i]; e.Type == TypeLink; {
			_, at, why := t.follow(e, maxFollow)
			if why == nil {
				break
			}
			if err := bad(at, why); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Entry) check() error {
	switch e.Type {
	case TypeDir, TypeFile:
		if e.Target != "" {
			return fmt.Errorf("a %s has no target", e.Type)
		}
		// 0500 and 0400: what even the program that unpacks it, not being root
		// in a test or a build, needs to read it again.
		if need := map[EntryType]Mode{TypeDir: 0o500, TypeFile: 0o400}[e.Type]; e.Mode&need != need {
			return fmt.Errorf("mode %v: its owner could not read it", e.Mode)
		}
	case TypeLink:
		if e.Mode != 0 {
			return errors.New("a link has no mode")
		}
		if err := CheckTarget(e.Target); err != nil {
			return err
		}
	case "":
		return errors.New("it has no type")
	default:
		return fmt.Errorf("type %.20q is not dir, file or link", string(e.Type))
	}
	if e.External && e.Type != TypeLink {
		return fmt.Errorf("a %s is not external", e.Type)
	}
	if e.Type != TypeFile {
		if e.Size != 0 || e.SHA256 != "" {
			return fmt.Errorf("a %s has no size and no sha256", e.Type)
		}
		return nil
	}
	if e.Size < 0 || e.Size > MaxFileSize {
		return fmt.Errorf("size %d is not within 0 and %d", e.Size, int64(MaxFileSize))
	}
	return checkHash(e.SHA256)
}

func checkHash(s string) error {
	if len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Errorf("sha256 %.80q is not 64 lower-case hex digits", s)
	}
	return nil
}

func (m *Manifest) checkFrames() error {
	var end int64
	for i, f := range m.Frames {
		switch {
		case f.Offset != end:
			return fmt.Errorf("frame %d begins at %d, but the one before it ends at %d", i, f.Offset, end)
		case f.Length <= 0 || f.Length > maxFrameLen:
			return fmt.Errorf("frame %d: length %d is not within 1 and %d", i, f.Length, maxFrameLen)
		case f.Size <= 0 || f.Size > MaxFrameSize:
			return fmt.Errorf("frame %d: size %d is not within 1 and %d", i, f.Size, MaxFrameSize)
		}
		if err := checkHash(f.SHA256); err != nil {
			return fmt.Errorf("frame %d: %v", i, err)
		}
		end += f.Length // cannot overflow: MaxFrames × maxFrameLen < 2^40
	}
	return nil
}

// CheckPath says why p cannot be the path of an entry; nil: it can.
func CheckPath(p string) error {
	switch {
	case p == "":
		return errors.New("an entry has an empty path")
	case len(p) > MaxPath:
		return fmt.Errorf("path %.40q… is longer than %d bytes", p, MaxPath)
	case p[0] == '/':
		return fmt.Errorf("path %q is absolute", p)
	}
	if err := checkText(p); err != nil {
		return fmt.Errorf("path %q %v", p, err)
	}
	n := 0
	for name := range strings.SplitSeq(p, "/") {
		switch {
		case name == "":
			return fmt.Errorf("path %q has an empty component", p)
		case name == "." || name == "..":
			return fmt.Errorf("path %q has the component %q", p, name)
		case len(name) > MaxName:
			return fmt.Errorf("path %.40q… has a name longer than %d bytes", p, MaxName)
		case n == 0 && strings.EqualFold(name, ManifestDir):
			return fmt.Errorf("path %q is in the manifest's own directory", p)
		}
		n++
	}
	if n > MaxDepth {
		return fmt.Errorf("path %.40q… is deeper than %d directories", p, MaxDepth)
	}
	return nil
}

// CheckTarget says why s cannot be the target of any link, External or not; nil: it can.
func CheckTarget(s string) error {
	switch {
	case s == "":
		return errors.New("a link without a target")
	case len(s) > MaxPath:
		return fmt.Errorf("its target is longer than %d bytes", MaxPath)
	}
	if err := checkText(s); err != nil {
		return fmt.Errorf("target %q %v", s, err)
	}
	return nil
}

// checkText refuses what no name needs and what some program reads in another
// way: NUL ends it in C, control characters write on a terminal, U+FFFD stands for
// bytes that are lost.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not UTF-8")
	}
	for _, r := range s {
		switch {
		case r == 0:
			return errors.New("holds NUL")
		case r == utf8.RuneError:
			return errors.New("holds U+FFFD, the mark of bytes that were not UTF-8")
		case unicode.IsControl(r) || r == '\u2028' || r == '\u2029':
			return errors.New("holds a control character")
		}
	}
	return nil
}

// maxFollow is how many links Linux follows in one path, fs/namei.c MAXSYMLINKS.
const maxFollow = 40

// links resolves links in the tree that the entries describe, as the kernel
// would on the disk. That finds what a look at each target alone does not:
// with d/l -> . the link m -> d/l/../.. leaves the tree.
type links struct {
	entries map[string]*Entry
	done    map[*Entry]followed // of links that lead to a place in the tree
}

// followed is where a link leads.
type followed struct {
	path    string // "." is the root
	missing bool   // what is behind path is not of the tree: nothing, or what an External link leads to
	links   int    // links followed to get there, itself included
}

var (
	errLeaves = errors.New("leaves the tree")
	errLoop   = errors.New("is a loop or a chain of too many links")
)

// follow follows the link at from, with at most left links to go. The error is about
// the link at, which may be one on the way.
func (t *links) follow(from *Entry, left int) (_ followed, at *Entry, _ error) {
	if f, ok := t.done[from]; ok {
		return f, nil, nil
	}
	dir, target := path.Dir(from.Path), from.Target
	to := followed{path: dir, links: 1}
	switch p := path.Join(dir, target); {
	case from.External:
		return followed{path: from.Path, missing: true, links: 1}, nil, nil
	case left == 0:
		return to, from, errLoop
	case target[0] == '/':
		return to, from, errors.New("is absolute")
	case target[len(target)-1] == '/':
		// os.Root of Go before 1.26.5 left the tree by "link/" (CVE-2026-39822).
		return to, from, errors.New("ends in a slash")
	case strings.Contains(target, "//"):
		return to, from, errors.New("has an empty component")
	case p == ".." || strings.HasPrefix(p, "../"):
		return to, from, errLeaves // as it reads, for programs that do not follow links
	}
	for name := range strings.SplitSeq(target, "/") {
		switch e := t.entries[to.path]; {
		case to.missing && e != nil:
			return to, from, fmt.Errorf("goes through the external link %q", to.path)
		case to.missing:
			// Nothing can be said about what is behind it.
			return to, from, fmt.Errorf("goes through %q, which is not there", to.path)
		case to.path != "." && e.Type == TypeFile:
			return to, from, fmt.Errorf("goes through the file %q", to.path)
		case name == ".":
			continue
		case name == "..":
			if to.path == "." {
				return to, from, errLeaves
			}
			to.path = path.Dir(to.path)
			continue
		}
		next := path.Join(to.path, name)
		if next == ManifestDir {
			return to, from, errors.New("goes into the manifest's own directory")
		}
		switch e := t.entries[next]; {
		case e == nil:
			to.path, to.missing = next, true
		case e.Type == TypeLink:
			f, at, err := t.follow(e, left-1)
			if err != nil {
				return to, at, err
			}
			to.path, to.missing = f.path, f.missing
			if to.links += f.links; to.links > maxFollow {
				return to, from, errLoop
			}
		default:
			to.path = next
		}
	}
	t.done[from] = to
	return to, nil, nil
}
