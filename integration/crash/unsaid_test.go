package crash

import (
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
)

func TestStayedLost(t *testing.T) {
	folder := crashpoint.Place{Path: "/s", ID: crashpoint.ID{Ino: 7}, Type: fs.ModeDir}
	call := func(name, file string) crashpoint.Call {
		return crashpoint.Call{Name: name, File: crashpoint.Place{Path: file, Made: name == "open"}}
	}
	sync := crashpoint.Call{Name: "fsync", File: folder}
	fails := crashpoint.Call{Name: "fsync", File: folder, Errno: unix.ENOSPC, Injected: true}
	rename := crashpoint.Call{Name: "rename", File: crashpoint.Place{Path: "/s/tmp/new"}, To: crashpoint.Place{Path: "/s/active"}}
	trash := crashpoint.Call{Name: "rename", File: crashpoint.Place{Path: "/s/v1"}, To: crashpoint.Place{Path: "/s/.trash/v1-0"}}
	refused := call("mkdir", "/s/1")
	refused.Errno = unix.EEXIST
	for _, tt := range []struct {
		name  string
		calls []crashpoint.Call
		want  bool
	}{
		{"nobody syncs again", []crashpoint.Call{call("mkdir", "/s/1"), fails}, true},
		{"the same is synced again", []crashpoint.Call{call("mkdir", "/s/1"), fails, sync}, true},
		{"it is made anew and synced", []crashpoint.Call{call("mkdir", "/s/1"), fails, call("unlink", "/s/1"), call("mkdir", "/s/1"), sync}, false},
		{"it is made anew and not synced", []crashpoint.Call{call("mkdir", "/s/1"), fails, call("unlink", "/s/1"), call("mkdir", "/s/1")}, true},
		{"it was there when it was to be made anew", []crashpoint.Call{call("mkdir", "/s/1"), fails, refused, sync}, true},
		{"another one is made and synced", []crashpoint.Call{call("mkdir", "/s/1"), fails, call("mkdir", "/s/2"), sync}, true},
		{"the switch is made once more and synced", []crashpoint.Call{rename, fails, rename, sync}, false},
		{"the switch is made once more, and that sync fails too", []crashpoint.Call{rename, fails, rename, fails}, true},
		{"the disk is synced after it was made anew", []crashpoint.Call{call("open", "/s/f"), fails, call("unlink", "/s/f"), call("open", "/s/f"), call("syncfs", "/s")}, false},
		{"it had nothing to make last", []crashpoint.Call{call("mkdir", "/s/1"), sync, fails, sync}, false},
		{"it was made and taken away", []crashpoint.Call{call("mkdir", "/s/1"), call("unlink", "/s/1"), fails}, false},
		{"it was taken away", []crashpoint.Call{call("mkdir", "/s/1"), sync, call("unlink", "/s/1"), fails}, true},
		{"a version was thrown away", []crashpoint.Call{trash, fails}, false},
		{"what changed is elsewhere", []crashpoint.Call{call("mkdir", "/s/1/2"), fails}, false},
	} {
		failed := 0
		for n := range tt.calls {
			if tt.calls[n].Injected {
				failed = n
				break
			}
		}
		if got := stayedLost(tt.calls, failed); got != tt.want {
			t.Errorf("%s: stayedLost = %v, want %v", tt.name, got, tt.want)
		}
	}
}
