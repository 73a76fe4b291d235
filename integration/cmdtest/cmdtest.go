// Package cmdtest runs the scripts that test the command lines. Each script is a
// device without systemd, in a directory of its own: the three programs through
// their real main, a store, keys, a configuration. The scripts double as
// documentation: see guardian/cmd/ota-guardian/testdata/script/boot_fallback.txtar.
//
// Besides testscript's own, a script has these commands:
//
//	exit CODE PROGRAM ARGS...   run a program that must end with CODE
//	deaf HOW CODE PROGRAM ARGS...
//	                            run a program whose stdout and stderr are not read, and which must end
//	                            with CODE all the same. HOW: gone (the reader is), closed, full
//	                            (/dev/full), stuck, stuck-nonblocking (a full pipe without a reader)
//	bound CODE PROGRAM ARGS...  run a program that modes bind, also where the test is root's, and
//	                            that must end with CODE
//	bundle VERSION [FLAGS...]   make VERSION.ota, whose bin/app says VERSION, with further flags of ota-bundle create; a release is not counted without --release
//	link NAME TARGET            the link NAME of the store must lead to the version TARGET, or to "none"
//	serve DIR                   serve DIR over HTTP; its address is $URL. While there is a file
//	                            $WORK/corrupt, one byte near the end of what it serves is wrong. An
//	                            address that ends in ?uses=N&sig=ANY expires after N answers: 403
//	snapshot NAME [DIR]         remember every link, file and mode of the store, or of DIR
//	unchanged NAME [DIR]        all of that must be as it was
//
// $TREE is a directory of thousands of real files, Go's own sources.
//
// The current version is healthy while there is no file $WORK/sick. While there
// is a file $WORK/slow, the check makes a file $WORK/checking and takes for ever.
package cmdtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/integration/try"
)

// config is the configuration that every script starts with.
const config = `root = %[1]q
model = "x1"
keep = 2
reserve = 0
run = %[2]q
[report]
url = ""
[trial]
deadline = "2s"
stable = "50ms"
[[check]]
name = "app is well"
script = %[3]q
`

const check = `#!/bin/sh
if [ -e %[1]s/slow ]; then
	touch %[1]s/checking
	exec sleep 1000
fi
if [ -e %[1]s/sick ]; then
	echo "it is sick"
	exit 1
fi
`

// Run runs the scripts in dir, with the further commands more.
func Run(t *testing.T, dir string, more ...map[string]func(ts *testscript.TestScript, neg bool, args []string)) {
	t.Helper()
	params := testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			reportInvalid(t, env)
			return setup(env)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exit": exit, "bound": bound, "deaf": deaf, "bundle": bundle, "link": link, "serve": serve,
			"snapshot": snapshot, "unchanged": unchanged,
		},
	}
	for _, m := range more {
		maps.Copy(params.Cmds, m)
	}
	testscript.Run(t, params)
}

func setup(env *testscript.Env) (err error) {
	defer try.End(&err)
	work := env.WorkDir
	etc, store := filepath.Join(work, "etc"), filepath.Join(work, "versions")
	script := filepath.Join(work, "check")
	env.Setenv("OTA_CONFIG", filepath.Join(etc, "ota.toml"))
	env.Setenv("STORE", store)
	env.Setenv("TREE", tree())
	for _, dir := range []string{store, filepath.Join(etc, "keys")} {
		try.Check(os.MkdirAll(dir, 0o755))
	}
	try.Check(os.WriteFile(script, fmt.Appendf(nil, check, work), 0o755))
	return os.WriteFile(filepath.Join(etc, "ota.toml"), fmt.Appendf(nil, config, store, filepath.Join(work, "run"), script), 0o644)
}

// Exit runs args[1:], which must end with the code args[0].
func Exit(ts *testscript.TestScript, args []string) { exit(ts, false, args) }

