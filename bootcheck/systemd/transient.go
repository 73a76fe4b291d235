package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	bus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Transient is a service that exists only while it is needed.
type Transient struct {
	Description string
	Env         []string // KEY=VALUE; all that the process gets besides what systemd gives every service

	// Where its input comes from, nil: nowhere; and where its output goes, nil: the
	// journal. The files are only read from here; they may be closed once
	// RunTransient has returned.
	Stdin, Stdout, Stderr *os.File

	Properties []Property // sandbox, limits, dependencies
}

// Property is a setting of a unit by its name on D-Bus, org.freedesktop.systemd1(5),
// which is not always that of the unit file: durations are …USec, in
// microseconds. Value must have exactly the type that systemd wants: bool,
// string, []string, uint64, int32, or Filter.
type Property struct {
	Name  string
	Value any
}

// Filter is the value of SystemCallFilter, RestrictAddressFamilies and
// RestrictFileSystems: the things that are allowed, or those that are not.
type Filter struct {
	Allow bool
	Items []string
}

// ErrExists says that there is a unit of that name which has not ended: the same
// work is going on already.
var ErrExists = errors.New("a unit of that name is running")

// RunTransient hands argv to systemd as a service of its own, one that does not
// die with the caller's unit, like systemd-run --pipe. argv[0] is an absolute
// path; nothing in argv is expanded. name ends in ".service".
//
// It returns when systemd has taken the job. That argv[0] cannot be executed is
// therefore known to WaitUnit only, which must be called next: systemd keeps a
// failed unit until somebody has read how it ended. A unit of that name that
// failed and that nobody asked for makes room for the new one; while one runs,
// the error is ErrExists.
func (c *Conn) RunTransient(ctx context.Context, name string, argv []string, t Transient) error {
	props, done, err := properties(argv, t)
	if err != nil {
		return fmt.Errorf("cannot start %q: %w", name, err)
	}
	defer done()
	for start := time.Now(); ; {
		ended := make(chan string, 1)
		err := c.enqueue(ctx, "start", name, func(b *bus.Conn) (int, error) {
			return b.StartTransientUnitContext(ctx, name, "fail", props, ended)
		})
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.started == nil {
				c.started = make(map[string]<-chan string)
			}
			c.started[name] = ended
			return nil
		}
		if !isError(err, errUnitExists) {
			return err
		}
		u, uerr := c.Unit(ctx, name)
		switch {
		case uerr != nil:
			return uerr
		case u.Active == "failed":
			if err := c.ResetFailed(ctx, name); err != nil {
				return err
			}
		case u.Active != "inactive" || u.Job != 0:
			return fmt.Errorf("cannot start %q: %w", name, ErrExists)
		case time.Since(start) > 2*time.Second: // one that has a file of its own
			return err
		}
		// systemd forgets a unit a moment after it may.
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("cannot start %q: %w", name, err)
		}
	}
}

// properties are those of t for StartTransientUnit. done closes the copies of
// the files.
func properties(argv []string, t Transient) (props []bus.Property, done func(), err error) {
	if len(argv) == 0 || !filepath.IsAbs(argv[0]) {
		return nil, nil, errors.New("the program must be an absolute path")
	}
	add := func(name string, value any) {
		props = append(props, bus.Property{Name: name, Value: dbus.MakeVariant(value)})
	}
	var copies []int
	done = func() {
		for _, fd := range copies {
			syscall.Close(fd)
		}
	}
	// Not exec, although that would tell at once whether the program can be
	// executed: SIGTERM, SIGHUP, SIGINT and SIGPIPE are a good end of every other
	// type of service than a oneshot, and what ended well is forgotten at once.
	add("Type", "oneshot")
	// "$" would be a variable; "$$" is a dollar sign. There is ExecStartEx with
	// no-env-expand, but systemd 252 does not understand it any more after a
	// daemon-reload and then has a service without a program.
	args := make([]string, len(argv))
	for i, a := range argv {
		args[i] = strings.ReplaceAll(a, "$", "$$")
	}
	add("ExecStart", []execCommand{{argv[0], args, false}})
	if t.Description != "" {
		add("Description", t.Description)
	}
	if len(t.Env) > 0 {
		add("Environment", t.Env)
	}
	for _, out := range []struct {
		name string
		file *os.File
	}{{"StandardInputFileDescriptor", t.Stdin}, {"StandardOutputFileDescriptor", t.Stdout}, {"StandardErrorFileDescriptor", t.Stderr}} {
		if out.file == nil {
			continue
		}
		fd, err := duplicate(out.file)
		if err != nil {
			done()
			return nil, nil, err
		}
		copies = append(copies, fd)
		add(out.name, dbus.UnixFD(fd))
	}
	for _, p := range t.Properties {
		add(p.Name, p.Value)
	}
	return props, done, nil
}

