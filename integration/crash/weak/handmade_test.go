package weak

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
)

// A handLog is a log that a test writes by hand, of a store in memory. It is written call by call. Paths are relative to Root.
type handLog struct {
	Root   string
	Before map[string]*Node
	Calls  []crashpoint.Call
	disk   *Disk
	last   uint64 // inode number
}

// newLog begins a log of a store at root that holds tree, by paths: a folder ends in
// "/", "-> " begins the target of a link, all else is what a file holds. A path with
// "=" before it is a second name of the file whose path follows.
func newLog(root string, tree ...[2]string) *handLog {
	l := &handLog{}
	top := &Node{ID: l.id(), Mode: fs.ModeDir | 0o755, Names: map[string]*Node{}}
	for _, t := range tree {
		name, content := t[0], t[1]
		parts := strings.Split(strings.TrimSuffix(name, "/"), "/")
		dir := top
		for _, p := range parts[:len(parts)-1] {
			if dir.Names[p] == nil {
				dir.Names[p] = &Node{ID: l.id(), Mode: fs.ModeDir | 0o755, Names: map[string]*Node{}}
			}
			dir = dir.Names[p]
		}
		n := &Node{ID: l.id()}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			n.Mode, n.Target = fs.ModeSymlink|0o777, target
		} else if strings.HasSuffix(name, "/") {
			n.Mode, n.Names = fs.ModeDir|0o755, map[string]*Node{}
		} else if same, ok := strings.CutPrefix(content, "="); ok {
			n = top
			for _, p := range strings.Split(same, "/") {
				n = n.Names[p]
			}
		} else {
			n.Mode, n.Data = 0o644, NewBlob([]byte(content))
		}
		dir.Names[parts[len(parts)-1]] = n
	}
	l = &handLog{Root: root, Before: map[string]*Node{root: top}, last: 10_000}
	l.disk = NewDisk(l.Before)
	return l
}

func (l *handLog) id() crashpoint.ID {
	l.last++
	return crashpoint.ID{Dev: 1, Ino: l.last}
}

func (l *handLog) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(l.Root, name)
}

// place is what name is now; of what is not there, made says whether it is made now.
func (l *handLog) place(name string, made bool) crashpoint.Place {
	p := crashpoint.Place{Path: l.path(name)}
	if is := l.disk.Lookup(p.Path); is != nil {
		p.ID, p.Type = is.ID, is.Type
	} else if made {
		p.ID, p.Made = l.id(), true
	}
	return p
}

// Do notes c, as it was made: its point and places are filled in.
func (l *handLog) Do(c crashpoint.Call) {
	c.Point = len(l.Calls) + 1
	c.Program = "handmade"
	if err := l.disk.Play(&c); err != nil {
		panic(fmt.Sprintf("a log made by hand is wrong: %v", err))
	}
	l.Calls = append(l.Calls, c)
}

// Fail notes the one call that f makes as one that failed with errno.
func (l *handLog) Fail(errno unix.Errno, f func()) {
	done := len(l.Calls)
	f()
	failed := l.Calls[done]
	failed.Errno, failed.Injected = errno, true
	// Once more, without it.
	l.disk = NewDisk(l.Before)
	calls := l.Calls[:done]
	l.Calls = nil
	for _, c := range calls {
		l.Do(c)
	}
	l.Do(failed)
}

// Create makes a file with content.
func (l *handLog) Create(name, content string) {
	l.Do(crashpoint.Call{Name: "open", File: l.place(name, true), Flags: unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, Mode: 0o644})
	if content != "" {
		l.Write(name, 0, content)
	}
}

func (l *handLog) Write(name string, at int64, content string) {
	l.Do(crashpoint.Call{Name: "write", File: l.place(name, false), Offset: at, Length: int64(len(content)), Data: []byte(content)})
}

func (l *handLog) Rename(from, to string) {
	l.Do(crashpoint.Call{Name: "rename", File: l.place(from, false), To: l.place(to, false)})
}

func (l *handLog) Remove(name string) {
	c := crashpoint.Call{Name: "unlink", File: l.place(name, false)}
	if c.File.Type == fs.ModeDir {
		c.Flags = unix.AT_REMOVEDIR
	}
	l.Do(c)
}

func (l *handLog) Fsync(name string) {
	l.Do(crashpoint.Call{Name: "fsync", File: l.place(name, false)})
}

func (l *handLog) Syncfs() {
	l.Do(crashpoint.Call{Name: "syncfs", File: crashpoint.Place{Path: l.Root, ID: crashpoint.ID{Dev: 1, Ino: 1}}})
}
