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

func (l *handLog) Mkdir(name string) {
	l.Do(crashpoint.Call{Name: "mkdir", File: l.place(name, true), Mode: 0o755})
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

func (l *handLog) Chmod(name string, mode fs.FileMode) {
	l.Do(crashpoint.Call{Name: "chmod", File: l.place(name, false), Mode: mode})
}

func (l *handLog) Symlink(target, name string) {
	l.Do(crashpoint.Call{Name: "symlink", File: l.place(name, true), Target: target})
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

// RemoveAll removes name with all that is in it.
func (l *handLog) RemoveAll(name string) {
	var names []string
	l.disk.Lookup(l.path(name)).Walk(func(sub string, _ *Inode) { names = append(names, filepath.Join(name, sub)) })
	for i := len(names) - 1; i >= 0; i-- {
		l.Remove(names[i])
	}
}

func (l *handLog) Fsync(name string) {
	l.Do(crashpoint.Call{Name: "fsync", File: l.place(name, false)})
}

func (l *handLog) Syncfs() {
	l.Do(crashpoint.Call{Name: "syncfs", File: crashpoint.Place{Path: l.Root, ID: crashpoint.ID{Dev: 1, Ino: 1}}})
}

// store begins the log of a store with two versions, 1 and 2, of which 2 is current
// and 1 is previous and factory.
func store(root string) *handLog {
	return newLog(root,
		[2]string{".trash/", ""}, [2]string{".staging/", ""},
		[2]string{"v1/bin/app", "one"}, [2]string{"v1/.ota/manifest.json", "{1}"},
		[2]string{"v2/bin/app", "two"}, [2]string{"v2/.ota/manifest.json", "{2}"}, [2]string{"v2/shared", "=v1/bin/app"},
		[2]string{".generations/7/record.json", record(7, "2", "1", "1")},
		[2]string{".generations/7/current", "-> ../../v2"},
		[2]string{".generations/7/previous", "-> ../../v1"},
		[2]string{".generations/7/factory", "-> ../../v1"},
		[2]string{".active", "-> .generations/7"},
		[2]string{"current", "-> .active/current"}, [2]string{"previous", "-> .active/previous"}, [2]string{"factory", "-> .active/factory"},
	)
}

func record(n int, current, previous, factory string) string {
	return fmt.Sprintf(`{"generation":%d,"current":{"version":%q},"previous":{"version":%q},"factory":{"version":%q}}`, n, current, previous, factory)
}

// Install is what an install of version 3 does to Store when it forgets no sync.
// Its parts are methods, so that a test can do one of them otherwise.
func (l *handLog) Install() {
	l.Unpack()
	l.Syncfs()
	l.Publish()
	l.Generation(8, "3", "2", "1")
	l.Switch(8)
}

// Unpack makes version 3 in .staging.
func (l *handLog) Unpack() {
	l.Mkdir(".staging/v3")
	l.Mkdir(".staging/v3/.ota")
	l.Create(".staging/v3/.ota/manifest.json", "{3}")
	l.Mkdir(".staging/v3/bin")
	l.Create(".staging/v3/bin/app", "three")
	l.Chmod(".staging/v3/bin/app", 0o755)
}

// Publish gives version 3 its name.
func (l *handLog) Publish() {
	l.Rename(".staging/v3", "v3")
	l.Fsync("")
	l.Fsync(".staging")
}

// Generation writes generation n.
func (l *handLog) Generation(n int, current, previous, factory string) {
	dir := fmt.Sprintf(".generations/%d", n)
	l.Mkdir(dir)
	for _, name := range []string{"/record.backup.json", "/record.json"} {
		l.Create(dir+name, record(n, current, previous, factory))
		l.Fsync(dir + name)
	}
	for _, link := range [][2]string{{"current", current}, {"previous", previous}, {"factory", factory}} {
		l.Symlink("../../v"+link[1], dir+"/"+link[0])
	}
	l.Fsync(dir)
	l.Fsync(".generations")
}

// Switch makes generation n the active one.
func (l *handLog) Switch(n int) {
	l.Mkdir("..active1")
	l.Symlink(fmt.Sprintf(".generations/%d", n), "..active1/tmp.symlink")
	l.Rename("..active1/tmp.symlink", ".active")
	l.Remove("..active1")
	l.Fsync("")
}