// execCommand is (sasb) of ExecStart.
type execCommand struct {
	Path          string
	Args          []string // with the name of the program
	IgnoreFailure bool
}

// duplicate is f.Fd without making f blocking.
func duplicate(f *os.File) (fd int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := rc.Control(func(from uintptr) {
		r, _, errno := syscall.Syscall(syscall.SYS_FCNTL, from, syscall.F_DUPFD_CLOEXEC, 3)
		if fd = int(r); errno != 0 {
			err = os.NewSyscallError("fcntl", errno)
		}
	})
	return fd, errors.Join(cerr, err)
}

// ErrGone says that nobody knows how a unit ended.
var ErrGone = errors.New("there is no such unit, and how it ended is not known")

// WaitUnit waits until a unit of RunTransient has ended, and returns its exit
// code; 128+n if signal n ended it. When systemd could not execute the program,
// the error is a *JobError.
//
// A unit that failed is removed when its code was read, and one that ended well
// is removed by systemd at once. So one caller waits for a unit: another might
// take a failure that was read already for a good end. A Conn that has neither
// started the unit nor seen it run gets ErrGone.
func (c *Conn) WaitUnit(ctx context.Context, name string) (code int, err error) {
	c.mu.Lock()
	ended := c.started[name] // nil: another Conn started it
	delete(c.started, name)
	c.mu.Unlock()
	ran := false
	for start := time.Now(); ; {
		u, err := c.Unit(ctx, name)
		switch {
		case err != nil:
			return 0, err
		case u.Active == "failed" && u.Job == 0:
			return c.failed(ctx, name, u)
		case u.Active == "inactive" && u.Job == 0:
			return 0, c.ended(ctx, name, ended, ran)
		}
		ran = ran || u.MainPID != 0
		// Someone waits at a terminal for a refusal, which comes at once; an
		// install takes minutes.
		next := 50 * time.Millisecond
		if time.Since(start) > 2*time.Second {
			next = 250 * time.Millisecond
		}
		if err := pause(ctx, next); err != nil {
			return 0, fmt.Errorf("cannot wait for %q: %w", name, err)
		}
	}
}

// failed returns the exit code of a unit that failed, and removes it.
func (c *Conn) failed(ctx context.Context, name string, u Unit) (code int, err error) {
	if err := c.ResetFailed(ctx, name); err != nil {
		return 0, err
	}
	code, ok := u.exitCode()
	if !ok || u.ExecMainCode == cldExited && 200 <= code && code <= 245 {
		return code, &JobError{"run", name, "systemd could not execute it: " + u.String() + statusName(code)}
	}
	return code, nil
}

// ended says whether a unit that is gone ended well. A job that was taken back
// before the program was executed (by a shutdown, say) leaves as little behind as
// a good end: only the job's own result tells them apart. It is lost when PID 1
// re-executes itself; then that the unit ran and did not fail must do.
func (c *Conn) ended(ctx context.Context, name string, job <-chan string, ran bool) error {
	if job != nil {
		select {
		case result := <-job:
			if result != "done" {
				return &JobError{"run", name, fmt.Sprintf("the job ended with %q", result)}
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for %q: %w", name, ctx.Err())
		case <-time.After(time.Second): // the signal comes by another socket
		}
	}
	if !ran {
		return fmt.Errorf("cannot tell how %q ended: %w", name, ErrGone)
	}
	return nil
}

// statusName says what systemd means by the exit codes 200 to 245 that it makes
// itself between fork and exec, systemd.exec(5); the likely ones.
func statusName(code int) string {
	names := map[int]string{
		200: "its working directory", 203: "no program, or no permission", 208: "standard input", 209: "standard output",
		217: "no such user", 218: "capabilities", 226: "its namespace", 228: "its filter of system calls", 238: "a folder of its state",
	}
	if n, ok := names[code]; ok {
		return fmt.Sprintf(" (%d: %s)", code, n)
	}
	return fmt.Sprintf(" (%d)", code)
}

// pause waits for d, or for the end of ctx, which it returns.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Names of errors on D-Bus, systemd:src/libsystemd/sd-bus/bus-common-errors.h.
const (
	errNoSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"
	errUnitExists = "org.freedesktop.systemd1.UnitExists"
	errIsLeaving  = "org.freedesktop.systemd1.TransactionIsDestructive"
)

// Leaving reports whether err is that of a job which systemd refuses for one that it has
// begun and that cannot be taken back: it shuts down, or reboots.
func Leaving(err error) bool { return isError(err, errIsLeaving) }

func isError(err error, name string) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && e.Name == name
}
