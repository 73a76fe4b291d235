// Package agent runs programs and moves files in a test machine, over any
// two-way stream of bytes: a virtio-serial port of a virtual machine, a unix
// socket of a container. [Serve] is the guest's side, [Client] the host's, and [Remote]
// what a test does with it. What is where in a guest stands here too, for both kinds.
//
// Both sides write lines of JSON, a request with an ID and one reply to it, in any
// order. A stream of a machine that is reset tears in the middle of a line, and what
// the host wrote before the reset may be read by the boot after it. So:
//
//   - A line begins with a newline, too, and what cannot be parsed is skipped.
//   - The guest's agent has a session, a random name made at its start, and says it in
//     each line; the first one answers nothing. A request names the session it is for
//     and no other carries it out: a `systemctl reboot` that was still in the pipe does
//     not reboot the next boot.
//   - A new session ends every call of the old one with [ErrGone].
package agent

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Where the agent is in a guest. UnitWants is a symbolic link to UnitPath: no
// `systemctl enable` runs in a root that is read-only.
const (
	Path      = "/usr/lib/ota-test/ota-test-agent"
	UnitPath  = "/etc/systemd/system/ota-test-agent.service"
	UnitWants = "/etc/systemd/system/sysinit.target.wants/ota-test-agent.service"
)

// Unit is the text of the agent's systemd unit, for UnitPath.
//
//go:embed ota-test-agent.service
var Unit string

// Result is how a program in the guest ended.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; 128+n if signal n killed it
}

func (r Result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// Poll asks every few milliseconds until there is no error or ctx ends. what names the
// event in the error. What ask fails with by try ends the wait at once.
func Poll(ctx context.Context, what string, ask func(context.Context) error) error {
	start := time.Now()
	for {
		last := ask(ctx)
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w (last: %v)", time.Since(start).Round(time.Millisecond), what, ctx.Err(), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// request is a line from the host to the guest.
type request struct {
	To   string   `json:"to,omitempty"` // session that carries it out; empty only for a ping
	ID   uint64   `json:"id"`
	Op   string   `json:"op"` // ping, exec, write, read; cancel: of the request ID
	Argv []string `json:"argv,omitempty"`
	Path string   `json:"path,omitempty"`
	Mode uint32   `json:"mode,omitempty"` // permission bits of the file
	Data []byte   `json:"data,omitempty"`
}

// reply is a line from the guest to the host.
type reply struct {
	Session string `json:"session"`
	BootID  string `json:"boot_id"`
	ID      uint64 `json:"id,omitempty"`  // 0: it answers nothing
	Out     []byte `json:"out,omitempty"` // a program's stdout, or a file
	Err     []byte `json:"err,omitempty"` // a program's stderr
	Code    int    `json:"code,omitempty"`
	Error   string `json:"error,omitempty"` // why the request could not be carried out; empty: it was
	Errno   int    `json:"errno,omitempty"` // of the system call that failed; 0: none did
}

// encode is v as a line.
func encode(v any) ([]byte, error) {
	line, err := json.Marshal(v)
	return append(append([]byte("\n"), line...), '\n'), err
}

// readLines hands each line that parses as a T to f, skips every other one, and
// returns the error that ended the stream.
func readLines[T any](r io.Reader, f func(T)) error {
	br := bufio.NewReaderSize(r, 128<<10)
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			return err
		}
		var v T
		if json.Unmarshal(line, &v) == nil {
			f(v)
		}
	}
}