// exit: see the package.
func exit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = -1
		if e, ok := err.(interface{ ExitCode() int }); ok {
			got = e.ExitCode()
		}
	}
	if got != want {
		ts.Fatalf("%s ended with exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// bound: see the package.
func bound(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: bound CODE PROGRAM ARGS...")
	}
	if os.Geteuid() == 0 {
		args = append([]string{args[0], "setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"}, args[1:]...)
	}
	exit(ts, false, args)
}

// bundle: see the package.
func bundle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: bundle VERSION [FLAGS...]")
	}
	version := args[0]
	key := ts.MkAbs("k.key")
	if _, err := os.Stat(key); err != nil {
		ts.Check(ts.Exec("ota-bundle", "keygen", "--no-password", ts.MkAbs("k")))
		ts.Check(os.Rename(ts.MkAbs("k.pub"), ts.MkAbs("etc/keys/k.pub")))
	}
	tree := ts.MkAbs("tree-" + version)
	ts.Check(os.MkdirAll(filepath.Join(tree, "bin"), 0o755))
	ts.Check(os.MkdirAll(filepath.Join(tree, "share"), 0o755))
	ts.Check(os.WriteFile(filepath.Join(tree, "bin", "app"), []byte("#!/bin/sh\necho "+version+"\n"), 0o755))
	ts.Check(os.WriteFile(filepath.Join(tree, "share", "data"), make([]byte, 100_000), 0o644))
	_ = os.Remove(filepath.Join(tree, "app"))
	ts.Check(os.Symlink("bin/app", filepath.Join(tree, "app")))
	ts.Check(ts.Exec("ota-bundle", append([]string{"create", "--dir", tree, "--version", version, "--model", "x1", "--key", key,
		"--release", "0", "--overwrite", "-o", ts.MkAbs(version + ".ota")}, args[1:]...)...))
}

// link: see the package.
func link(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: link NAME VERSION")
	}
	want := args[1]
	got, err := filepath.EvalSymlinks(filepath.Join(ts.Getenv("STORE"), args[0]))
	if err != nil {
		if want != "none" {
			ts.Fatalf("%s: %v", args[0], err)
		}
		return
	}
	if got, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(got), "v"), "~"); got != want { // rebuilt or not
		ts.Fatalf("%s is %s, want %s", args[0], got, want)
	}
}

// serve: see the package.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: serve DIR")
	}
	dir, corrupt := ts.MkAbs(args[0]), ts.MkAbs("corrupt")
	var mu sync.Mutex
	used := make(map[string]int) // answers, by query
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		used[r.URL.RawQuery]++
		n := used[r.URL.RawQuery]
		mu.Unlock()
		if uses, err := strconv.Atoi(r.FormValue("uses")); err == nil && n > uses {
			http.Error(w, "the address has expired", http.StatusForbidden)
			return
		}
		data, err := os.ReadFile(filepath.Join(dir, filepath.Clean("/"+r.URL.Path)))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("ETag", `"the same for all that is served"`)
		if _, err := os.Stat(corrupt); err == nil {
			data[len(data)-30] ^= 0x55 // in the payload, behind the signed head
		}
		http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(data))
	}))
	ts.Defer(server.Close)
	ts.Setenv("URL", server.URL)
}

// state describes everything in a directory, but for the lock files and what is
// spooled: a download that failed may be kept to be resumed.
func state(ts *testscript.TestScript, root string) string {
	var b strings.Builder
	ts.Check(filepath.WalkDir(root, func(name string, d fs.DirEntry, failed error) (err error) {
		defer try.End(&err)
		try.Check(failed)
		info := try.Get(d.Info())
		rel := try.Get(filepath.Rel(root, name))
		if rel == ".spool" {
			return filepath.SkipDir
		}
		if strings.HasSuffix(rel, "lock") {
			return nil
		}
		fmt.Fprintf(&b, "%s %v", rel, info.Mode())
		// The inode and the time too: a file that was replaced by its like was written to.
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			fmt.Fprintf(&b, " -> %s %d", try.Get(os.Readlink(name)), info.ModTime().UnixNano())
		case d.Type().IsRegular():
			fmt.Fprintf(&b, " %x %d %d", sha256.Sum256(try.Get(os.ReadFile(name))), info.Sys().(*syscall.Stat_t).Ino, info.ModTime().UnixNano())
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// stateOf is the state that the arguments of snapshot or unchanged mean.
func stateOf(ts *testscript.TestScript, neg bool, args []string) string {
	switch {
	case neg || len(args) < 1 || len(args) > 2:
		ts.Fatalf("usage: snapshot|unchanged NAME [DIR]")
	case len(args) == 2:
		return state(ts, ts.MkAbs(args[1]))
	}
	return state(ts, ts.Getenv("STORE"))
}

func snapshot(ts *testscript.TestScript, neg bool, args []string) {
	now := stateOf(ts, neg, args)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".state"), []byte(now), 0o644))
}

func unchanged(ts *testscript.TestScript, neg bool, args []string) {
	now := stateOf(ts, neg, args)
	if was := ts.ReadFile(args[0] + ".state"); now != was {
		ts.Fatalf("%s changed.\nbefore:\n%s\nafter:\n%s", strings.Join(args, " of "), was, now)
	}
}

// tree is a real one: a part of Go's own sources, more than a thousand files; nightly
// all of them, more than ten thousand. Empty: there is no go command.
var tree = sync.OnceValue(func() string {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return ""
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "src")
	if os.Getenv("OTA_TESTS") != "nightly" {
		dir = filepath.Join(dir, "internal")
	}
	return dir
})
