package applier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/report"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/docs/schema"
)

// TestEvents holds the lines that a program reads, to the byte.
func TestEvents(t *testing.T) {
	var out bytes.Buffer
	e := newEvents(&out)
	r := report.New("", "")
	r.Watch(e.progress)
	r.Stage("downloading", 0, "downloading the bundle")
	r.Progress(4, 100)
	r.Progress(7, 100)
	r.Stage("installing", 0, `a "b" <c>`)
	r.Success("")
	e.text.WriteString("version 1.2.0 is current\nand confirmed\n")
	digest, n := bootcheck.Digest(nil), int64(7)
	e.result(bootcheck.VersionInfo{Version: "1.2.0", Digest: &digest, Release: &n, Size: &n}, nil)
	e.result(bootcheck.VersionInfo{}, bootcheck.Errorf(bootcheck.ExitRolledBack, bootcheck.CodeRolledToPrevious, "version 1.3.0 was left:\n\tits check failed"))
	e.result(bootcheck.VersionInfo{}, errors.New("x"))
	e.elsewhere = true
	e.result(bootcheck.VersionInfo{}, errors.New("said by the unit"))
	want := `{"event":"progress","stage":"downloading","progress":0,"message":"downloading the bundle","schema":1}
{"event":"progress","stage":"downloading","progress":7,"message":"downloading the bundle","schema":1}
{"event":"progress","stage":"installing","progress":0,"message":"a \"b\" <c>","schema":1}
{"event":"result","exit":0,"stage":"success","version":"1.2.0","message":"version 1.2.0 is current and confirmed","error":"","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","release":7,"size":7,"schema":1}
{"event":"result","exit":8,"stage":"failed","version":"","message":"version 1.3.0 was left: its check failed","error":"ROLLED_BACK_TO_PREVIOUS: version 1.3.0 was left: its check failed","digest":null,"release":null,"size":null,"schema":1}
{"event":"result","exit":1,"stage":"failed","version":"","message":"x","error":"DEPLOYMENT_FAILED: x","digest":null,"release":null,"size":null,"schema":1}
`
	if err := schema.CheckOutput([]string{"install", "--json"}, out.Bytes()); err != nil {
		t.Error(err)
	}
	if out.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", &out, want)
	}
}

// TestEventsConfig holds that there is a result also where nothing could begin.
func TestEventsConfig(t *testing.T) {
	var out, log bytes.Buffer
	code := Main(context.Background(), []string{"install", "--json", "--config", t.TempDir() + "/missing.toml", "x.ota"}, &out, &log)
	var r resultEvent
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || code != bootcheck.ExitUsage || r.Exit != code || r.Event != "result" || r.Stage != "failed" || !strings.Contains(r.Error, "missing.toml") {
		t.Errorf("exit %d, %v: %s", code, err, &out)
	}
}

// TestForeignWords holds that package net/http prints nothing of its own, such as what a server
// sends that was not asked for.
func TestForeignWords(t *testing.T) {
	Main(t.Context(), []string{"--version"}, io.Discard, io.Discard)
	if log.Writer() != io.Discard {
		t.Error("the log of other packages goes to stderr")
	}
}

// TestEventsWithoutReader holds that a program that does not read its pipe loses
// events and delays no install, and that the result waits for it, but not for ever.
func TestEventsWithoutReader(t *testing.T) {
	t.Parallel()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	defer r.Close()
	defer w.Close()
	room, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, room)); err != nil {
		t.Fatal(err)
	}
	within := func(what string, f func()) time.Duration {
		t.Helper()
		begin, done := time.Now(), make(chan struct{})
		go func() { f(); close(done) }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal(what, "waits for a program that does not read")
		}
		return time.Since(begin)
	}
	e := newEvents(w)
	within("an event", func() {
		for p := range 1000 {
			e.progress(report.State{Stage: "downloading", Progress: p})
		}
	})
	if took := within("the result", func() { e.result(bootcheck.VersionInfo{Version: "1.0"}, nil) }); took < resultPatience/2 {
		t.Errorf("the result was given up after %v, want %v", took, resultPatience)
	}
	read := func() string {
		t.Helper()
		b := make([]byte, 2*room)
		n, err := r.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	if got := read(); got != string(make([]byte, room)) {
		t.Errorf("something was written to a full pipe: %q", got)
	}
	// It reads again: late is not too late.
	if _, err := w.Write(make([]byte, room)); err != nil {
		t.Fatal(err)
	}
	go func() { time.Sleep(50 * time.Millisecond); read() }()
	within("the result", func() { e.result(bootcheck.VersionInfo{Version: "1.0"}, nil) })
	if got := read(); !strings.HasPrefix(got, `{"event":"result","exit":0,`) {
		t.Errorf("got %q, want the result", got)
	}
}
