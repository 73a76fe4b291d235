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
// escapes, which nobody writes by hand.
func ValidService(s string) bool {
	name, ok := strings.CutSuffix(s, ".service")
	return ok && len(s) <= MaxName && plainWord(name, ":_.@-")
}

// ValidKeyID reports whether s is the ID of a signing key as minisign writes it:
// 16 hex digits, the letters upper-case.
func ValidKeyID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return len(s) == 16
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
	t := links{entries: make(map[string]*Entry, len(m.Entries))}
	folded := make(map[string]string, len(m.Entries))
	var size int64
	files := 0
	for i := range m.Entries {
		e := &m.Entries[i]
		if err := CheckPath(e.Path); err != nil {
			return err
		}
		if t.entries[e.Path] != nil {
			return fmt.Errorf("entry %q is listed twice", e.Path)
		}
		// On a file system that ignores case, and for a person, they are one.
		key := fold(e.Path)
		if twin, ok := folded[key]; ok {
			return fmt.Errorf("entries %q and %q differ only in case", twin, e.Path)
		}
		folded[key] = e.Path
		if dir := path.Dir(e.Path); dir != "." {
			switch parent := t.entries[dir]; {
			case parent == nil:
				return fmt.Errorf("entry %q: its directory is not listed before it", e.Path)
			case parent.Type != TypeDir:
				return fmt.Errorf("entry %q is below %q, which is a %s", e.Path, dir, parent.Type)
			}
		}
		t.entries[e.Path] = e
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
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == TypeLink {
			if _, err := t.resolve(e.Path, e.Target); err != nil {
				return fmt.Errorf("link %q -> %q %v", e.Path, e.Target, err)
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
	ok := len(s) == 64
	for i := 0; ok && i < len(s); i++ {
		ok = '0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f'
	}
	if !ok {
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
		case n == 0 && fold(name) == fold(ManifestDir):
			return fmt.Errorf("path %q is in the manifest's own directory", p)
		}
		n++
	}
	if n > MaxDepth {
		return fmt.Errorf("path %.40q… is deeper than %d directories", p, MaxDepth)
	}
	return nil
}

// CheckTarget says why s cannot be the target of any link; nil: that depends on
// where the link is and what else there is.
func CheckTarget(s string) error {
	switch {
	case s == "":
		return errors.New("a link without a target")
	case len(s) > MaxPath:
		return fmt.Errorf("its target is longer than %d bytes", MaxPath)
	case s[0] == '/':
		return fmt.Errorf("target %q is absolute", s)
	case s[len(s)-1] == '/':
		// os.Root of Go before 1.26.5 left the tree by "link/" (CVE-2026-39822).
		return fmt.Errorf("target %q ends in a slash", s)
	case strings.Contains(s, "//"):
		return fmt.Errorf("target %q has an empty component", s)
	}
	if err := checkText(s); err != nil {
		return fmt.Errorf("target %q %v", s, err)
	}
	return nil
}

// checkText refuses what no name needs and what some program reads in another
// way: NUL ends it in C, a backslash separates on other systems, control
// characters write on a terminal, U+FFFD stands for bytes that are lost.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return errors.New("is not UTF-8")
	}
	for _, r := range s {
		switch {
		case r == 0:
			return errors.New("holds NUL")
		case r == '\\':
			return errors.New("holds a backslash")
		case r == utf8.RuneError:
			return errors.New("holds U+FFFD, the mark of bytes that were not UTF-8")
		case unicode.IsControl(r) || r == '\u2028' || r == '\u2029':
			return errors.New("holds a control character")
		}
	}
	return nil
}

// fold maps strings that differ only in case to one.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			if r != 'k' && r != 's' { // these two have twins outside ASCII
				return r
			}
		}
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

// maxFollow is how many links Linux follows in one path, fs/namei.c MAXSYMLINKS.
const maxFollow = 40

// links resolves links in the tree that the entries describe, as the kernel
// would on the disk. That finds what a look at each target alone does not:
// with d/l -> . the link m -> d/l/../.. leaves the tree.
type links struct {
	entries map[string]*Entry
	done    map[string]followed // of links that were resolved, by path
}

// followed is where a link leads.
type followed struct {
	path    string // "." is the root
	missing bool   // there is nothing at path
	links   int    // links followed to get there, itself included
}

var (
	errLeaves = errors.New("leaves the tree")
	errLoop   = errors.New("is a loop or a chain of too many links")
)

// resolve follows the link at from to its target.
func (t *links) resolve(from, target string) (followed, error) {
	return t.follow(from, target, maxFollow)
}

// follow is resolve with at most left links to go.
func (t *links) follow(from, target string, left int) (followed, error) {
	if f, ok := t.done[from]; ok {
		return f, nil
	}
	if left == 0 {
		return followed{}, errLoop
	}
	// As it reads, for whoever looks at it without following links.
	if p := path.Join(path.Dir(from), target); p == ".." || strings.HasPrefix(p, "../") {
		return followed{}, errLeaves
	}
	at := followed{path: path.Dir(from), links: 1}
	for name := range strings.SplitSeq(target, "/") {
		switch {
		case at.missing:
			// Nothing can be said about what is behind it.
			return followed{}, fmt.Errorf("goes through %q, which is not there", at.path)
		case at.path != "." && t.entries[at.path].Type == TypeFile:
			return followed{}, fmt.Errorf("goes through the file %q", at.path)
		case name == ".":
			continue
		case name == "..":
			if at.path == "." {
				return followed{}, errLeaves
			}
			at.path = path.Dir(at.path)
			continue
		}
		next := path.Join(at.path, name)
		if next == ManifestDir {
			return followed{}, errors.New("goes into the manifest's own directory")
		}
		switch e := t.entries[next]; {
		case e == nil:
			at.path, at.missing = next, true
		case e.Type == TypeLink:
			f, err := t.follow(next, e.Target, left-1)
			if err != nil {
				return followed{}, err
			}
			at.path, at.missing = f.path, f.missing
			if at.links += f.links; at.links > maxFollow {
				return followed{}, errLoop
			}
		default:
			at.path = next
		}
	}
	if t.done == nil {
		t.done = make(map[string]followed)
	}
	t.done[from] = at
	return at, nil
}
