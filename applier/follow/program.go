package follow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/tope-ota/ota/bootcheck"
)

// killed is the exit of a program that did not end by itself. It is no exit code.
const killed bootcheck.ExitCode = -1

// A child is ota-apply at work, as an operator would call it.
type child struct {
	cmd    *exec.Cmd
	news   chan said // its progress; closed at its end
	result result    // then
}

// said is a line of `install --json`, or what --dry-run --json says.
type said struct {
	Event    string
	Stage    string
	Progress int
	Message  string
	Error    string
	forecast
}

type forecast struct {
	Version string
	Digest  string
	Here    bool
	Current bool
}

// A result is how it ended.
type result struct {
	exit  bootcheck.ExitCode
	lines []string // at least one: the error, then the advice
	code  string   // of its report, empty: none
	forecast
}

func (r *result) err() error {
	return bootcheck.Errorf(max(r.exit, bootcheck.ExitFailed), "", "%s", r.lines[0])
}

// startChild starts program. file is removed at its end. The context only ends the
// telling: the child is ended by leave or stop.
func startChild(ctx context.Context, program []string, log io.Writer, file string) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: exe, Args: program, Env: append(os.Environ(), "OTA_ASKED_BY="+bootcheck.AskedByFollower, "NOTIFY_SOCKET=")}
	var stderr tail
	cmd.Stderr = io.MultiWriter(log, &stderr)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, news: make(chan said)}
	go func() {
		defer close(c.news)
		r := &c.result
		for d := json.NewDecoder(out); ; {
			var n said
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
		if r.exit = bootcheck.ExitCode(cmd.ProcessState.ExitCode()); r.exit != 0 && len(r.lines) == 0 {
			for line := range strings.Lines(string(stderr)) {
				line, begins := strings.CutPrefix(line, "ota-apply: ")
				if begins { // the error is the last that it says, and the hint follows
					r.lines = nil
				}
				r.lines = append(r.lines, strings.TrimSpace(line))
			}
		}
		if len(r.lines) == 0 {
			r.lines = []string{fmt.Sprintf("ota-apply ended with exit code %d", r.exit)}
		}
		if file != "" {
			_ = os.Remove(file)
		}
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
	for range c.news {
	}
}

// tail is the last 8 KiB that were written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-8<<10):]
	return len(p), nil
}

// watchEvery is how often the loop tells systemd that it is alive, see WatchdogSec= of
// ota-follow.service.
const watchEvery = time.Minute

// alive tells systemd that the service is ready, and well.
func alive() { _, _ = daemon.SdNotify(false, daemon.SdNotifyReady+"\n"+daemon.SdNotifyWatchdog) }
