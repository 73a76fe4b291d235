package applier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/applier/fetch"
	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/journal"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// Where systemd runs, an install of root runs in installUnit: device-api, which
// asks for installs, is restarted by them, and a child of it would be killed with
// it. The unit is static (units/ota-install.service); what it has to do lies in
// requestFile, and its streams come through streamsSocket.
//
//	the command at the prompt          installUnit: ota-apply serve-install
//	writes requestFile (0600)
//	starts the unit ─────────────────► reads requestFile and removes it
//	stdout, stderr, bundle ──────────► streamsSocket, SCM_RIGHTS
//	runs the command of --url-from ◄─► asks for a fresh address, by a socket
//	waits for the end of the unit      installs; its log goes to stderr and to the journal
//	ends with its exit code ◄───────── ends
//
// A start of the unit without a streamsSocket is the same install, which tells
// the journal, device-api and progress.json.
const (
	installUnit   = "ota-install.service"
	serveInstall  = "serve-install"
	requestDir    = "/run/ota" // RuntimeDirectory= of installUnit
	requestFile   = requestDir + "/install-request.json"
	streamsSocket = requestDir + "/install.sock"
)

// A request is a command line for installUnit. It can hold secrets (the password of
// an address, of a proxy), so it is no command line of a process, which every user
// can read.
type request struct {
	Args        []string `json:"args"`        // the command line as it was
	Config      string   `json:"config"`      // empty: the default file, which need not exist
	Root        string   `json:"root"`        // the store
	Target      string   `json:"target"`      // the address or absolute path of a bundle, or the version
	AskedBy     string   `json:"asked_by"`    // see asker
	Environment []string `json:"environment"` // KEY=VALUE: requestVariables that are set
}

// requestVariables are those of the environment that an install reads: proxies, and
// whether the terminal can write over a line.
var requestVariables = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "TERM"}

// The entries of installUnit in the journal.
var (
	eventBegun = journal.Event{ID: "b4951af9a7764bff8c185f8e278c407b", Priority: journal.Notice}
	eventEnded = journal.Event{ID: "45f03b600a2e4ddb9f8e6ee001a20b0c", Priority: journal.Notice}
)

// unitFor connects to systemd if the install has to run in installUnit; nil: it runs
// in this process.
func (a *applier) unitFor(ctx context.Context) (*systemd.Manager, error) {
	if os.Geteuid() != 0 || !systemd.Running() {
		return nil, nil
	}
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: systemd does not answer: %w", installUnit, err)
	}
	why, err := a.unfit(ctx, conn)
	if why == "" && err == nil {
		return conn, nil
	}
	if err == nil {
		a.logf("%s %s: the install runs in this process, without its sandbox, and ends with its caller", installUnit, why)
	}
	return nil, err
}

// unfit is why installUnit cannot do this install; empty: it can.
func (a *applier) unfit(ctx context.Context, conn *systemd.Manager) (string, error) {
	unit, err := conn.Unit(ctx, installUnit)
	if err != nil || !unit.Loaded() {
		return "is " + unit.Load, err
	}
	for _, path := range []string{a.cfg.Root, a.cfg.Spool, a.cfg.Run} {
		if !unit.CanWrite(path) {
			return fmt.Sprintf("cannot write %s (see ReadWritePaths=)", path), nil
		}
	}
	return "", nil
}

