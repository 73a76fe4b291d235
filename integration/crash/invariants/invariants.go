// Package invariants checks what a crash left of a store. It shares no code with
// the programs that it checks, but for the names in the store's documentation: what
// they trust wrongly, it must not trust too. It reads only.
//
//	torn   the disk is not an intact state of the store: links and record disagree, a
//	       version that something leads to is not complete, factory changed, a file
//	       is where none may be
//	lie    the disk is intact, and is not what a program said
//	stuck  the disk is intact, and the device does not recover from there by itself
package invariants

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// A State is what a store says: its phase and which version is which; empty: none.
type State struct {
	Phase                      string
	Current, Previous, Factory string
}

func (s State) String() string {
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	return fmt.Sprintf("phase=%s current=%s previous=%s factory=%s", or(s.Phase), or(s.Current), or(s.Previous), or(s.Factory))
}

// The phases of a store that another updater had: see LookAdopted.
const (
	Plain    = "plain"    // no record; plain links say the current version
	Adopting = "adopting" // a record and, beside it, links that are still plain or not there yet
)

// A Kind of problem; the empty one is none.
type Kind string

const (
	Torn  Kind = "torn"
	Lie   Kind = "lie"
	Stuck Kind = "stuck"
)

// A Problem is one thing that must not be.
type Problem struct {
	Kind    Kind
	Text    string
	Version string // the version whose content it is about; empty: none
}

// Of is a problem of the kind.
func (k Kind) Of(format string, args ...any) Problem {
	return Problem{Kind: k, Text: fmt.Sprintf(format, args...)}
}

func (p Problem) String() string { return string(p.Kind) + ": " + p.Text }

// Result is "ok" or the kind of the first of problems.
func Result(problems []Problem) string {
	if len(problems) == 0 {
		return "ok"
	}
	return string(problems[0].Kind)
}

// Found is a store as it was found.
type Found struct {
	State      State
	Generation uint64 // 0: nothing was ever committed
	// Files is what each version that is there consists of: Fingerprint.
	Versions map[string]string
	// Spent: what was prepared for the rollback has lost its link. It is renamed when it is used.
	Spent    bool
	Problems []Problem
}

type looker struct {
	root    string
	adopted bool // see LookAdopted
	found   *Found
}

func (l *looker) torn(format string, args ...any) {
	l.found.Problems = append(l.found.Problems, Torn.Of(format, args...))
}

// broken is torn for what is wrong with the content of one version.
func (l *looker) broken(version, format string, args ...any) {
	l.found.Problems = append(l.found.Problems, Problem{Torn, "version " + version + ": " + fmt.Sprintf(format, args...), version})
}

// Look reads the store at root. All that is wrong with it is in the problems, each
// of which is Torn.
func Look(root string) *Found { return look(&looker{root: root}) }

// LookAdopted is Look of the store of a device that had another updater: before it is
// adopted (Plain), in the midst of that (Adopting) and ever after. Its versions may
// have no manifest: what belongs in them is nothing that the store knows, see
// Fingerprint. As long as links are plain, each leads to the directory of a version
// beside it, and once there is a record, to the one that the record says.
func LookAdopted(root string) *Found { return look(&looker{root: root, adopted: true}) }

func look(l *looker) *Found {
	l.found = &Found{Versions: make(map[string]string)}
	l.names()
	l.revoked()
	record := l.active()
	for _, directory := range l.directories() {
		l.version(directory, record)
	}
	if record != nil {
		l.refs(record)
	}
	return l.found
}

// known are the names of the store that are no version, and what they must be.
var known = map[string]fs.FileMode{
	"current": fs.ModeSymlink, "previous": fs.ModeSymlink, "factory": fs.ModeSymlink, ".active": fs.ModeSymlink,
	".generations": fs.ModeDir, ".staging": fs.ModeDir, ".trash": fs.ModeDir, ".spool": fs.ModeDir,
	".lock": 0, ".install.lock": 0, ".revoked.json": 0, ".follow.json": 0, ".clean-shutdown": 0, ".hard-reboot": 0, "lost+found": fs.ModeDir,
}

