// Package order judges the log of a run: whether the calls came in an order in
// which a power cut at any moment loses nothing that was promised. It asks no file
// system, which may forgive what another one does not.
package order

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/disk"
)

// A Rule is what a violation is one of.
type Rule string

const (
	// Staged: whatever is in a version is durable before the rename that gives the
	// version its name, and a file before it takes the place of another one. (Not in
	// .spool: what is there is only believed as far as something durable vouches for it.)
	Staged Rule = "staged"
	// Published: the name of a version is durable, and the one that it had in
	// .staging durably gone, before the switch that leads to it.
	Published Rule = "published"
	// Generation: a generation is whole, durable, and says in its record what its
	// links say, before the switch that leads to it; and nobody changes it after.
	Generation Rule = "generation"
	// Said: whatever was done is durable before success is said.
	Said Rule = "said"
	// Switch: what current, previous and factory lead to is changed by a rename onto
	// .active and by nothing else, no more often than the command has to, and
	// current always leads to a version.
	Switch Rule = "switch"
	// Sealed: nothing is done to what is in factory or in a version that a link
	// leads to, by any of its names. A command that repairs may exchange whole files,
	// and change the mode of one that is in no other version that a link leads to.
	Sealed Rule = "sealed"
	// Outside: no file outside of the store and of the folders that the command
	// may write to is changed.
	Outside Rule = "outside"
	// Target: a symlink leads to somewhere inside the store, and says so relative to itself.
	Target Rule = "target"
	// Retried: what could not be synced is never synced again.
	Retried Rule = "retried"
	// Spool: what the note beside a download says to be synced of it is, before the
	// note has its name; and the note of a download that was dropped is durably gone
	// before another one gets its name, which it must not speak for.
	Spool Rule = "spool"
	// Trash: a version is durably out of sight before anything in it is removed. Of one
	// that cannot be moved the manifest goes first, durably.
	Trash Rule = "trash"
)

// Rules are all of them.
var Rules = []Rule{Staged, Published, Generation, Said, Switch, Sealed, Outside, Target, Retried, Spool, Trash}

// Killed is the Exit of a run that was not let come to its end.
const Killed = -1

// A Run is what is judged.
type Run struct {
	// Root is the path of the store, May are those of the other folders that the
	// command may write to.
	Root string
	May  []string
	// Before is what was there, durably, by path: Root and all of May that are there.
	Before map[string]*disk.Node
	Calls  []crashpoint.Call
	// Exit is what the program said last.
	Exit int
	// Repairs: it may repair versions in their place.
	Repairs bool
	// Unsettled: another program made the switch a moment before, and may have been
	// killed before it was durable.
	Unsettled bool
	// Switches is how often what current and previous lead to may change; 0: not at all.
	Switches int
}

