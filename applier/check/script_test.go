package check

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// program writes a shell script and runs it as a check.
func program(t *testing.T, timeout time.Duration, mode os.FileMode, text string) health.Result {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // not what the umask leaves
		t.Fatal(err)
	}
	return checked(t, config.Check{Script: path, Timeout: timeout}, "1.2.0")
}

func TestScript(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		ok         bool
		required   bool
		why        string // part of it
		output     string
	}{
		{"exits 0", "#!/bin/sh\necho fine\n", 0o755, true, true, "", ""},
		{"exits 3", "#!/bin/sh\necho 'no motor'; echo and more >&2; exit 3\n", 0o755, false, true, "probe: exit status 3", "no motor\nand more\n"},
		{"is killed", "#!/bin/sh\nkill -9 $$\n", 0o755, false, true, "signal: killed", ""},
		{"knows the version", "#!/bin/sh\ntest \"$OTA_VERSION\" = 1.2.0\n", 0o755, true, true, "", ""},
		{"has nothing on standard input", "#!/bin/sh\n! read x\n", 0o755, true, true, "", ""},
		{"runs in the root directory", "#!/bin/sh\ntest \"$PWD\" = /\n", 0o755, true, true, "", ""},
		{"its interpreter is missing", "#!/proc/no-such-interpreter\n", 0o755, false, true, "no such file", ""},
		{"is no program", "\x00\x01\x02", 0o755, false, true, "exec format error", ""},
		{"prints bytes that are no text", "#!/bin/sh\nprintf 'a\\377b'; exit 1\n", 0o755, false, true, "exit status 1", "a\uFFFDb"},

		{"is not executable", "#!/bin/sh\n", 0o644, false, false, "is not executable", ""},
		{"can be changed by anyone", "#!/bin/sh\n", 0o757, false, false, "can be changed by others", ""},
		{"can be changed by a group", "#!/bin/sh\n", 0o775, false, false, "can be changed by others", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := program(t, 10*time.Second, tt.mode, tt.text)
			if r.OK != tt.ok || r.Required != tt.required || !strings.Contains(r.Why, tt.why) || r.Output != tt.output {
				t.Errorf("got  %+v\nwant OK %v, required %v, %q, output %q", r, tt.ok, tt.required, tt.why, tt.output)
			}
		})
	}
}

func TestScriptsThatMustNotBeRun(t *testing.T) {
	run := func(path string) health.Result {
		return checked(t, config.Check{Script: path, Timeout: 10 * time.Second}, "")
	}
	refused := func(name string, r health.Result, why string) {
		t.Helper()
		if r.OK || r.Required || !strings.Contains(r.Why, "cannot run the check") || !strings.Contains(r.Why, why) {
			t.Errorf("%s: got %+v, want refused because %q", name, r, why)
		}
	}
	dir := t.TempDir()
	refused("missing", run(filepath.Join(dir, "none")), "no such file")
	refused("a directory", run(dir), "not a regular file")
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o755); err != nil {
		t.Fatal(err)
	}
	refused("a FIFO", run(fifo), "not a regular file")

	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(open, "probe")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := run(path); !r.OK {
		t.Errorf("before: %+v", r)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	refused("in a directory that every user can write", run(path), "can be changed by others")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("open/probe", link); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
		refused("a link to what another user owns", run(link), "(owner 12345")
	}
}

func TestScriptEnvironmentIsClean(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	t.Setenv("LD_PRELOAD", "")
	r := program(t, 10*time.Second, 0o755, "#!/bin/sh\nenv | sort | grep -v ^PWD= | grep -v ^_= | grep -v ^SHLVL=; exit 1\n")
	want := "LANG=C.UTF-8\nOTA_VERSION=1.2.0\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
	if r.Output != want {
		t.Errorf("environment\n%swant\n%s", r.Output, want)
	}
}

func TestScriptOutputIsBounded(t *testing.T) {
	r := program(t, 30*time.Second, 0o755, "#!/bin/sh\nhead -c 20000000 /dev/zero | tr '\\0' x; echo the end; exit 1\n")
	if len(r.Output) != health.MaxOutput || !strings.HasSuffix(r.Output, "xxthe end\n") {
		t.Errorf("%d bytes that end in %q, want the last %d", len(r.Output), r.Output[max(0, len(r.Output)-20):], health.MaxOutput)
	}
}

// TestScriptTimeoutKillsItsWholeGroup: neither the script nor what it started is
// left, and a process that left the group does not hold the check up.
func TestScriptTimeoutKillsItsWholeGroup(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		ok         bool
		why        string
	}{
		{"hangs", "sleep 1000 & echo $! > PIDS; echo waiting; sleep 1000", false, "no answer within 500ms"},
		{"ignores signals", "trap '' TERM INT HUP; sleep 1000 & echo $! > PIDS; wait; wait; sleep 1000", false, "no answer within 500ms"},
		{"ends and leaves a process", "sleep 1000 & echo $! > PIDS", true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pids := filepath.Join(t.TempDir(), "pids")
			start := time.Now()
			r := program(t, 500*time.Millisecond, 0o755, "#!/bin/sh\n"+strings.ReplaceAll(tt.text, "PIDS", pids)+"\n")
			if r.OK != tt.ok || r.Why != tt.why {
				t.Errorf("got %+v", r)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			text, err := os.ReadFile(pids)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					syscall.Kill(pid, syscall.SIGKILL)
					t.Fatalf("process %d of the check is still there", pid)
				}
			}
		})
	}
}

func TestAScriptsEscapedProcessHoldsNothingUp(t *testing.T) {
	if _, err := os.Stat("/usr/bin/setsid"); err != nil {
		t.Fatal(err) // of util-linux, which every Debian has
	}
	start := time.Now()
	r := program(t, 30*time.Second, 0o755, "#!/bin/sh\necho began\nsetsid sleep 5 &\nwhile ! grep -q sleep /proc/$!/comm; do :; done\n")
	if took := time.Since(start); !r.OK || took > 4*time.Second {
		t.Errorf("%+v after %s, want good at once though its output is still open", r, took)
	}
}

// alive reports whether a process runs; a zombie without a waiting parent does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return len(state) > 0 && state[0] != 'Z' && state[0] != 'X'
}

func TestTail(t *testing.T) {
	var all []byte
	var b tail
	for i := range 300 {
		p := bytes.Repeat([]byte{byte('a' + i%26)}, i*7%5000)
		all = append(all, p...)
		if n, err := b.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
		if want := string(all[max(0, len(all)-health.MaxOutput):]); string(b) != want {
			t.Fatalf("after %d bytes: not the last %d", len(all), health.MaxOutput)
		}
	}
}
