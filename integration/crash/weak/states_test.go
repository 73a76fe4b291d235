package weak

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

const seed = 1

// What the rules of a Disk say of one call.
func TestRules(t *testing.T) {
	for _, test := range []struct {
		name  string
		write func(l *handLog)
		// may is what the file f of the root may be in the end, and must be in some
		// state: "-" is none.
		may []string
	}{
		{"a file that is made", func(l *handLog) { l.Create("f", "") }, []string{"-", ""}},
		{"a file that is made, and its folder synced", func(l *handLog) { l.Create("f", ""); l.Fsync("") }, []string{""}},
		{"a file that is written, and its folder synced", func(l *handLog) { l.Create("f", "ab"); l.Fsync("") }, []string{"", "ab", "\x00\x00", "a"}},
		{"a file that is written and synced", func(l *handLog) { l.Create("f", "ab"); l.Fsync("f") }, []string{"-", "ab"}},
		{"a file that is written, and all synced", func(l *handLog) { l.Create("f", "ab"); l.Syncfs() }, []string{"ab"}},
		{"a file whose sync failed", func(l *handLog) {
			l.Create("f", "")
			l.Fsync("")
			l.Write("f", 0, "a")
			l.Fail(unix.EIO, func() { l.Fsync("f") })
			l.Fsync("f")
		}, []string{"", "a", "\x00"}},
		{"a file that is renamed in its folder", func(l *handLog) {
			l.Create("g", "g")
			l.Create("f", "f")
			l.Syncfs()
			l.Rename("g", "f")
		}, []string{"f", "g"}},
		{"a file that is removed", func(l *handLog) { l.Create("f", "f"); l.Syncfs(); l.Remove("f") }, []string{"f", "-"}},
		{"a file that is moved away", func(l *handLog) { l.Create("f", "f"); l.Syncfs(); l.Rename("f", ".trash/f") }, []string{"f", "-"}},
		{"a file that is moved away, and where it came to synced", func(l *handLog) {
			l.Create("f", "f")
			l.Syncfs()
			l.Rename("f", ".trash/f")
			l.Fsync(".trash")
		}, []string{"f", "-"}},
		{"a file that is moved away, and where it was synced", func(l *handLog) { l.Create("f", "f"); l.Syncfs(); l.Rename("f", ".trash/f"); l.Fsync("") }, []string{"-"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLog("/site/store", [2]string{".trash/", ""})
			test.write(l)
			found := map[string]bool{}
			err := Each(Run{Root: l.Root, Before: l.Before, Calls: l.Calls}, 100, seed, func(s State) bool {
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
	l := newLog("/site/store", [2]string{"a/f", "f"}, [2]string{"b/", ""})
	l.Rename("a/f", "b/f")
	found := map[string]int{}
	err := Each(Run{Root: l.Root, Before: l.Before, Calls: l.Calls}, 100, seed, func(s State) bool {
		if s.Point == 1 {
			found[fmt.Sprint(s.Tree.Names["a"].Names["f"] != nil, s.Tree.Names["b"].Names["f"] != nil)]++
		}
		return true
	})
	if err != nil || len(found) != 4 {
		t.Errorf("%v, %v: want four ways", found, err)
	}
}
