package health

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// SocketUnit listens at Socket. systemd starts one
// ota-health@.service (`ota-apply check --request`) for each connection. That has
// the network and the rights that scripts need, and cannot write the store. So the
// guardian has neither, and the checks before a switch and after it run in the same
// sandbox.
//
// A connection carries one Request, a line of JSON, and one Answer, another. The
// client that closes it ends the check.
const (
	SocketUnit = "ota-health.socket"
	Socket     = "/run/ota/health.sock"
)

// MaxLine bounds a line of either direction: an Answer holds 4 KiB of output, each
// byte of which JSON can write as six.
const MaxLine = 64 << 10

// A Request is one run of a check that asks an address or runs a program, or a
// report to device-api. One of HTTP, Script and Report is set.
type Request struct {
	HTTP    string          `json:"http,omitempty"`    // the URL must answer 200
	Script  string          `json:"script,omitempty"`  // the program must exit with 0
	Version string          `json:"version,omitempty"` // that should be running
	Report  string          `json:"report,omitempty"`  // the URL that takes Body by POST
	Body    json.RawMessage `json:"body,omitempty"`
	Timeout time.Duration   `json:"timeout"` // nanoseconds
}

// An Answer is how a Request ended.
type Answer struct {
	Error     string `json:"error,omitempty"` // empty: good
	Late      bool   `json:"late,omitempty"`  // Timeout was over
	CannotRun bool   `json:"cannot_run,omitempty"`
	Refused   bool   `json:"refused,omitempty"` // nothing listens at the address of HTTP
	Note      string `json:"note,omitempty"`
	Output    string `json:"output,omitempty"` // at most 4 KiB
}

// ErrUnanswered says that no process carried out a Request: ota-apply is missing,
// hangs or was killed. That says nothing about the version.
var ErrUnanswered = errors.New("cannot run the health checks")

// grace is how much longer than Timeout an Answer may take: a new process starts,
// on a device that starts everything else, and it kills a script that is late.
const grace = 10 * time.Second

// Ask has another process carry out r. The error is that of ctx, or ErrUnanswered.
func Ask(ctx context.Context, r Request) (Answer, error) {
	var conn Conn
	var err error
	if systemd.Running() {
		conn, err = bootcheck.DialUnix(Socket)
	} else {
		conn, err = startChild()
	}
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrUnanswered, err)
	}
	return AskOver(ctx, conn, r)
}

// A Conn is the connection to the process that carries out a Request.
type Conn interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// AskOver is Ask over conn, which it closes.
func AskOver(ctx context.Context, conn Conn, r Request) (Answer, error) {
	defer conn.Close()
	a, err := exchange(ctx, conn, r)
	switch {
	case err == nil:
		return a, nil
	case ctx.Err() != nil:
		return Answer{}, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errors.New("ota-apply does not answer")
	case errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET):
		err = errors.New("ota-apply ended without an answer")
	}
	return Answer{}, fmt.Errorf("%w: %w", ErrUnanswered, err)
}

func exchange(ctx context.Context, conn Conn, r Request) (a Answer, err error) {
	conn.SetDeadline(time.Now().Add(r.Timeout + grace))
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	line, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return a, err
	}
	line, err = bufio.NewReader(io.LimitReader(conn, MaxLine)).ReadBytes('\n')
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(line, &a)
}

// child is the connection to a process of our own, which ends with it.
type child struct {
	Conn
	cmd *exec.Cmd
}

// startChild is for a machine without systemd: an image build, a test.
func startChild() (Conn, error) {
	program, err := applyProgram()
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(fds[0], true) // for its deadline
	ours, theirs := os.NewFile(uintptr(fds[0]), "health"), os.NewFile(uintptr(fds[1]), "health")
	defer theirs.Close()
	cmd := exec.Command(program, "check", "--request")
	cmd.Stdin, cmd.Stderr = theirs, os.Stderr
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	return &child{ours, cmd}, nil
}

// Close returns when the process has ended.
func (c *child) Close() error {
	err := c.Conn.Close()
	defer time.AfterFunc(5*time.Second, func() { c.cmd.Process.Kill() }).Stop()
	_ = c.cmd.Wait()
	return err
}

// applyProgram is the ota-apply that belongs to this program.
func applyProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), "ota-apply")
	for _, name := range []string{beside, "/usr/bin/ota-apply"} {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			return name, nil
		}
	}
	return "", fmt.Errorf("%q is missing", beside)
}

// asked is a check that another process carries out.
func (env Env) asked(r Request) func(context.Context) finding {
	r.Version = env.Version
	return func(ctx context.Context) finding {
		a, err := env.Ask(ctx, r)
		f := finding{err: err, note: OneLine(a.Note), refused: a.Refused, output: a.Output[:min(len(a.Output), MaxOutput)]}
		switch {
		case err != nil || a.Error == "":
		case a.Late:
			f.err = fmt.Errorf("no answer within %s", r.Timeout)
		case a.CannotRun:
			f.err = fmt.Errorf("%w: %s", errCannotRun, a.Error)
		default:
			f.err = errors.New(a.Error)
		}
		return f
	}
}

// OneLine makes text from outside fit for a journal entry and a table: one line of
// at most 300 bytes.
func OneLine(s string) string { return bootcheck.Clip(bootcheck.OneLine(s), 300) }