// names looks at the store's own directory: nothing but what the documentation names,
// and temporary directories with one link each.
func (l *looker) names() {
	entries, err := os.ReadDir(l.root)
	if err != nil {
		l.torn("%v", err)
		return
	}
	for _, e := range entries {
		name := e.Name()
		want, ok := known[name]
		switch {
		case ok && e.Type() != want:
			l.torn("%s is a %v", name, e.Type())
		case name == ".clean-shutdown" || name == ".hard-reboot":
			if text, err := os.ReadFile(filepath.Join(l.root, name)); err != nil || !bytes.HasPrefix(text, []byte("generation ")) || text[len(text)-1] != '\n' {
				l.torn("the mark %s is %q (%v)", name, text, err)
			}
		case ok, strings.HasPrefix(name, "v") && e.IsDir():
		case temporary(name) && e.IsDir():
		case (strings.HasPrefix(name, "..revoked.json") || strings.HasPrefix(name, "..follow.json")) && e.Type() == 0: // being replaced
		case strings.HasSuffix(name, "lock.new") && e.Type() == 0: // a lock that replaces one that others could hold
		case (strings.HasPrefix(name, "..clean-shutdown") || strings.HasPrefix(name, "..hard-reboot")) && e.Type() == 0: // being made
		default:
			l.torn("%s (%v) is nothing that the store has", name, e.Type())
		}
	}
	for _, name := range links {
		got, err := os.Readlink(filepath.Join(l.root, name))
		if errors.Is(err, fs.ErrNotExist) || l.plain(name) != "" {
			continue // active says whether it may be missing, or lead there
		}
		if want := ".active/" + name; err != nil || got != want {
			l.torn("the link %s leads to %q, want %q (%v)", name, got, want, err)
		}
	}
}

var links = []string{"current", "previous", "factory"}

// plain is the version that a link of another updater leads to; empty: it is none, or
// leads to none.
func (l *looker) plain(name string) string {
	target, err := os.Readlink(filepath.Join(l.root, name))
	version, ok := strings.CutPrefix(target, "v")
	if !l.adopted || err != nil || !ok || version == "" || strings.Contains(version, "/") {
		return ""
	}
	if info, err := os.Lstat(filepath.Join(l.root, target)); err != nil || !info.IsDir() {
		return ""
	}
	return version
}

// state is where the version of a link is in the state.
func (l *looker) state(name string) *string {
	s := &l.found.State
	return map[string]*string{"current": &s.Current, "previous": &s.Previous, "factory": &s.Factory}[name]
}

