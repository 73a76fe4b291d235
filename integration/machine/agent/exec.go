package agent

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"
)

// A program of a test starts with this and nothing else: what the agent itself
// got from systemd (NOTIFY_SOCKET, INVOCATION_ID) would make it believe that it
// is the agent's service.
var cleanEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"LANG=C.UTF-8",
}

// outputDelay is how long the output of a program that ended is still waited
// for when something it left behind holds the pipe open. On a loaded machine what
// it wrote itself may take a second: then half a second lost it.
const outputDelay = 5 * time.Second

// exec runs a program and sends its output. Cancelled, it kills the program
// and everything in its process group.
func (g *guest) exec(ctx context.Context, r request) done {
	if len(r.Argv) == 0 {
		return done{Error: "no program was named"}
	}
	cmd := exec.CommandContext(ctx, r.Argv[0], r.Argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = cleanEnv
	cmd.Stdout = pieces{g, r.ID, toOut}
	cmd.Stderr = pieces{g, r.ID, toErr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = outputDelay
	if err := cmd.Start(); err != nil {
		return doneOf(err)
	}
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return doneOf(fmt.Errorf("cannot wait for %q: %w", r.Argv[0], err))
	}
	// ErrWaitDelay and an *ExitError leave a known end; so does a program that ctx
	// killed, whose caller no longer listens. Output that could not be sent does not
	// matter either: then nobody is there to read the reply.
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok && !errors.Is(err, exec.ErrWaitDelay) {
		return doneOf(fmt.Errorf("the end of %q is not known: %w", r.Argv[0], err))
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return done{Code: 128 + int(ws.Signal())}
	}
	return done{Code: ws.ExitStatus()}
}
