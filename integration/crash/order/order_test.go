package order_test

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/crash/crashpoint"
	"github.com/tope-ota/ota/integration/crash/disk"
	"github.com/tope-ota/ota/integration/crash/handmade"
	"github.com/tope-ota/ota/integration/crash/order"
)

// dropped is the log of an install that does not make the calls that are named so
// of the file.
func dropped(name, file string) func(l *handmade.Log) {
	return func(l *handmade.Log) {
		l.Install()
		l.Calls = l.Without(func(c *crashpoint.Call) bool {
			rel := strings.TrimPrefix(strings.TrimPrefix(c.File.Path, l.Root), "/")
			return c.Name == name && rel == file
		})
	}
}

// A log with one fault violates its rule; the same without it violates none.
func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name    string
		write   func(l *handmade.Log)
		rule    order.Rule // empty: it is as it must be
		text    string
		repairs bool
		exit    int
		// unsettled: see order.Run
		unsettled bool
	}{
		{name: "an install that forgets nothing", write: (*handmade.Log).Install},
		{name: "a run that does nothing", write: func(*handmade.Log) {}},

		{name: "the stage is not synced", write: dropped("syncfs", ""), rule: order.Staged, text: ".staging/v3/bin/app is not synced since its mode"},
		{name: "the stage is synced before its last file is written", rule: order.Staged, text: ".staging/v3/late is not synced since it was written", write: func(l *handmade.Log) {
			l.Unpack()
			l.Create(".staging/v3/late", "")
			l.Syncfs()
			l.Write(".staging/v3/late", 0, "late")
			l.Publish()
			l.Generation(8, "3", "2", "1")
			l.Switch(8)
		}},
		{name: "a folder of the stage is not synced", rule: order.Staged, text: ".staging/v3/bin is a folder that was not synced", write: func(l *handmade.Log) {
			l.Unpack()
			l.Syncfs()
			l.Create(".staging/v3/bin/late", "late")
			l.Fsync(".staging/v3/bin/late")
			l.Publish()
		}},
		{name: "each file and folder is synced by itself", write: func(l *handmade.Log) {
			l.Unpack()
			for _, name := range []string{"/.ota/manifest.json", "/.ota", "/bin/app", "/bin", ""} {
				l.Fsync(".staging/v3" + name)
			}
			l.Fsync(".staging")
			l.Publish()
			l.Generation(8, "3", "2", "1")
			l.Switch(8)
		}},
		{name: "the sync of the stage failed, and it is published all the same", rule: order.Staged, text: "one whose sync failed", write: func(l *handmade.Log) {
			l.Unpack()
			l.Fail(unix.EIO, l.Syncfs)
			l.Syncfs()
			l.Publish()
		}},

		{name: "a file of the store is replaced by one that is not synced", rule: order.Staged, text: ".revoked.json.new is not synced", write: func(l *handmade.Log) {
			l.Create(".revoked.json.new", "{}")
			l.Rename(".revoked.json.new", ".revoked.json")
			l.Fsync("")
		}},
		{name: "a file of the store is replaced by one that is synced, and the name is not", rule: order.Said, text: "the name .revoked.json is not durable", write: func(l *handmade.Log) {
			l.Create(".revoked.json.new", "{}")
			l.Fsync(".revoked.json.new")
			l.Rename(".revoked.json.new", ".revoked.json")
		}},
		{name: "a sidecar of a download is replaced by one that is not synced", write: func(l *handmade.Log) {
			l.Mkdir(".spool")
			l.Create(".spool/.x.json0", "{}")
			l.Rename(".spool/.x.json0", ".spool/x.json")
		}},
		{name: "the note of a download vouches for what is not synced", rule: order.Spool, text: "vouches for 4 bytes that were not", write: func(l *handmade.Log) {
			l.Mkdir(".spool")
			l.Create(".spool/x.part", "data")
			vouch(l)
		}},
		{name: "the note of a download vouches for what is synced", write: func(l *handmade.Log) {
			l.Mkdir(".spool")
			l.Create(".spool/x.part", "data")
			l.Fsync(".spool/x.part")
			vouch(l)
			l.Fsync(".spool")
		}},
		{name: "the note of a download is not durable in the end", rule: order.Said, text: "the note .spool/x.json is not durable", write: func(l *handmade.Log) {
			l.Mkdir(".spool")
			l.Create(".spool/x.part", "data")
			l.Fsync(".spool/x.part")
			vouch(l)
		}},
		{name: "the note of a download could not be made durable", write: func(l *handmade.Log) {
			l.Mkdir(".spool")
			l.Create(".spool/x.part", "data")
			l.Fsync(".spool/x.part")
			vouch(l)
			l.Fail(unix.EIO, func() { l.Fsync(".spool") })
		}},
		{name: "a download is begun while the note of another one may come back", rule: order.Spool, text: "that the note of another one is gone", write: func(l *handmade.Log) {
			l.Mkdir(".spool")
			l.Create(".spool/x.json", "{}")
			l.Syncfs()
			l.Remove(".spool/x.json")
			l.Create(".spool/x.part", "")
		}},
		{name: "a mode is changed by a repair, of a file that previous has, too", rule: order.Sealed, text: "a file of current and of previous", repairs: true, write: func(l *handmade.Log) {
			l.Chmod("v2/shared", 0o400)
			l.Fsync("v2/shared")
		}},
		{name: "the name of the version is not durable when it is switched to", rule: order.Published, text: "current leads to v3, whose name is not durable", write: func(l *handmade.Log) {
			l.Unpack()
			l.Syncfs()
			l.Rename(".staging/v3", "v3")
			l.Generation(8, "3", "2", "1")
			l.Switch(8)
		}},
		{name: "the version may still have its other name", write: dropped("fsync", ".staging"), rule: order.Published, text: "which may still be .staging/v3"},
		{name: "the switch is before the version has its name", rule: order.Switch, text: "current leads to nothing", write: func(l *handmade.Log) {
			l.Unpack()
			l.Syncfs()
			l.Generation(8, "3", "2", "1")
			l.Switch(8)
			l.Publish()
		}},

		{name: "the record is not synced", write: dropped("fsync", ".generations/8/record.json"), rule: order.Generation, text: "record.json is not synced"},
		{name: "the links are not synced", write: dropped("fsync", ".generations/8"), rule: order.Generation, text: ".generations/8 is a folder that was not synced"},
		{name: "the name of the generation is not synced", write: dropped("fsync", ".generations"), rule: order.Generation, text: "the name .generations/8 is not durable"},
		{name: "the record is written after the switch", rule: order.Generation, text: "in the active generation", write: func(l *handmade.Log) {
			l.Install()
			l.Write(".generations/8/record.json", 0, "{")
		}},
		{name: "a link is missing", write: dropped("symlink", ".generations/8/previous"), rule: order.Generation, text: `the link previous of .generations/8 is ""`},
		{name: "a link is another one than the record says", rule: order.Generation, text: "its record says", write: func(l *handmade.Log) {
			l.Mkdir(".generations/8")
			l.Create(".generations/8/record.json", `{"generation":8,"current":{"version":"1"}}`)
			l.Symlink("../../v2", ".generations/8/current")
			l.Syncfs()
			l.Switch(8)
		}},

		{name: "the root is not synced after the switch", rule: order.Said, text: "the name .active is not durable", write: func(l *handmade.Log) {
			l.Install()
			l.Calls = l.Calls[:len(l.Calls)-1]
		}},
		{name: "the root is not synced, and no success is said", exit: 10, write: func(l *handmade.Log) {
			l.Install()
			l.Calls = l.Calls[:len(l.Calls)-1]
		}},
		{name: "the root's sync failed, and a second one did not", rule: order.Said, text: "the name .active is not durable", write: func(l *handmade.Log) {
			l.Install()
			l.Calls = l.Calls[:len(l.Calls)-1]
			l.Fail(unix.EIO, func() { l.Fsync("") })
			l.Fsync("")
		}},
		{name: "success is reported before the root is synced", rule: order.Said, text: "the name .active is not durable", write: func(l *handmade.Log) {
			l.Install()
			sync := l.Calls[len(l.Calls)-1]
			l.Calls = l.Calls[:len(l.Calls)-1]
			l.Do(crashpoint.Call{Name: "write", File: crashpoint.Place{Path: "/site/run/.progress.json.1", ID: crashpoint.ID{Dev: 9, Ino: 9}},
				Data: []byte(`{"stage":"success","progress":100}` + "\n"), Length: 35})
			l.Do(sync)
		}},
		{name: "success is said of the switch of another program", unsettled: true, rule: order.Said, text: "the name .active is not durable", write: func(*handmade.Log) {}},
		{name: "success is said of the switch of another program, once it is durable", unsettled: true, write: func(l *handmade.Log) { l.Fsync("") }},
		{name: "a version is published and its name is not synced", rule: order.Said, text: "the name v3 is not durable", write: func(l *handmade.Log) {
			l.Unpack()
			l.Syncfs()
			l.Rename(".staging/v3", "v3")
		}},

		{name: "the switch is replaced in two steps", rule: order.Switch, text: "current leads to nothing", write: func(l *handmade.Log) {
			l.Generation(8, "1", "2", "1")
			l.Remove(".active")
			l.Symlink(".generations/8", ".active")
			l.Fsync("")
		}},
		{name: "a fixed link is made to lead elsewhere", rule: order.Switch, text: "changes what previous leads to", write: func(l *handmade.Log) {
			l.Symlink("v2", "previous.new")
			l.Rename("previous.new", "previous")
			l.Fsync("")
		}},
		{name: "current and previous are changed one after the other", rule: order.Switch, text: "changes 2 times, want 1", write: func(l *handmade.Log) {
			l.Generation(8, "1", "1", "1")
			l.Switch(8)
			l.Generation(9, "1", "2", "1")
			l.Switch(9)
		}},
		{name: "a fixed link that is lost is made again", write: func(l *handmade.Log) {
			*l = *handmade.New("/site/store",
				[2]string{"v1/app", "one"}, [2]string{".generations/7/record.json", `{"generation":7,"current":{"version":"1"}}`},
				[2]string{".generations/7/current", "-> ../../v1"}, [2]string{".active", "-> .generations/7"})
			l.Symlink(".active/current", "current")
			l.Fsync("")
		}},
		{name: "the current version is moved away", rule: order.Switch, text: "current leads to nothing", write: func(l *handmade.Log) {
			l.Rename("v2", ".trash/v2")
			l.Fsync("")
		}},

		{name: "a file of current is written to", rule: order.Sealed, text: "a file of current", write: func(l *handmade.Log) { l.Write("v2/bin/app", 0, "!"); l.Syncfs() }},
		{name: "a file of factory is written to by another name that it has", rule: order.Sealed, text: "a file of factory", write: func(l *handmade.Log) {
			*l = *handmade.New("/site/store",
				[2]string{"v1/app", "one"}, [2]string{".staging/v3/app", "=v1/app"}, [2]string{".generations/7/record.json", `{"generation":7,"factory":{"version":"1"}}`},
				[2]string{".generations/7/factory", "-> ../../v1"}, [2]string{".active", "-> .generations/7"}, [2]string{"factory", "-> .active/factory"})
			l.Write(".staging/v3/app", 0, "!")
			l.Syncfs()
		}},
		{name: "a file is made in current", rule: order.Sealed, text: "which is in current", write: func(l *handmade.Log) { l.Create("v2/new", ""); l.Syncfs() }},
		{name: "a folder is made in current, by a repair", rule: order.Sealed, text: "which is in current", repairs: true, write: func(l *handmade.Log) { l.Mkdir("v2/new"); l.Syncfs() }},
		{name: "a file of current is removed", rule: order.Sealed, text: "which is in current", write: func(l *handmade.Log) { l.Remove("v2/bin/app"); l.Syncfs() }},
		{name: "a mode of previous is changed", rule: order.Sealed, text: "a file of previous", write: func(l *handmade.Log) { l.Chmod("v1/.ota/manifest.json", 0o400); l.Syncfs() }},
		{name: "a mode is changed, by a repair", repairs: true, write: func(l *handmade.Log) { l.Chmod("v1/.ota/manifest.json", 0o400); l.Syncfs() }},
		{name: "a file of current is exchanged", rule: order.Sealed, text: "which is in current", write: exchange},
		{name: "a file of current is exchanged, by a repair", repairs: true, write: exchange},
		{name: "a file is exchanged by a repair for one that is not synced", rule: order.Staged, text: ".staging/repair is not synced", repairs: true, write: func(l *handmade.Log) {
			l.Create(".staging/repair", "two")
			l.Rename(".staging/repair", "v2/bin/app")
			l.Syncfs()
		}},
		{name: "a file is exchanged by a repair, and its name is not synced", rule: order.Said, text: "bin is a folder that was not synced", repairs: true, write: func(l *handmade.Log) {
			l.Create(".staging/repair", "two")
			l.Fsync(".staging/repair")
			l.Rename(".staging/repair", "v2/bin/app")
		}},
		{name: "a file of current is shared with a new version", write: func(l *handmade.Log) {
			*l = *handmade.New("/site/store",
				[2]string{"v2/app", "two"}, [2]string{".staging/v3/", ""}, [2]string{".generations/7/record.json", `{"generation":7,"current":{"version":"2"}}`},
				[2]string{".generations/7/current", "-> ../../v2"}, [2]string{".active", "-> .generations/7"}, [2]string{"current", "-> .active/current"})
			l.Link("v2/app", ".staging/v3/app")
		}},
		{name: "a file of factory is shared with a new version", rule: order.Sealed, text: "has a name elsewhere", write: func(l *handmade.Log) {
			l.Mkdir(".staging/v3")
			l.Link("v1/bin/app", ".staging/v3/app")
		}},

		{name: "a file is made in /tmp", rule: order.Outside, text: "open of /tmp/x", write: func(l *handmade.Log) {
			l.Do(crashpoint.Call{Name: "open", File: crashpoint.Place{Path: "/tmp/x", ID: crashpoint.ID{Dev: 9, Ino: 9}, Made: true}, Flags: unix.O_CREAT})
		}},
		{name: "a file beside the store is written to", rule: order.Outside, text: "write of /site/ota.toml", write: func(l *handmade.Log) {
			l.Do(crashpoint.Call{Name: "write", File: crashpoint.Place{Path: "/site/ota.toml", ID: crashpoint.ID{Dev: 9, Ino: 9}}})
		}},
		{name: "a file elsewhere is only opened", write: func(l *handmade.Log) {
			l.Do(crashpoint.Call{Name: "open", File: crashpoint.Place{Path: "/dev/null", ID: crashpoint.ID{Dev: 9, Ino: 9}}, Flags: unix.O_CREAT})
		}},

		{name: "a link is absolute", rule: order.Target, text: `"/site/store/v2"`, write: func(l *handmade.Log) { l.Symlink("/site/store/v2", ".staging/x") }},
		{name: "a link leads out of the store", rule: order.Target, text: `"../../etc"`, write: func(l *handmade.Log) { l.Symlink("../../etc", ".staging/x") }},
		{name: "a link leads out of its version", rule: order.Target, text: `"../v2"`, write: func(l *handmade.Log) { l.Unpack(); l.Symlink("../v2", ".staging/v3/x") }},
		{name: "a link leads to its own version's folder", write: func(l *handmade.Log) { l.Unpack(); l.Symlink("../lib", ".staging/v3/bin/x") }},

		{name: "a file's sync fails and is tried again", rule: order.Retried, text: "record.json is synced again", exit: 1, write: func(l *handmade.Log) {
			l.Mkdir(".generations/8")
			l.Create(".generations/8/record.json", "{}")
			l.Fail(unix.EIO, func() { l.Fsync(".generations/8/record.json") })
			l.Fsync(".generations/8/record.json")
		}},
		{name: "a file's sync fails, and another one of the same name is synced", exit: 1, write: func(l *handmade.Log) {
			l.Mkdir(".generations/8")
			l.Create(".generations/8/record.json", "{}")
			l.Fail(unix.EIO, func() { l.Fsync(".generations/8/record.json") })
			l.Remove(".generations/8/record.json")
			l.Create(".generations/8/record.json", "{}")
			l.Fsync(".generations/8/record.json")
		}},

		{name: "a version is removed in its place", rule: order.Trash, text: "v0/app is removed where", write: func(l *handmade.Log) {
			withOld(l)
			l.RemoveAll("v0")
			l.Syncfs()
		}},
		{name: "a version that cannot be moved is removed in its place", rule: order.Trash, text: "v0/app is removed where", write: func(l *handmade.Log) {
			withOld(l)
			l.Mkdir("v0/.ota")
			l.Create("v0/.ota/manifest.json", "{}")
			l.Syncfs()
			l.Fail(unix.EXDEV, func() { l.Rename("v0", ".trash/v0-0") })
			l.Remove("v0/.ota/manifest.json")
			l.Remove("v0/app")
			l.Syncfs()
		}},
		{name: "a version that cannot be moved is removed, and durably none before", write: func(l *handmade.Log) {
			withOld(l)
			l.Mkdir("v0/.ota")
			l.Create("v0/.ota/manifest.json", "{}")
			l.Syncfs()
			l.Fail(unix.EXDEV, func() { l.Rename("v0", ".trash/v0-0") })
			l.Remove("v0/.ota/manifest.json")
			l.Fsync("v0/.ota")
			l.RemoveAll("v0")
			l.Syncfs()
		}},
		{name: "a version is removed before its move is durable", rule: order.Trash, text: "before it is durable that v0 is out of sight", write: func(l *handmade.Log) {
			withOld(l)
			l.Rename("v0", ".trash/v0-0")
			l.Fsync(".trash")
			l.RemoveAll(".trash/v0-0")
			l.Syncfs()
		}},
		{name: "a version is removed once it is durably out of sight", write: func(l *handmade.Log) {
			withOld(l)
			l.Rename("v0", ".trash/v0-0")
			l.Fsync("")
			l.Fsync(".trash")
			l.RemoveAll(".trash/v0-0")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := handmade.Store("/site/store")
			test.write(l)
			found, err := order.Judge(order.Run{
				Root: l.Root, May: []string{"/site/run"}, Before: l.Before, Calls: l.Calls,
				Exit: test.exit, Repairs: test.repairs, Switches: 1, Unsettled: test.unsettled,
			})
			if err != nil {
				t.Fatal(err)
			}
			if test.rule == "" {
				for _, v := range found {
					t.Errorf("found %s, want nothing", v)
				}
				return
			}
			if !slices.ContainsFunc(found, func(v order.Violation) bool { return v.Rule == test.rule && strings.Contains(v.Text, test.text) }) {
				t.Errorf("found %v, want %s: …%s…", found, test.rule, test.text)
			}
		})
	}
}