// follow lets installUnit do r, and ends as it ends. An interrupt (Ctrl-C) stops the
// unit; a SIGTERM, as from a device-api that is stopped, ends only the following.
func (a *applier) follow(ctx context.Context, conn *systemd.Manager, r *request, stdout, stderr io.Writer) error {
	streams, started, err := a.leaveRequest(ctx, conn, r)
	if err != nil {
		return err
	}
	defer started()
	defer streams.Close()
	var heard atomic.Bool
	third := a.bundle
	if a.fresh != nil {
		answers, asks, err := socketPair()
		if err != nil {
			return err
		}
		defer answers.Close()
		defer asks.Close()
		third = asks
		go a.giveAddresses(ctx, answers)
	}
	go func() {
		c, err := streams.AcceptUnix()
		if err != nil {
			return // it ended before
		}
		defer c.Close()
		heard.Store(true)
		started()
		var fds []int
		for _, stream := range []any{stdout, stderr, third} {
			if f, ok := stream.(*os.File); ok && f != nil {
				fds = append(fds, int(f.Fd()))
			}
		}
		_, _, _ = c.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	}()
	if a.events != nil {
		a.events.elsewhere = true
	}
	var code int
	ended := make(chan error, 1)
	go func() {
		var err error
		code, err = conn.Run(context.WithoutCancel(ctx), installUnit)
		ended <- err
	}()
	stopped := false
	select {
	case err = <-ended:
	case <-ctx.Done():
		if !byInterrupt(ctx) {
			return bootcheck.Errorf(bootcheck.ExitUnknown, "", "interrupted: the install continues in %s", installUnit).
				WithAdvice("`ota-apply status` shows its progress")
		}
		stopped = true
		if err := conn.Stop(context.WithoutCancel(ctx), installUnit); err != nil {
			return fmt.Errorf("cannot stop %s: %w", installUnit, err)
		}
		err = <-ended // says whether it had made its switch
	}
	if !heard.Load() { // systemd could not start it
		os.Remove(requestFile)
		if a.events != nil {
			a.events.elsewhere = false
		}
	}
	_, never := errors.AsType[*systemd.JobError](err)
	switch {
	case err == nil && code > int(bootcheck.ExitUnknown), never && !stopped:
		return a.endedWithoutAWord(code, err)
	case stopped && (err != nil || code == 0):
		return bootcheck.Errorf(bootcheck.ExitUnknown, "", "interrupted").
			WithAdvice("`ota-apply status` says what was done; run the same command again to resume")
	case err != nil:
		return bootcheck.Errorf(bootcheck.ExitUnknown, "", "cannot follow the install in %s: %w", installUnit, err).
			WithAdvice("`ota-apply status` shows its progress")
	case code != 0 && !heard.Load():
		return bootcheck.Errorf(bootcheck.ExitCode(code), "", "the install in %s failed", installUnit).
			WithAdvice("`journalctl -u %s` says why", installUnit)
	case code != 0:
		return exitOf(code)
	}
	return nil
}

// leaveRequest writes r for the unit, which is not running, and listens at
// streamsSocket. Until started is called no other install can begin.
func (a *applier) leaveRequest(ctx context.Context, conn *systemd.Manager, r *request) (streams *net.UnixListener, started func(), err error) {
	// The sandbox lets write what is there.
	store, err := bootcheck.Create(a.cfg.Root)
	if err != nil {
		return nil, nil, err
	}
	for _, dir := range []string{a.cfg.Spool, a.cfg.Run, requestDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, nil, err
		}
	}
	unlock, err := store.LockInstalls(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	u, err := conn.Unit(ctx, installUnit)
	if err != nil {
		return nil, nil, err
	}
	if u.Job != 0 || u.Active != "inactive" && u.Active != "failed" {
		return nil, nil, bootcheck.Errorf(bootcheck.ExitBusy, "", "busy: another install runs in %s", installUnit).
			WithAdvice("`ota-apply status` says what it does")
	}
	// What a killed command left.
	os.Remove(requestFile)
	os.Remove(streamsSocket)
	data, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(requestFile, data, 0o600)
	}
	if err != nil {
		return nil, nil, err
	}
	// Mode 0755, by the umask: root alone can connect.
	streams, err = net.ListenUnix("unix", &net.UnixAddr{Name: streamsSocket, Net: "unix"})
	return streams, unlock, err
}

// endedWithoutAWord is the error of an install in the unit that could not say
// anything itself: it was killed, or systemd could not start it (err).
func (a *applier) endedWithoutAWord(code int, err error) error {
	if a.events != nil {
		a.events.elsewhere = false
	}
	if err == nil {
		err = bootcheck.Errorf(bootcheck.ExitUnknown, "", "the install in %s was killed (exit code %d)", installUnit, code).
			WithAdvice("`ota-apply status` shows the current version; run the same command again to resume")
	}
	a.refused(err)
	return err
}

// An exitOf is the exit code of the install in the unit, which said itself what
// was wrong.
type exitOf int

func (e exitOf) Error() string { return fmt.Sprintf("the install ended with exit code %d", int(e)) }

// byInterrupt reports whether ctx ended by Ctrl-C; signal.NotifyContext says so
// in its cause.
func byInterrupt(ctx context.Context) bool {
	return strings.HasPrefix(context.Cause(ctx).Error(), os.Interrupt.String())
}

// asRequest is c, which has been checked, for installUnit.
func (c *command) asRequest(cfg *config.Config) *request {
	r := &request{Args: c.args, Root: cfg.Root, Target: c.arg, AskedBy: c.options.by}
	if c.file != "" || os.Getenv("OTA_CONFIG") != "" {
		r.Config = cfg.Path
	}
	for _, name := range requestVariables {
		if value := os.Getenv(name); value != "" {
			r.Environment = append(r.Environment, name+"="+value)
		}
	}
	return r
}