// A Violation is one rule that does not hold.
type Violation struct {
	Rule   Rule
	Points []int // where it shows, then those that were too early, too late or not followed up
	Text   string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %v: %s", v.Rule, v.Points, v.Text) }

var links = []string{"current", "previous", "factory"}

// Judge finds what the calls of r violate, in their order. The error is of a log
// that cannot be played: it is not complete.
func Judge(r Run) ([]Violation, error) {
	j := judge{Run: r, disk: disk.New(r.Before), failed: make(map[crashpoint.ID]int), trashed: make(map[string]int), stays: make(map[string]bool)}
	j.leads = j.lead()
	if r.Unsettled {
		if err := j.disk.Unsettle(filepath.Join(r.Root, ".active")); err != nil {
			return nil, err
		}
	}
	for i := range r.Calls {
		c := &r.Calls[i]
		j.before(c)
		// Success may be read as soon as it is written.
		if !j.said && c.Errno == 0 && r.Exit == 0 && j.says(c) {
			j.saySuccess(c.Point)
		}
		if err := j.disk.Play(c); err != nil {
			return j.found, err
		}
		j.after(c)
	}
	if r.Exit == 0 {
		last := 0
		if n := len(r.Calls); n > 0 {
			last = r.Calls[n-1].Point
		}
		j.saySuccess(last)
	}
	return j.found, nil
}

type judge struct {
	Run
	disk     *disk.Disk
	leads    lead
	found    []Violation
	said     bool
	switches []int
	failed   map[crashpoint.ID]int // by file, the point at which its sync failed
	trashed  map[string]int        // by name in .trash, the point at which it was moved there
	stays    map[string]bool       // names of versions that could not be moved
	news     []string              // names of versions that were published
}

// A lead is what the three links lead to.
type lead map[string]*disk.Inode

func (j *judge) lead() lead {
	l := make(lead)
	for _, name := range links {
		if is, _ := j.disk.Resolve(filepath.Join(j.Root, name)); is != nil {
			l[name] = is
		}
	}
	return l
}

func (j *judge) add(rule Rule, points []int, format string, args ...any) {
	v := Violation{rule, points, fmt.Sprintf(format, args...)}
	if !slices.ContainsFunc(j.found, func(old Violation) bool { return old.Rule == rule && old.Text == v.Text }) {
		j.found = append(j.found, v)
	}
}

// rel is name below the root; ok is false outside.
func (j *judge) rel(name string) (rel string, ok bool) {
	if name == j.Root {
		return ".", true
	}
	return strings.CutPrefix(name, j.Root+"/")
}

// says reports whether c tells the world of success: in the file that screens read.
func (j *judge) says(c *crashpoint.Call) bool {
	if _, inside := j.rel(c.File.Path); inside || c.Name != "write" {
		return false
	}
	var op struct{ Stage string }
	return json.Unmarshal(c.Data, &op) == nil && op.Stage == "success"
}

// before looks at what c is about to do.
func (j *judge) before(c *crashpoint.Call) {
	j.outside(c)
	j.retried(c)
	if c.Errno != 0 {
		return
	}
	switch c.Name {
	case "symlink":
		if rel, ok := j.rel(c.File.Path); ok && !inside(path.Dir(rel), c.Target) {
			j.add(Target, []int{c.Point}, "the link %s leads to %q", rel, c.Target)
		}
	case "rename":
		j.published(c)
		j.spoolNote(c)
	case "open":
		j.spoolFile(c)
	case "unlink":
		j.trash(c)
	}
	j.sealed(c)
}

// inside reports whether a link in the folder dir of the store with target stays in
// the store and, if it is unpacked, in its version.
func inside(dir, target string) bool {
	to := path.Join(dir, target)
	if version := unpacked.FindString(dir + "/"); version != "" && !strings.HasPrefix(to+"/", version) {
		return false
	}
	return !path.IsAbs(target) && to != ".." && !strings.HasPrefix(to, "../")
}

var unpacked = regexp.MustCompile(`^\.staging/v[^/]+/`)

// writes are the calls that change something by the name or in the file that they
// are given. A sync changes nothing.
func writes(c *crashpoint.Call) bool {
	switch c.Name {
	case "fsync", "syncfs", "syncrange":
		return false
	case "open":
		return c.File.Made || c.Flags&unix.O_TRUNC != 0
	}
	return true
}

func (j *judge) outside(c *crashpoint.Call) {
	if !writes(c) {
		return
	}
	for _, p := range []crashpoint.Place{c.File, c.To} {
		if !filepath.IsAbs(p.Path) { // it has no name, or is no file
			continue
		}
		ok := false
		for _, dir := range append([]string{j.Root}, j.May...) {
			ok = ok || p.Path == dir || strings.HasPrefix(p.Path, dir+"/")
		}
		if !ok {
			j.add(Outside, []int{c.Point}, "%s of %s", c.Name, p.Path)
		}
	}
}

func (j *judge) retried(c *crashpoint.Call) {
	switch {
	case c.Name == "unlink" || c.File.Made:
		delete(j.failed, c.File.ID) // the number may be of another file from now on
	case c.Name != "fsync":
	case j.failed[c.File.ID] != 0:
		j.add(Retried, []int{c.Point, j.failed[c.File.ID]}, "%s is synced again, after a sync of it had failed", c.File.Path)
	case c.Errno != 0 && c.Errno != unix.EINTR && c.File.Type.IsRegular():
		// What a folder holds may change after that and be synced; what was lost
		// then is never taken for durable by package disk.
		j.failed[c.File.ID] = c.Point
	}
}

var versionName = regexp.MustCompile(`^v[A-Za-z0-9][A-Za-z0-9._+-]*$`)

// published looks at a rename that gives a version its name, or a file that of another one.
func (j *judge) published(c *crashpoint.Call) {
	to, ok := j.rel(c.To.Path)
	if !ok {
		return
	}
	version, below, _ := strings.Cut(to, "/")
	from, ok := j.rel(c.File.Path)
	is := j.disk.Lookup(c.File.Path)
	if !ok || is == nil || version == ".spool" || strings.HasPrefix(from, version+"/") {
		return
	}
	if versionName.MatchString(version) || is.Type.IsRegular() && version != ".trash" {
		j.durable(Staged, c.Point, is, func(name string) string { return path.Join(from, name) })
		if below == "" && versionName.MatchString(version) {
			j.news = append(j.news, version)
		}
	}
}

// note is what the note of a download vouches for.
type note struct{ Synced int64 }

// spoolNote looks at a rename that gives the note of a download its name.
func (j *judge) spoolNote(c *crashpoint.Call) {
	to, ok := j.rel(c.To.Path)
	base, isNote := strings.CutSuffix(to, ".json")
	is := j.disk.Lookup(c.File.Path)
	if !ok || !isNote || path.Dir(to) != ".spool" || is == nil || is.Data == nil {
		return
	}
	var says note
	if json.Unmarshal(is.Data.Bytes(), &says) != nil || says.Synced == 0 {
		return
	}
	file := j.disk.Lookup(filepath.Join(j.Root, base+".part"))
	switch {
	case file == nil:
		j.add(Spool, []int{c.Point}, "%s vouches for %d bytes of a download that is not there", to, says.Synced)
	case file.Kept().Len() < says.Synced || !bytes.Equal(file.Kept().Bytes()[:says.Synced], file.Data.Bytes()[:says.Synced]):
		j.add(Spool, append([]int{c.Point}, points(file.Pending)...), "%s vouches for %d bytes that were not synced", to, says.Synced)
	}
}

// spoolFile looks at the making of a download.
func (j *judge) spoolFile(c *crashpoint.Call) {
	name, ok := j.rel(c.File.Path)
	base, isFile := strings.CutSuffix(name, ".part")
	if !ok || !isFile || path.Dir(name) != ".spool" || !c.File.Made {
		return
	}
	spool := j.disk.Lookup(filepath.Join(j.Root, ".spool"))
	if changes := spool.Unsynced(path.Base(base) + ".json"); len(changes) > 0 {
		j.add(Spool, append([]int{c.Point}, points(changes)...), "%s is made before it is durable that the note of another one is gone", name)
	}
}

// durable demands that nothing below i is pending.
func (j *judge) durable(rule Rule, point int, i *disk.Inode, name func(string) string) {
	i.Walk(func(sub string, i *disk.Inode) {
		if points := points(i.Pending); len(points) > 0 {
			what := "not synced since it was written"
			switch {
			case i.Type.IsDir():
				what = "a folder that was not synced since it was changed"
			case i.Pending[len(i.Pending)-1].HasMode:
				what = "not synced since its mode was changed"
			}
			if i.Pending[0].Lost {
				what = "one whose sync failed"
			}
			j.add(rule, append([]int{point}, points...), "%s is %s", name(sub), what)
		}
	})
}

func points(changes []*disk.Change) []int {
	var all []int
	for _, c := range changes {
		all = append(all, c.Point)
	}
	return slices.Compact(all)
}

// trash looks at a removal.
func (j *judge) trash(c *crashpoint.Call) {
	rel, ok := j.rel(c.File.Path)
	if !ok {
		return
	}
	top, below, _ := strings.Cut(rel, "/")
	if is := j.disk.Lookup(filepath.Join(j.Root, top)); versionName.MatchString(top) && is != nil && is.Type.IsDir() && !(j.stays[top] && spoiled(is, below)) {
		j.add(Trash, []int{c.Point}, "%s is removed where everybody takes it for a version", rel)
	}
	name, _, _ := strings.Cut(below, "/")
	moved := j.trashed[name]
	if top != ".trash" || moved == 0 {
		return
	}
	for _, change := range j.disk.Lookup(j.Root).Pending {
		if change.Point == moved && versionName.MatchString(change.Names[0].Name) {
			j.add(Trash, []int{c.Point, moved}, "%s is removed before it is durable that %s is out of sight", rel, change.Names[0].Name)
		}
	}
}

// spoiled reports whether version is durably none any more, or is none once below is
// removed: nobody takes the rest of it for a version.
func spoiled(version *disk.Inode, below string) bool {
	own := version.Names[".ota"]
	if own == nil || !own.Type.IsDir() {
		return below == "" && len(version.Names) == 0
	}
	return below == ".ota/manifest.json" ||
		own.Names["manifest.json"] == nil && len(own.Unsynced("manifest.json")) == 0 && len(version.Unsynced(".ota")) == 0
}

// sealed looks whether c changes what is in a version that a link leads to.
func (j *judge) sealed(c *crashpoint.Call) {
	if !writes(c) {
		return
	}
	for _, link := range links {
		version := j.leads[link]
		if version == nil {
			continue
		}
		if why := j.touches(c, version, link); why != "" {
			j.add(Sealed, []int{c.Point}, "%s of %s, %s", c.Name, c.File.Path, why)
			return
		}
	}
}

// touches says how c changes version; empty: it does not, or it is allowed to.
func (j *judge) touches(c *crashpoint.Call, version *disk.Inode, link string) string {
	switch c.Name {
	case "rename", "link", "symlink", "mkdir", "unlink", "open":
		for _, p := range []crashpoint.Place{c.File, c.To} {
			// As a name in one of its folders.
			if p.Path == "" || c.Name == "link" && p == c.File {
				continue
			}
			dir := j.disk.Lookup(filepath.Dir(p.Path))
			if dir == nil || !holds(version, dir) {
				continue
			}
			from, _ := j.rel(c.File.Path)
			to, _ := j.rel(c.To.Path)
			exchanged := c.Name == "rename" && (strings.HasPrefix(from, ".staging/") || strings.HasPrefix(to, ".trash/"))
			if c.Name != "open" || c.File.Made {
				if j.Repairs && exchanged {
					continue
				}
				return "which is in " + link
			}
		}
	}
	is := j.disk.Lookup(c.File.Path)
	if is == nil || is.ID != c.File.ID || !holds(version, is) {
		return ""
	}
	switch c.Name {
	case "rename", "unlink":
		return "" // of another name that it has
	case "link":
		if link == "factory" {
			return "so that what is in factory has a name elsewhere"
		}
		return ""
	case "utimes":
		if link != "factory" || j.Repairs {
			return "" // the mark of a file that was found right
		}
	case "chmod":
		for _, other := range links {
			if o := j.leads[other]; o != nil && o != version && holds(o, is) {
				return "a file of " + link + " and of " + other
			}
		}
		if j.Repairs {
			return ""
		}
	}
	return "a file of " + link
}

// holds reports whether i is version or in it, under any name.
func holds(version, i *disk.Inode) bool {
	found := false
	version.Walk(func(_ string, is *disk.Inode) { found = found || is == i })
	return found
}

// after looks at what c has done.
func (j *judge) after(c *crashpoint.Call) {
	to, ok := j.rel(c.To.Path)
	toTrash := ok && c.Name == "rename" && strings.HasPrefix(to, ".trash/")
	if c.Errno != 0 {
		if from, ok := j.rel(c.File.Path); ok && toTrash {
			j.stays[from] = true
		}
		return
	}
	if toTrash {
		j.trashed[strings.TrimPrefix(to, ".trash/")] = c.Point
	}
	switched := c.Name == "rename" && c.To.Path == filepath.Join(j.Root, ".active") ||
		c.Name == "symlink" && c.File.Path == filepath.Join(j.Root, ".active")
	if switched {
		j.generation(c.Point)
	} else if dir := j.active(); dir != nil && writes(c) {
		at := j.disk.Lookup(filepath.Dir(c.File.Path))
		if at != nil && holds(dir, at) || c.To.Path != "" && holds(dir, j.disk.Lookup(filepath.Dir(c.To.Path))) {
			j.add(Generation, []int{c.Point}, "%s of %s, in the active generation", c.Name, c.File.Path)
		}
	}
	now := j.lead()
	moved := false
	for _, link := range links {
		was, is := j.leads[link], now[link]
		if was == is {
			continue
		}
		moved = moved || link != "factory"
		switch {
		case switched && (c.Name == "rename" || was == nil):
		case was == nil && is == j.behind(link): // a link that was lost or damaged is mended
			moved = false
		default:
			j.add(Switch, []int{c.Point}, "%s of %s changes what %s leads to", c.Name, c.File.Path, link)
		}
		if link == "current" && is == nil {
			j.add(Switch, []int{c.Point}, "current leads to nothing")
		}
	}
	j.leads = now
	if moved {
		j.switches = append(j.switches, c.Point)
		if n := len(j.switches); n > j.Switches {
			j.add(Switch, j.switches, "what current and previous lead to changes %d times, want %d", n, j.Switches)
		}
	}
}

// active is the folder of the active generation; nil: there is none.
func (j *judge) active() *disk.Inode {
	is, _ := j.disk.Resolve(filepath.Join(j.Root, ".active"))
	if is == nil || !is.Type.IsDir() {
		return nil
	}
	return is
}

// behind is what the switch says of link, whatever the fixed link does.
func (j *judge) behind(link string) *disk.Inode {
	is, _ := j.disk.Resolve(filepath.Join(j.Root, ".active", link))
	return is
}

// generation looks at the generation that was just made the active one.
func (j *judge) generation(point int) {
	dir := j.active()
	if dir == nil {
		j.add(Generation, []int{point}, ".active leads to no generation")
		return
	}
	target := j.disk.Lookup(filepath.Join(j.Root, ".active")).Target
	j.durable(Generation, point, dir, func(name string) string { return path.Join(target, name) })
	j.trail(Generation, point, ".active", ".active")

	var record struct {
		Generation                 uint64
		Phase                      string
		Current, Previous, Factory *struct{ Version string }
	}
	file := dir.Names["record.json"]
	if file == nil || !file.Type.IsRegular() || json.NewDecoder(bytes.NewReader(file.Data.Bytes())).Decode(&record) != nil {
		j.add(Generation, []int{point}, "%s has no record that can be read", target)
		return
	}
	if backup := dir.Names["record.backup.json"]; backup == nil || !backup.Type.IsRegular() || !bytes.Equal(backup.Data.Bytes(), file.Data.Bytes()) {
		j.add(Generation, []int{point}, "%s has no second copy of its record", target)
	}
	for _, l := range []struct {
		name string
		ref  *struct{ Version string }
	}{{"current", record.Current}, {"previous", record.Previous}, {"factory", record.Factory}} {
		want, got := "", ""
		if l.ref != nil {
			want = "../../v" + l.ref.Version
		}
		if is := dir.Names[l.name]; is != nil && is.Type == fs.ModeSymlink {
			got = is.Target
		}
		if got != want {
			j.add(Generation, []int{point}, "the link %s of %s is %q, and its record says %q", l.name, target, got, want)
		}
		if version := j.behind(l.name); version != nil {
			name := path.Base(got)
			if changes := j.disk.Lookup(j.Root).Unsynced(name); len(changes) > 0 {
				j.add(Published, append([]int{point}, points(changes)...), "%s leads to %s, whose name is not durable", l.name, name)
			}
			// A power cut could leave it both names, and what is half is removed.
			if staging := j.disk.Lookup(filepath.Join(j.Root, ".staging")); staging != nil {
				if changes := staging.Unsynced(name); len(changes) > 0 && slices.Contains(staging.MayHold(), version) {
					j.add(Published, append([]int{point}, points(changes)...), "%s leads to %s, which may still be .staging/%s, too", l.name, name, name)
				}
			}
			j.durable(Published, point, version, func(sub string) string { return path.Join(got, sub) })
		}
	}
	if want := ".generations/" + fmt.Sprint(record.Generation); target != want {
		j.add(Generation, []int{point}, ".active leads to %s, whose record is of %s", target, want)
	}
	j.prepared(point, target, record.Phase == "trial" && record.Previous != nil)
}

// prepared looks at what falls back from the generation target, which was just made
// the active one: there may be no room to make it later. must: it must be there.
func (j *judge) prepared(point int, target string, must bool) {
	name := target + ".fallback"
	dir := j.disk.Lookup(filepath.Join(j.Root, name))
	if dir == nil {
		if must {
			j.add(Generation, []int{point}, "nothing is prepared to fall back from %s", target)
		}
		return
	}
	link := dir.Names["active"]
	if link == nil {
		return // it was renamed
	}
	j.durable(Generation, point, dir, func(sub string) string { return path.Join(name, sub) })
	j.trail(Generation, point, name, "")
	made := j.disk.Lookup(filepath.Join(j.Root, link.Target))
	if made == nil || !made.Type.IsDir() {
		j.add(Generation, []int{point}, "%s is to lead to %s, which is not there", name, link.Target)
		return
	}
	j.durable(Generation, point, made, func(sub string) string { return path.Join(link.Target, sub) })
	j.trail(Generation, point, link.Target, "")
}

// trail demands that the names on the way of name are durable, but for that of except.
func (j *judge) trail(rule Rule, point int, name, except string) {
	_, steps := j.disk.Resolve(filepath.Join(j.Root, name))
	for _, s := range steps {
		rel, _ := j.rel(s.Path)
		if changes := points(s.Dir.Unsynced(s.Name)); len(changes) > 0 && rel != except {
			j.add(rule, append([]int{point}, changes...), "the name %s is not durable", rel)
		}
	}
}

// passing are names in the store of which no promise is made.
var passing = regexp.MustCompile(`^\.(lock|install\.lock|spool|(\.active|current|previous|factory)[0-9]+)$`)

// saySuccess looks whether all that was done is durable, at the point before which
// success is said.
func (j *judge) saySuccess(point int) {
	j.said = true
	root := j.disk.Lookup(j.Root)
	if root == nil {
		return
	}
	if parent := j.disk.Lookup(filepath.Dir(j.Root)); parent != nil {
		if changes := parent.Unsynced(filepath.Base(j.Root)); len(changes) > 0 {
			j.add(Said, append([]int{point}, points(changes)...), "success is said, and the name of the store is not durable")
		}
	}
	for _, change := range root.Pending {
		for _, n := range change.Names {
			if !passing.MatchString(n.Name) {
				j.add(Said, []int{point, change.Point}, "success is said, and the name %s is not durable", n.Name)
			}
		}
	}
	for _, link := range links {
		if version := j.leads[link]; version != nil {
			j.trail(Said, point, link, "")
			j.durable(Said, point, version, func(sub string) string { return path.Join(link, sub) })
		}
	}
	if made := root.Names[".generations"]; made != nil && made.Type.IsDir() {
		for name, dir := range made.Names {
			if strings.HasSuffix(name, ".fallback") && dir.Names["active"] != nil {
				j.durable(Said, point, dir, func(sub string) string { return path.Join(".generations", name, sub) })
			}
		}
	}
	if spool := root.Names[".spool"]; spool != nil && spool.Type.IsDir() {
		for name, is := range spool.Names {
			var says note
			// One whose sync failed is of no account: nothing is promised of a download.
			if changes := spool.Unsynced(name); len(changes) > 0 && !changes[0].Lost && strings.HasSuffix(name, ".json") &&
				json.Unmarshal(is.Data.Bytes(), &says) == nil && says.Synced > 0 {
				j.add(Said, append([]int{point}, points(changes)...), "it is done, and the name of the note .spool/%s is not durable", name)
			}
		}
	}
	for _, version := range j.news {
		if is := root.Names[version]; is != nil && !slices.Contains([]*disk.Inode{j.leads["current"], j.leads["previous"], j.leads["factory"]}, is) {
			j.durable(Said, point, is, func(sub string) string { return path.Join(version, sub) })
		}
	}
}
