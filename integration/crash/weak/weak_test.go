package weak_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/disk"
	"github.com/tope-ota/ota/integration/crash/handmade"
	"github.com/tope-ota/ota/integration/crash/weak"
)

const seed = 1

// wrong is what is wrong with a store that handmade.Store and Install made; empty:
// nothing. version is what must be current; empty: one of both.
func wrong(tree *disk.Node, version string) string {
	d := disk.New(map[string]*disk.Node{"/s": tree})
	record, _ := d.Resolve("/s/.active/record.json")
	if record == nil || !strings.HasPrefix(string(record.Data.Bytes()), `{"generation":`) || !strings.HasSuffix(string(record.Data.Bytes()), "}") {
		return "no record"
	}
	if backup, _ := d.Resolve("/s/.active/record.backup.json"); backup == nil || !bytes.Equal(backup.Data.Bytes(), record.Data.Bytes()) {
		// What Store begins with is of a program that made none.
		if target, _ := d.Resolve("/s/.active"); target.Names["record.backup.json"] != nil {
			return "no second copy of the record"
		}
	}
	apps := map[string]string{"1": "one", "2": "two", "3": "three"}
	for _, link := range []string{"current", "previous", "factory"} {
		_, steps := d.Resolve("/s/" + link)
		is, _ := d.Resolve("/s/" + link + "/bin/app")
		manifest, _ := d.Resolve("/s/" + link + "/.ota/manifest.json")
		name := strings.TrimPrefix(steps[len(steps)-1].Name, "v")
		switch {
		case is == nil || manifest == nil || string(is.Data.Bytes()) != apps[name] || string(manifest.Data.Bytes()) != "{"+name+"}" || is.Mode != 0o755 && name == "3":
			return fmt.Sprintf("%s leads to %s, which is not whole", link, name)
		case !strings.Contains(string(record.Data.Bytes()), fmt.Sprintf("%q:{\"version\":%q", link, name)):
			return fmt.Sprintf("%s leads to %s, and the record says %s", link, name, record.Data.Bytes())
		case link == "current" && version != "" && name != version:
			return fmt.Sprintf("current is %s, want %s", name, version)
		}
		if folder, _ := d.Resolve("/s/" + link); weak.Twice(tree, folder.ID) {
			return fmt.Sprintf("the folder that %s leads to has two names", link)
		}
	}
	return ""
}