// revoked looks at the list of revoked keys: a key is not trusted again because the
// power went.
func (l *looker) revoked() {
	text, err := os.ReadFile(filepath.Join(l.root, ".revoked.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var list struct {
		Schema int
		Keys   []string
		Seal   string
	}
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	sum := sha256.Sum256([]byte(strings.Join(list.Keys, "\n")))
	if want := "sha256:" + hex.EncodeToString(sum[:]); err != nil || len(list.Keys) == 0 || list.Seal != want {
		l.torn(".revoked.json is not intact: %d bytes, seal %q, want %q (%v)", len(text), list.Seal, want, err)
	}
}

// temporary is the name of the directory in which a link is made before it replaces
// another one: ".", the link's name, digits.
func temporary(name string) bool {
	for _, link := range []string{"current", "previous", "factory", ".active"} {
		if rest, ok := strings.CutPrefix(name, "."+link); ok && rest != "" && strings.Trim(rest, "0123456789") == "" {
			return true
		}
	}
	return false
}

type ref struct{ Version, Digest string }

type record struct {
	Schema     int
	Generation uint64
	Phase      string
	Current    *ref
	Previous   *ref
	Factory    *ref
	Next       *ref
}

func (r *record) link(name string) *ref {
	return map[string]*ref{"current": r.Current, "previous": r.Previous, "factory": r.Factory}[name]
}

// active reads the generation that counts; nil: none, or it cannot be read.
func (l *looker) active() *record {
	target, err := os.Readlink(filepath.Join(l.root, ".active"))
	if errors.Is(err, fs.ErrNotExist) {
		// Nothing was committed yet.
		for _, name := range links {
			*l.state(name) = l.plain(name)
			if _, err := os.Stat(filepath.Join(l.root, name)); err == nil && l.plain(name) == "" {
				l.torn("%s leads somewhere, and nothing is active", name)
			}
		}
		if s := &l.found.State; *s != (State{}) {
			s.Phase = Plain
			if s.Current == "" {
				l.torn("previous or factory is a link of another updater, and current leads nowhere")
			}
		}
		// The first generation is written before it becomes active; a second one only after.
		// Beside plain links they are what is left of a store that was given up for them.
		entries, _ := os.ReadDir(filepath.Join(l.root, ".generations"))
		if len(entries) > 1 && l.found.State.Phase != Plain {
			l.torn("there are %d generations, and nothing is active", len(entries))
		}
		return nil
	}
	if err != nil {
		l.torn("%v", err)
		return nil
	}
	number, ok := strings.CutPrefix(target, ".generations/")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil || strconv.FormatUint(n, 10) != number {
		l.torn(".active leads to %q", target)
		return nil
	}
	l.found.Generation = n
	dir := filepath.Join(l.root, target)
	text, err := os.ReadFile(filepath.Join(dir, "record.json"))
	if err != nil {
		l.torn("%v", err)
		return nil
	}
	r := new(record)
	if err := json.Unmarshal(text, r); err != nil {
		l.torn("record of generation %d: %v (%d bytes)", n, err, len(text))
		return nil
	}
	if backup, err := os.ReadFile(filepath.Join(dir, "record.backup.json")); !bytes.Equal(backup, text) {
		l.torn("the two copies of the record of generation %d differ (%d and %d bytes, %v)", n, len(text), len(backup), err)
	}
	l.sealed(n, text)
	if r.Generation != n || r.Schema < 1 {
		l.torn("record of generation %d says generation %d, schema %d", n, r.Generation, r.Schema)
	}
	if r.Current == nil {
		l.torn("generation %d runs nothing", n)
	}
	l.prepared(n, r)
	l.found.State.Phase = r.Phase
	for _, name := range links {
		want := r.link(name)
		if fixed, err := os.Readlink(filepath.Join(l.root, name)); l.adopted && (err != nil || fixed != ".active/"+name) {
			l.found.State.Phase = Adopting
			if version := l.plain(name); version != "" && want == nil {
				l.torn("%s leads to version %s, the record has none", name, version)
			}
		}
		got, err := os.Readlink(filepath.Join(dir, name))
		switch {
		case want == nil && errors.Is(err, fs.ErrNotExist):
		case want == nil:
			l.torn("generation %d: %s leads to %q, the record has none (%v)", n, name, got, err)
		case versionOf(strings.TrimPrefix(got, "../../")) != want.Version || !strings.HasPrefix(got, "../../v"):
			l.torn("generation %d: %s leads to %q, the record says %s (%v)", n, name, got, want.Version, err)
		}
		if want == nil {
			continue
		}
		*l.state(name) = want.Version
		if _, err := os.Readlink(filepath.Join(l.root, name)); err != nil {
			l.torn("%s: %v", name, err)
		}
		// As a service goes there.
		through, err1 := os.Stat(filepath.Join(l.root, name))
		directory := path.Base(got)
		if versionOf(directory) != want.Version {
			directory = "v" + want.Version
		}
		there, err2 := os.Stat(filepath.Join(l.root, directory))
		if err1 != nil || err2 != nil || !os.SameFile(through, there) {
			l.torn("%s does not lead to version %s (%v, %v)", name, want.Version, err1, err2)
		}
	}
	switch r.Phase {
	case "confirmed", "trial", "fallback", "factory", "hold":
	default:
		l.torn("phase %q", r.Phase)
	}
	if l.found.State.Phase == Adopting && r.Phase != "confirmed" {
		l.torn("phase %s, while links are still plain", r.Phase)
	}
	if r.Previous != nil && r.Current != nil && r.Previous.Version == r.Current.Version {
		l.torn("current and previous are both %s", r.Current.Version)
	}
	return r
}

// sealed demands that the last key of a record is the digest of all before it.
func (l *looker) sealed(n uint64, text []byte) {
	body, rest, _ := strings.Cut(string(text), ",\n  \"seal\":")
	sum := sha256.Sum256([]byte(body))
	if want := fmt.Sprintf(" \"sha256:%x\"\n}\n", sum); rest != want {
		l.torn("record of generation %d: the seal is %q, want %q", n, rest, want)
	}
}

// versionOf is the version whose directory has that name: v1.2.0, or v1.2.0~3 of one that was
// rebuilt; empty: it is none.
func versionOf(directory string) string {
	version, number, again := strings.Cut(strings.TrimPrefix(directory, "v"), "~")
	if n, err := strconv.Atoi(number); again && (err != nil || n < 1 || strconv.Itoa(n) != number) {
		return ""
	}
	return version
}

// Directory is the directory of version: the one that a link leads to, else the newest. What
// was rebuilt is complete from the moment when it has its name; the others are what it
// replaced, and nothing is asked of them.
func Directory(root, version string) string {
	target, _ := os.Readlink(filepath.Join(root, ".active"))
	for _, name := range links {
		to, _ := os.Readlink(filepath.Join(root, target, name))
		if directory := path.Base(to); target != "" && to != "" && versionOf(directory) == version {
			return directory
		}
	}
	return newest(root, version)
}

func newest(root, version string) string {
	for n := 9; n > 0; n-- {
		if directory := fmt.Sprintf("v%s~%d", version, n); isDir(filepath.Join(root, directory)) {
			return directory
		}
	}
	return "v" + version
}

func isDir(name string) bool {
	info, err := os.Lstat(name)
	return err == nil && info.IsDir()
}

// directories are those that must be complete, in order.
func (l *looker) directories() (names []string) {
	entries, _ := os.ReadDir(l.root)
	for _, e := range entries {
		version := versionOf(e.Name())
		if !strings.HasPrefix(e.Name(), "v") || !e.IsDir() {
			continue
		}
		if version == "" {
			l.torn("%s cannot be the directory of a version", e.Name())
		} else if e.Name() == Directory(l.root, version) || e.Name() == newest(l.root, version) {
			names = append(names, e.Name())
		}
	}
	return names
}
