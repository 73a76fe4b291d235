package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/integration/cmdtest"
	"github.com/tope-ota/ota/integration/fleet/fake"
)

// The scripts let the guardian try what they installed, so the test (and only
// the test) runs it too.
func TestMain(m *testing.M) {
	if os.Getenv("OTA_TEST_LOCK") != "" {
		lockAll()
	}
	cmdtest.Main(m, map[string]func(){"ota-apply": main})
}

// The scripts here have more commands:
//
//	fleet serve DIR      a server with hawkBit's device API offers the bundles in DIR, to this device; fleet stop
//	fleet assign ID VERSION attempt|forced|skip
//	fleet said ID TEXT   the device said it, of that action
//	follow DIR FILE      a web server with ETags has DIR, and the device follows its FILE; requests go to DIR.log
//	metrics             ask for figures in metrics/ota.prom, and keep downloads in the directory spool
//	nobody-locks DIR... uid 65534 locks everything below the directories that it can open, until the script ends
//	undeletable FILE    of the store cannot be deleted, wherever it is moved, until "! undeletable" or the script's end
func TestScripts(t *testing.T) {
	cmdtest.Run(t, "testdata/script", map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"metrics": metrics, "fleet": fleet, "follow": follow, "nobody-locks": lockAsNobody, "undeletable": undeletable,
	})
}

func metrics(ts *testscript.TestScript, neg bool, args []string) {
	name := ts.Getenv("OTA_CONFIG")
	is, err := os.ReadFile(name)
	ts.Check(err)
	for _, dir := range []string{"spool", "metrics"} {
		ts.Check(os.Mkdir(ts.MkAbs(dir), 0o755))
	}
	text := fmt.Sprintf("spool = %q\n%s[metrics]\nfile = %q\n", ts.MkAbs("spool"), is, ts.MkAbs("metrics/ota.prom"))
	ts.Check(os.WriteFile(name, []byte(text), 0o644))
}

// servers are those of the scripts, by their directories.
var servers sync.Map

func fleet(ts *testscript.TestScript, neg bool, args []string) {
	work := ts.MkAbs(".")
	if args[0] == "serve" {
		server := fake.New(ts.MkAbs(args[1]))
		ts.Defer(server.Close)
		servers.Store(work, server)
		name := ts.Getenv("OTA_CONFIG")
		is, err := os.ReadFile(name)
		ts.Check(err)
		text := fmt.Sprintf("%s[follow]\nsource = \"ddi\"\nurl = %q\ndevice_id = \"printer-7\"\n", is, server.URL)
		ts.Check(os.WriteFile(name, []byte(text), 0o644))
		return
	}
	found, ok := servers.Load(work)
	if !ok {
		ts.Fatalf("fleet serve comes first")
	}
	server := found.(*fake.Server)
	switch args[0] {
	case "stop":
		server.Close()
	case "assign":
		server.Assign(fake.Action{ID: args[1], Version: args[2], Update: args[3]})
	case "said":
		var all []string
		for _, f := range server.Said(server.Find(args[1])) {
			all = append(append(all, f.Execution+"/"+f.Finished), f.Details...)
		}
		if slices.Contains(all, args[2]) == neg {
			ts.Fatalf("of action %s the device said %q", args[1], all)
		}
	default:
		ts.Fatalf("fleet: unknown command %q", args[0])
	}
}

func follow(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs(args[0])
	log, err := os.Create(dir + ".log")
	ts.Check(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file := filepath.Join(dir, r.URL.Path)
		if data, err := os.ReadFile(file); err == nil {
			w.Header().Set("ETag", fmt.Sprintf("\"%x\"", sha256.Sum256(data)))
		}
		http.ServeFile(w, r, file)
		fmt.Fprintln(log, r.Method, r.URL.Path, w.Header().Get("Content-Length"))
	}))
	ts.Defer(func() { server.Close(); log.Close() })
	name := ts.Getenv("OTA_CONFIG")
	is, err := os.ReadFile(name)
	ts.Check(err)
	text := fmt.Sprintf("%s[follow]\nsource = \"channel\"\nurl = %q\ndevice_id = \"printer-7\"\n", is, server.URL+"/"+args[1])
	ts.Check(os.WriteFile(name, []byte(text), 0o644))
}

func undeletable(ts *testscript.TestScript, neg bool, args []string) {
	store := ts.MkAbs("versions")
	undo := func() { _ = exec.Command("sh", "-c", `chattr -R -i "$0" 2>/dev/null; chmod -R u+w "$0"`, store).Run() }
	if neg {
		undo()
		return
	}
	name := ts.MkAbs(args[0])
	if os.Geteuid() == 0 {
		ts.Check(ts.Exec("chattr", "+i", name))
	} else {
		ts.Check(os.Chmod(filepath.Dir(name), 0o555))
	}
	ts.Defer(undo)
}

func lockAsNobody(ts *testscript.TestScript, neg bool, args []string) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			ts.Fatalf("needs root, to be another user")
		}
		ts.Logf("not root: no other user locks anything")
		return
	}
	ts.Check(os.Chmod(ts.MkAbs("."), 0o755))
	exe, err := os.Executable()
	ts.Check(err)
	cmd := exec.Command(exe)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "OTA_TEST_LOCK="+strings.Join(args, ":"))
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	ts.Logf("uid 65534 has %s", strings.TrimSpace(line))
	if strings.HasPrefix(line, "0 ") {
		ts.Fatalf("it can open nothing, which shows nothing")
	}
}

// lockAll is the process of lockAsNobody. Names are relative, so that the directories above
// need not be open to all.
func lockAll() {
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
		panic(err)
	}
	n := 0
	for dir := range strings.SplitSeq(os.Getenv("OTA_TEST_LOCK"), ":") {
		_ = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
			if err == nil && syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
				n++
			}
			return nil
		})
	}
	fmt.Println(n, "locks")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the script ends
	os.Exit(0)
}