// each is how many states there are of l, of which bad are wrong; what is one of them.
// Success is said behind the last call.
func each(t *testing.T, l *handmade.Log, calls []crashpoint.Call) (states, bad int, what string) {
	t.Helper()
	last := calls[len(calls)-1].Point
	err := weak.Each(weak.Run{Root: l.Root, Before: l.Before, Calls: calls}, 200, seed, func(s weak.State) bool {
		states++
		version := ""
		if s.Point == last {
			version = "3"
		}
		if text := wrong(s.Tree, version); text != "" {
			bad++
			what = fmt.Sprintf("point %d, %s: %s", s.Point, s.How, text)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return states, bad, what
}

func TestInstallThatForgetsNothing(t *testing.T) {
	l := handmade.Store("/site/store")
	l.Install()
	states, bad, what := each(t, l, l.Calls)
	if bad > 0 || states < 1000 {
		t.Errorf("%d states, %d of them wrong: %s", states, bad, what)
	}
}

// Each sync that an install makes is needed, and a program that forgets one is found.
func TestInstallThatForgets(t *testing.T) {
	l := handmade.Store("/site/store")
	l.Install()
	syncs := 0
	for i := range l.Calls {
		c := &l.Calls[i]
		if c.Name != "fsync" && c.Name != "syncfs" {
			continue
		}
		syncs++
		t.Run(fmt.Sprintf("%s of %s", c.Name, filepath.Base(c.File.Path)), func(t *testing.T) {
			// The point stays: it is said at the same moment.
			calls := append([]crashpoint.Call(nil), l.Calls...)
			calls[i] = crashpoint.Call{Point: c.Point, Name: "syncrange", File: c.File}
			if _, bad, what := each(t, l, calls); bad == 0 {
				t.Error("nothing is found")
			} else {
				t.Logf("%d, as %s", bad, what)
			}
		})
	}
	if syncs != 8 {
		t.Errorf("%d syncs, want 8", syncs)
	}
}

// A sync that failed and was made again is none.
func TestInstallThatSyncsAgain(t *testing.T) {
	l := handmade.Store("/site/store")
	l.Unpack()
	l.Fail(unix.EIO, l.Syncfs)
	l.Syncfs()
	l.Publish()
	l.Generation(8, "3", "2", "1")
	l.Switch(8)
	if _, bad, _ := each(t, l, l.Calls); bad == 0 {
		t.Error("nothing is found")
	}
}

// The rename of a link onto another one is replaced by two calls.
func TestInstallInTwoSteps(t *testing.T) {
	l := handmade.Store("/site/store")
	l.Unpack()
	l.Syncfs()
	l.Publish()
	l.Generation(8, "3", "2", "1")
	l.Remove(".active")
	l.Symlink(".generations/8", ".active")
	l.Fsync("")
	if _, bad, _ := each(t, l, l.Calls); bad == 0 {
		t.Error("nothing is found")
	}
}

// What the rules of package disk say of one call.
func TestRules(t *testing.T) {
	for _, test := range []struct {
		name  string
		write func(l *handmade.Log)
		// may is what the file f of the root may be in the end, and must be in some
		// state: "-" is none.
		may []string
	}{
		{"a file that is made", func(l *handmade.Log) { l.Create("f", "") }, []string{"-", ""}},
		{"a file that is made, and its folder synced", func(l *handmade.Log) { l.Create("f", ""); l.Fsync("") }, []string{""}},
		{"a file that is written, and its folder synced", func(l *handmade.Log) { l.Create("f", "ab"); l.Fsync("") }, []string{"", "ab", "\x00\x00", "a"}},
		{"a file that is written and synced", func(l *handmade.Log) { l.Create("f", "ab"); l.Fsync("f") }, []string{"-", "ab"}},
		{"a file that is written, and all synced", func(l *handmade.Log) { l.Create("f", "ab"); l.Syncfs() }, []string{"ab"}},
		{"a file whose sync failed", func(l *handmade.Log) {
			l.Create("f", "")
			l.Fsync("")
			l.Write("f", 0, "a")
			l.Fail(unix.EIO, func() { l.Fsync("f") })
			l.Fsync("f")
		}, []string{"", "a", "\x00"}},
		{"a file that is renamed in its folder", func(l *handmade.Log) {
			l.Create("g", "g")
			l.Create("f", "f")
			l.Syncfs()
			l.Rename("g", "f")
		}, []string{"f", "g"}},
		{"a file that is removed", func(l *handmade.Log) { l.Create("f", "f"); l.Syncfs(); l.Remove("f") }, []string{"f", "-"}},
		{"a file that is moved away", func(l *handmade.Log) { l.Create("f", "f"); l.Syncfs(); l.Rename("f", ".trash/f") }, []string{"f", "-"}},
		{"a file that is moved away, and where it came to synced", func(l *handmade.Log) {
			l.Create("f", "f")
			l.Syncfs()
			l.Rename("f", ".trash/f")
			l.Fsync(".trash")
		}, []string{"f", "-"}},
		{"a file that is moved away, and where it was synced", func(l *handmade.Log) { l.Create("f", "f"); l.Syncfs(); l.Rename("f", ".trash/f"); l.Fsync("") }, []string{"-"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := handmade.New("/site/store", [2]string{".trash/", ""})
			test.write(l)
			found := map[string]bool{}
			err := weak.Each(weak.Run{Root: l.Root, Before: l.Before, Calls: l.Calls}, 100, seed, func(s weak.State) bool {
				if s.Point == len(l.Calls) {
					is := "-"
					if f := s.Tree.Names["f"]; f != nil {
						is = string(f.Data.Bytes())
					}
					found[is] = true
				}
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, may := range test.may {
				if !found[may] {
					t.Errorf("no state has %q", may)
				}
				delete(found, may)
			}
			for is := range found {
				t.Errorf("a state has %q", is)
			}
		})
	}
}

// A file that is moved to another folder may be lost, or be in both.
func TestMove(t *testing.T) {
	l := handmade.New("/site/store", [2]string{"a/f", "f"}, [2]string{"b/", ""})
	l.Rename("a/f", "b/f")
	found := map[string]int{}
	err := weak.Each(weak.Run{Root: l.Root, Before: l.Before, Calls: l.Calls}, 100, seed, func(s weak.State) bool {
		if s.Point == 1 {
			found[fmt.Sprint(s.Tree.Names["a"].Names["f"] != nil, s.Tree.Names["b"].Names["f"] != nil)]++
		}
		return true
	})
	if err != nil || len(found) != 4 {
		t.Errorf("%v, %v: want four ways", found, err)
	}
}

// The same seed makes the same states.
func TestSeed(t *testing.T) {
	states := func(seed uint64) (all []string) {
		l := handmade.Store("/site/store")
		l.Install()
		err := weak.Each(weak.Run{Root: l.Root, Before: l.Before, Calls: l.Calls}, 50, seed, func(s weak.State) bool {
			all = append(all, fmt.Sprintf("%d %x", s.Point, s.Tree.Sum()))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	one, again, other := states(7), states(7), states(8)
	if fmt.Sprint(one) != fmt.Sprint(again) {
		t.Error("one seed, two sequences of states")
	}
	if fmt.Sprint(one) == fmt.Sprint(other) {
		t.Error("two seeds, one sequence of states")
	}
}
