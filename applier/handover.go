package applier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/systemd"
)

// installUnit is the transient unit that an install runs in. device-api, which
// asks for installs, is restarted by them; a child of it would be killed with
// it. There is one name, as there is one install at a time.
const installUnit = "ota-apply.service"

// inUnit is the environment variable that tells the program that it runs in
// installUnit already.
const inUnit = "OTA_APPLY_UNIT"

// mustHandOver reports whether this process has to hand itself to a unit of its own.
func mustHandOver() bool {
	return os.Getenv(inUnit) == "" && os.Geteuid() == 0 && systemd.Running()
}

// handOver runs the command args (of this program) in installUnit, with stdin, nil
// for none, and this process's stdout and stderr, follows it and ends as it ends. An interrupt
// (Ctrl-C) ends the unit; a SIGTERM, as from a device-api that is stopped, ends
// only the following. reads are the files and folders, besides those of the
// configuration, that args name.
func (a *applier) handOver(ctx context.Context, args, reads []string, stdin, stdout, stderr *os.File) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	conn, err := systemd.Dial(ctx)
	if err != nil {
		return fmt.Errorf("cannot run in a unit of its own: systemd does not answer: %w", err)
	}
	defer conn.Close()

	// The sandbox lets write what is named; what is named has to exist.
	for _, dir := range []string{a.cfg.Run, a.cfg.Spool} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	err = conn.RunTransient(ctx, installUnit, append([]string{self}, args...), systemd.Transient{
		Description: "Install a version of the application",
		Env:         []string{inUnit + "=1", "TERM=" + os.Getenv("TERM")},
		Stdin:       stdin,
		Stdout:      stdout,
		Stderr:      stderr,
		Properties:  sandbox(a.cfg, append(reads, self)),
	})
	if errors.Is(err, systemd.ErrExists) {
		return bootcheck.Errorf(bootcheck.ExitBusy, "", "busy: another install runs in %s", installUnit).
			WithAdvice("`ota-apply status` says what it does")
	}
	if err != nil {
		return fmt.Errorf("cannot run in a unit of its own: %w", err)
	}
	if a.events != nil {
		a.events.elsewhere = true
	}
	code, err := conn.WaitUnit(ctx, installUnit)
	if _, never := errors.AsType[*systemd.JobError](err); never || code > int(bootcheck.ExitUnknown) {
		return a.endedWithoutAWord(code, err)
	}
	switch {
	case ctx.Err() != nil && byInterrupt(ctx):
		if err := conn.Stop(context.WithoutCancel(ctx), installUnit); err != nil {
			return fmt.Errorf("cannot stop %s: %w", installUnit, err)
		}
		// How it ended says whether it had made its switch.
		switch code, err := conn.WaitUnit(context.WithoutCancel(ctx), installUnit); {
		case err == nil && code > int(bootcheck.ExitUnknown):
			return a.endedWithoutAWord(code, nil)
		case err == nil && code != 0:
			return exitOf(code)
		}
		return bootcheck.Errorf(bootcheck.ExitUnknown, "", "interrupted").
			WithAdvice("`ota-apply status` says what was done; asked again, it goes on where it stopped")
	case ctx.Err() != nil:
		return bootcheck.Errorf(bootcheck.ExitUnknown, "", "ended, but the install goes on in %s", installUnit).
			WithAdvice("`ota-apply status` shows how")
	case err != nil:
		return bootcheck.Errorf(bootcheck.ExitUnknown, "", "cannot follow the install in %s: %w", installUnit, err).
			WithAdvice("`ota-apply status` shows how it goes on")
	case code != 0:
		return exitOf(code)
	}
	return nil
}

// endedWithoutAWord is the error of an install in the unit that could not say
// anything itself: it was killed, or systemd could not start it (err).
func (a *applier) endedWithoutAWord(code int, err error) error {
	if a.events != nil {
		a.events.elsewhere = false
	}
	if err == nil {
		err = bootcheck.Errorf(bootcheck.ExitUnknown, "", "the install in %s was killed (exit code %d)", installUnit, code).
			WithAdvice("`ota-apply status` says what runs; asked again, the install goes on where it stopped")
	} else {
		err = fmt.Errorf("cannot run in a unit of its own: %w", err)
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

// files are the process's own streams, which can be handed over as they are; a
// test's buffers cannot.
func files(stdout, stderr io.Writer) (*os.File, *os.File, bool) {
	out, ok1 := stdout.(*os.File)
	err, ok2 := stderr.(*os.File)
	return out, err, ok1 && ok2
}
