package crash

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/flows"
	"github.com/tope-ota/ota/integration/crash/invariants"
)

// unsaid are the calls that should have made something last, failed, and are not
// what the program said: success, and what they were about is still there.
func unsaid(s *flows.Site, said *invariants.Said, r *crashpoint.Run) []invariants.Problem {
	if said.Killed || !said.Success() {
		return nil
	}
	var problems []invariants.Problem
	for i := range r.Calls {
		call := &r.Calls[i]
		switch call.Name {
		case "fsync", "syncfs":
		default:
			continue
		}
		if !call.Injected || !strings.HasPrefix(call.File.Path, s.Root) {
			continue
		}
		if strings.HasPrefix(call.File.Path, s.Root+"/.spool") {
			continue // success is not about a download; what notes say of it: weak, vouched
		}
		if isFollowers(call.File.Path) {
			continue // nor about what the follower notes of it
		}
		// A file that was thrown away, and another one made in its place, is well.
		var st unix.Stat_t
		if unix.Lstat(call.File.Path, &st) != nil || st.Ino != call.File.ID.Ino {
			continue
		}
		if call.Name == "fsync" && call.File.Type.IsDir() && !stayedLost(r.Calls, i) {
			continue
		}
		problems = append(problems, invariants.Lie.Of("exit %d, although %s of %s failed (%v)", said.Exit, call.Name, inSite(s.Dir, call.File.Path), call.Errno))
	}
	return problems
}

// stayedLost reports whether a name may be lost that the sync of a directory, which
// failed at calls[i], was to make last. What one sync lost no later one brings back;
// but what happens to the same name after it is a change of its own, and lasts by
// the next sync.
func stayedLost(calls []crashpoint.Call, i int) bool {
	dir := calls[i].File
	var pending, lost, again names
	for n := range calls {
		c := &calls[n]
		switch {
		case n == i:
			lost, pending = pending, nil
		case c.Name == "fsync" && c.File.ID == dir.ID && c.Errno == 0, c.Name == "syncfs" && c.Errno == 0:
			pending, again = nil, nil
		case c.Errno == 0:
			made, gone := changed(c)
			for _, name := range made {
				if path.Dir(name) == dir.Path && !isFollowers(name) {
					pending.add(name, true)
					again.take(lost, name)
				}
			}
			for _, name := range gone {
				if path.Dir(name) != dir.Path || isFollowers(name) {
					continue
				}
				if pending[name] {
					delete(pending, name) // it never was there for long
				} else {
					pending.add(name, false)
				}
				again.take(lost, name)
			}
		}
	}
	return len(lost)+len(again) > 0
}

// names are what was changed in a directory; true: the name was not there before.
type names map[string]bool

func (n *names) add(name string, is bool) {
	if *n == nil {
		*n = make(names)
	}
	(*n)[name] = is
}

// take takes name from another set.
func (n *names) take(from names, name string) {
	if is, ok := from[name]; ok {
		delete(from, name)
		n.add(name, is)
	}
}

// changed are the names that c gave to a file that had another one or none, and
// those that it took away. A name that a rename gave to another file was there, or
// does as much harm as if it had been.
func changed(c *crashpoint.Call) (made, gone []string) {
	switch c.Name {
	case "mkdir", "symlink":
		return []string{c.File.Path}, nil
	case "open":
		if c.File.Made {
			return []string{c.File.Path}, nil
		}
	case "link":
		return []string{c.To.Path}, nil
	case "unlink":
		return nil, []string{c.File.Path}
	case "rename":
		if path.Base(path.Dir(c.To.Path)) == ".trash" {
			return nil, nil // it may come back, whole
		}
		return nil, []string{c.File.Path, c.To.Path}
	}
	return nil, nil
}

// isFollowers reports whether name is the state of applier/follow, or one in its making.
func isFollowers(name string) bool { return strings.Contains(path.Base(name), ".follow.json") }
