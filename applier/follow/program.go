package follow

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// killed is the exit of a program that did not end by itself. It is no exit code.
const killed bootcheck.ExitCode = -1

// A child is ota-apply at work, as an operator would call it.
type child struct {
	cmd  *exec.Cmd
	news chan news
}

// news is a line of `install --json`, or the end.
type news struct {
	Event    string
	Stage    string
	Progress int
	Message  string
	Error    string
	forecast
	end *result
}

// forecast is what --dry-run --json says.
type forecast struct {
	Version string
	Digest  string
	Here    bool
	Current bool
}

// A result is how it ended.
type result struct {
	exit  int
	lines []string // what it said: the error, then the advice
	code  string   // of its report, empty: none
	forecast
}

func (r *result) text() string {
	if len(r.lines) == 0 {
		return "ota-apply ended with exit code " + strconv.Itoa(r.exit)
	}
	return r.lines[0]
}

func (r *result) details() []string {
	if len(r.lines) == 0 {
		return []string{r.text()}
	}
	return r.lines
}

func (r *result) err() error {
	return bootcheck.Errorf(bootcheck.ExitCode(max(r.exit, int(bootcheck.ExitFailed))), "", "%s", r.text())
}

// startChild starts program. file is removed at its end. The context only ends the
// telling: the child is ended by leave or stop.
func startChild(ctx context.Context, program []string, log io.Writer, file string) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: exe, Args: program, Env: append(os.Environ(), "OTA_ASKED_BY="+bootcheck.AskedByFollower)}
	var said bytes.Buffer
	cmd.Stderr = io.MultiWriter(log, &limited{&said, 8 << 10})
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	c := &child{cmd, make(chan news)}
	go func() {
		r := &result{}
		for d := json.NewDecoder(out); ; {
			var n news
			if d.Decode(&n) != nil {
				break
			}
			switch n.Event {
			case "progress":
				select {
				case c.news <- n:
				case <-time.After(time.Second): // the loop talks to the server
				}
			case "result":
				r.code, _, _ = strings.Cut(n.Error, ":")
				if n.Message != "" {
					r.lines = append(r.lines, n.Message)
				}
			default:
				r.forecast = n.forecast
			}
		}
		_, _ = io.Copy(io.Discard, out)
		err := cmd.Wait()
		if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
			r.lines = append(r.lines, err.Error())
		}
		if r.exit = cmd.ProcessState.ExitCode(); r.exit != 0 && len(r.lines) == 0 {
			for line := range strings.Lines(said.String()) {
				r.lines = append(r.lines, strings.TrimSpace(strings.TrimPrefix(line, "ota-apply: ")))
			}
		}
		if file != "" {
			_ = os.Remove(file)
		}
		c.news <- news{end: r}
	}()
	return c, nil
}

// leave lets an install continue in its unit; one that runs without a unit ends, and is
// resumed.
func (c *child) leave() { c.signal(syscall.SIGTERM, 10*time.Second) }

// stop ends the install. What was downloaded is kept.
func (c *child) stop() { c.signal(os.Interrupt, time.Minute) }

// signal returns when the child has ended.
func (c *child) signal(s os.Signal, patience time.Duration) {
	_ = c.cmd.Process.Signal(s)
	late := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	for n := range c.news {
		if n.end != nil {
			return
		}
	}
}

// limited keeps the first bytes, and takes all.
type limited struct {
	w    *bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	l.w.Write(p[:min(len(p), max(0, l.most-l.w.Len()))])
	return len(p), nil
}

// watchEvery is how often the loop tells systemd that it is alive, see WatchdogSec= of
// ota-follow.service.
const watchEvery = time.Minute

// watchdog is what tells systemd so; the first call says that the service is ready.
func watchdog() func() {
	name := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET") // not the child's
	if name == "" {
		return func() {}
	}
	return func() {
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("READY=1\nWATCHDOG=1"))
	}
}