// takeRequest returns the command that requestFile asks for, and its streams. log is
// the journal.
func takeRequest(log io.Writer) (c *command, stdout, stderr io.Writer, err error) {
	stdout, stderr = io.Discard, log
	data, err := os.ReadFile(requestFile)
	if err != nil {
		err = (&bootcheck.Error{Exit: bootcheck.ExitUsage, Err: fmt.Errorf("no install was requested: %w", err)}).
			WithAdvice("`ota-apply install` requests one, and starts %s", installUnit)
		return nil, stdout, stderr, err
	}
	os.Remove(requestFile) // no other program may read it
	var r request
	if err = bootcheck.ReadJSON(data, &r); err == nil {
		c, err = r.command()
	}
	if err != nil {
		return nil, stdout, stderr, fmt.Errorf("cannot read %s: %w", requestFile, err)
	}
	c.unit = &streams{journal: cli.Log(log)}
	if files := receiveStreams(); len(files) >= 2 {
		c.unit.terminal = files[1]
		stdout, stderr = files[0], io.MultiWriter(c.unit.journal, cli.Log(files[1]))
		if len(files) > 2 && c.urlFrom == "" {
			c.unit.bundle = files[2]
		} else if len(files) > 2 {
			c.unit.fresh = askFor(files[2])
		}
	}
	return c, stdout, stderr, nil
}

// command is the command that r asks for, in this process, which gets its environment.
func (r *request) command() (*command, error) {
	c, err := parse(r.Args, io.Discard, io.Discard)
	if err != nil {
		return nil, err
	}
	c.file, c.root, c.arg, c.urlFile, c.options.by = r.Config, r.Root, r.Target, "", r.AskedBy
	for _, line := range r.Environment {
		if name, value, _ := strings.Cut(line, "="); slices.Contains(requestVariables, name) {
			os.Setenv(name, value)
		}
	}
	return c, nil
}

// streams are what an install in installUnit got of the command that follows it; nil
// if none does.
type streams struct {
	journal  io.Writer
	terminal *os.File // its stderr; nil: no command follows
	bundle   *os.File // what it opened: it may lie where the sandbox does not see it

	fresh func(ctx context.Context) (address string, err error) // asks it; nil: it has no --url-from
}

// socketPair returns the two ends of a socket.
func socketPair() (one, other *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "addresses"), os.NewFile(uintptr(fds[1]), "addresses"), nil
}

// giveAddresses answers each byte from asker with a fresh address, a line: empty if there is none.
func (a *applier) giveAddresses(ctx context.Context, asker io.ReadWriter) {
	for question := make([]byte, 1); ; {
		if _, err := asker.Read(question); err != nil {
			return // the install has ended
		}
		address, err := a.fresh(ctx)
		if err != nil {
			a.logf("%v", err)
		}
		if _, err := io.WriteString(asker, address+"\n"); err != nil {
			return
		}
	}
}

// askFor asks the command that follows, behind f, for a fresh address.
func askFor(f *os.File) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		var address string
		conn, err := net.FileConn(f)
		if err == nil {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })()
			_, err = conn.Write([]byte{0})
		}
		if err == nil {
			address, err = addressLine(conn)
		}
		if err != nil {
			return "", bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeAddressExpired,
				"the address has expired, and who asked for the install gives no other").
				WithAdvice("install from a fresh address to resume")
		}
		return address, nil
	}
}

// receiveStreams returns stdout, stderr and perhaps the bundle, or the socket of --url-from, of
// the command that follows; none if no command does.
func receiveStreams() (files []*os.File) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: streamsSocket, Net: "unix"})
	if err != nil {
		return nil
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var rights [256]byte
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), rights[:])
	messages, _ := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, _ := unix.ParseUnixRights(&messages[0])
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "a stream of the command"))
	}
	return files
}

// announceBegin and announceEnd write the two entries of an install in the journal.
// Both name what it is of: an address without its secrets, a file, or a version.
func (c *command) announceBegin() {
	address := fetch.Redact(c.arg)
	journal.Announce("ota-apply", eventBegun, map[string]string{"OTA_ADDRESS": address}, c.name+" "+address+" begins")
}

func (c *command) announceEnd(version string, err error) {
	e, result := eventEnded, "success"
	if err != nil {
		e.Priority, result = journal.Error, bootcheck.ReportCode(err)
	}
	address, exit := fetch.Redact(c.arg), fmt.Sprint(bootcheck.Exit(err))
	fields := map[string]string{"OTA_ADDRESS": address, "OTA_VERSION": version, "OTA_RESULT": result, "OTA_EXIT": exit}
	journal.Announce("ota-apply", e, fields, fmt.Sprintf("%s %s ends: version %s, %s, exit code %s", c.name, address, cmp.Or(version, "unknown"), result, exit))
}
