package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/debian"
)

func TestConsoleKeepsLinesWhole(t *testing.T) {
	var sink bytes.Buffer
	c := newConsole(&sink)
	c.write("", []byte("one\r\ntw"))
	c.note("in %s", "between")
	c.copy("", strings.NewReader("o\nwithout an end"))
	var got []string
	for line := range strings.Lines(c.String()) {
		_, text, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
		got = append(got, strings.TrimSuffix(text, "\n"))
	}
	want := []string{"one", "[vm] in between", "two", "without an end"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("the console kept %q, want %q", got, want)
	}
	if sink.String() != c.String() {
		t.Errorf("the sink got %q", sink.String())
	}
	if tail := c.tail(1); !strings.HasSuffix(tail, "without an end") || strings.Contains(tail, "two") {
		t.Errorf("tail(1) = %q", tail)
	}
}

func TestConsoleIsBounded(t *testing.T) {
	c := newConsole(nil)
	line := strings.Repeat("x", 1<<16)
	for range 2 * maxConsole / len(line) {
		c.note("%s", line)
	}
	c.note("the end")
	if n := len(c.String()); n > maxConsole+100 {
		t.Errorf("the console keeps %d bytes, want at most %d", n, maxConsole)
	}
	if !strings.HasSuffix(c.String(), "the end\n") {
		t.Error("the console has lost its end")
	}
}

// fakeQEMU answers the commands of a qmp with what answer returns.
func fakeQEMU(t *testing.T, answer func(command string) string) (net.Conn, net.Conn) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		io.WriteString(theirs, `{"QMP":{"version":{}}}`+"\n")
		for s := bufio.NewScanner(theirs); s.Scan(); {
			var c struct {
				Execute string
				ID      int
			}
			json.Unmarshal(s.Bytes(), &c)
			if a := answer(c.Execute); a != "" {
				fmt.Fprintf(theirs, a+"\n", c.ID)
			}
		}
	}()
	return ours, theirs
}

func TestQMP(t *testing.T) {
	events := make(chan string, 1)
	ours, theirs := fakeQEMU(t, func(command string) string {
		switch command {
		case "query-status":
			return `{"event":"STOP","data":{}}` + "\n" + `{"return":{"status":"paused"},"id":%d}`
		case "bad":
			return `{"error":{"class":"GenericError","desc":"no such thing"},"id":%d}`
		}
		return ""
	})
	q := newQMP(ours, func(name string, _ json.RawMessage) { events <- name })
	var status struct{ Status string }
	if err := q.call(t.Context(), "query-status", nil, &status); err != nil || status.Status != "paused" {
		t.Errorf("query-status = %q, %v; want paused", status.Status, err)
	}
	if e := <-events; e != "STOP" {
		t.Errorf("event %q, want STOP", e)
	}
	if err := q.call(t.Context(), "bad", nil, nil); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("bad = %v, want QEMU's description", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.call(ctx, "silent", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a command without an answer = %v, want it to end with its context", err)
	}
	theirs.Close()
	if err := q.call(t.Context(), "silent", nil, nil); err == nil {
		t.Error("a command on a closed connection has succeeded")
	}
	<-q.closed
}

func TestCopySparse(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 8 << 20, 30<<20 + 7} {
		if _, err := f.WriteAt([]byte(fmt.Sprint("data at ", at)), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(64<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, bytes.Repeat([]byte("old"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := CopySparse(from, to); err != nil {
		t.Fatal(err)
	}
	a, err1 := os.ReadFile(from)
	b, err2 := os.ReadFile(to)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the copy differs")
	}
	var st unix.Stat_t
	if err := unix.Stat(to, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 1<<20 {
		t.Errorf("the copy of three short pieces takes %d bytes on the disk", used)
	}
}

// Whoever lacks QEMU for one processor is told of that one, and runs the tests of the
// others.
func TestMissingQEMU(t *testing.T) {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "qemu-system-x86_64"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	if missing := Missing(); slices.Contains(missing, "qemu-system-x86") || slices.Contains(missing, "qemu-system-arm") {
		t.Errorf("with QEMU for amd64 a machine of amd64 lacks %q", missing)
	}
	if missing := MissingFor(debian.ARM64); !slices.Contains(missing, "qemu-system-arm") || slices.Contains(missing, "qemu-system-x86") {
		t.Errorf("with QEMU for amd64 a machine of arm64 lacks %q, want qemu-system-arm among it", missing)
	}
}

func TestQuote(t *testing.T) {
	if got, want := quote("/a b/it's"), `'/a b/it'\''s'`; got != want {
		t.Errorf("quote = %s, want %s", got, want)
	}
	if got, want := escape("/a,b"), "/a,,b"; got != want {
		t.Errorf("escape = %s, want %s", got, want)
	}
}