func vouch(l *handmade.Log) {
	l.Create(".spool/.x.json0", `{"synced":4}`)
	l.Rename(".spool/.x.json0", ".spool/x.json")
}

func exchange(l *handmade.Log) {
	l.Create(".staging/repair", "two")
	l.Fsync(".staging/repair")
	l.Rename(".staging/repair", "v2/bin/app")
	l.Fsync("v2/bin")
}

// withOld gives the store a version that nothing leads to.
func withOld(l *handmade.Log) {
	before := l.Before[l.Root]
	before.Names["v0"] = &disk.Node{ID: crashpoint.ID{Dev: 1, Ino: 1000}, Mode: before.Mode, Names: map[string]*disk.Node{
		"app": {ID: crashpoint.ID{Dev: 1, Ino: 1001}, Mode: 0o644, Data: disk.NewBlob([]byte("zero"))},
	}}
	*l = *handmade.From(l.Root, before)
}

// A log in which a call is missing is no log: nothing can be said of it.
func TestJudgeIncomplete(t *testing.T) {
	l := handmade.Store("/site/store")
	l.Install()
	calls := l.Without(func(c *crashpoint.Call) bool {
		return c.Name == "mkdir" && strings.HasSuffix(c.File.Path, ".staging/v3")
	})
	if _, err := order.Judge(order.Run{Root: l.Root, Before: l.Before, Calls: calls}); err == nil {
		t.Error("Judge of a log without a mkdir = nil error, want one")
	}
}
