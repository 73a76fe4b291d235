package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// Context is what a program runs in: it ends at SIGINT and SIGTERM. From then on,
// a write to a stdout or stderr that has lost its reader is an error of that write
// and no longer ends the program. SIGPIPE is caught and not ignored, as the programs
// that this one starts would inherit that.
func Context() (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// logPatience is how long all lines of one program together wait for a reader that
// is slow. A journald that hangs stops reading without closing anything.
const logPatience = 2 * time.Second

// pipeBuf is what a pipe takes as soon as it takes anything, bytes: pipe(7).
const pipeBuf = 4096

// A log is made by Log.
type log struct {
	w        io.Writer
	mu       sync.Mutex // so that lines do not mix; it guards patience
	patience time.Duration
}

// Log writes lines to w that nothing may depend on, as bootcheck.Printable gives them. A write to it never fails, and
// ends within logPatience: what w does not take is lost.
func Log(w io.Writer) io.Writer {
	if _, ok := w.(*log); ok {
		return w
	}
	return &log{w: w, patience: logPatience}
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := bootcheck.Printable(string(p)); len(rest) > 0; {
		began := time.Now()
		room := Writable(l.w, l.patience)
		l.patience = max(0, l.patience-time.Since(began))
		if !room {
			break
		}
		n, err := io.WriteString(l.w, rest[:min(len(rest), pipeBuf)])
		if err != nil {
			break // a later line is tried again: a disk may have room by then
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// Writable reports whether a write of at most pipeBuf bytes to w returns at once,
// and waits for that at most wait.
func Writable(w io.Writer, wait time.Duration) bool {
	f, ok := w.(*os.File)
	if !ok {
		return true
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLOUT}}
	for end := time.Now().Add(wait); ; {
		n, err := unix.Poll(fds, int(max(0, time.Until(end)).Milliseconds()))
		if err != unix.EINTR {
			return err != nil || n > 0 // what cannot be polled is written to
		}
	}
}

// Output is where a command writes its result, as bootcheck.Printable gives it. It keeps the first error of a
// write, which becomes that of the command: the caller did not get the result.
type Output struct {
	W   io.Writer
	err error
}

// errReader says that the reader of the result went away: it has all that it wanted.
var errReader = errors.New("cannot write the result")

func (o *Output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	_, err := io.WriteString(o.W, bootcheck.Printable(string(p)))
	switch {
	case errors.Is(err, syscall.EPIPE):
		o.err = fmt.Errorf("%w: %w", errReader, err)
	case err != nil:
		o.err = bootcheck.Errorf(bootcheck.ExitFailed, "", "cannot write the result: %w", err)
	}
	return len(p), o.err
}

// Paint writes text in colour c, if W is a terminal that shows colours and the operator
// did not forbid them: NO_COLOR is set (no-color.org).
func (o *Output) Paint(c bootcheck.Colour, text string) {
	if !o.Terminal() || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || o.err != nil {
		_, _ = o.Write([]byte(text))
		return
	}
	fmt.Fprintf(o.W, "\x1b[%dm", c)
	_, _ = o.Write([]byte(text))
	_, _ = io.WriteString(o.W, "\x1b[m")
}

// Terminal reports whether W is a terminal.
func (o *Output) Terminal() bool {
	f, ok := o.W.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Err is the error of a command that ended with err: err, or the first of a write if
// the command did what it was asked for.
func (o *Output) Err(err error) error {
	if o.err != nil && err == nil {
		return o.err
	}
	return err
}
