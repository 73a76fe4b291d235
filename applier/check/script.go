package check

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/health"
)

// script is good when the program at path exits 0. It is run without arguments,
// in "/", with nothing on its standard input and an environment of PATH, LANG and
// OTA_VERSION, the version that should be running. It and everything it started
// are killed when it ends and when ctx does; the last 4 KiB of what it printed are
// kept when it fails.
//
// The check runs as root, so what others than root could have changed is refused.
// A program that is refused says nothing about the version, which has no part in
// /etc/ota: it is reported and rolls back nothing, even if it is required. A
// program that may be run and cannot (its interpreter is missing) does count: the
// interpreter may be the version's. If it was so under the old version, the
// baseline knows.
func script(ctx context.Context, path, version string) health.Answer {
	if err := mayRun(path); err != nil {
		return health.Answer{Error: err.Error(), CannotRun: true}
	}
	var out tail
	cmd := exec.CommandContext(ctx, path)
	cmd.Dir = "/"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG=C.UTF-8",
		"OTA_VERSION=" + version,
	}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// What left the process group may hold the output open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return health.Answer{Error: err.Error()}
	}
	err := wait(cmd)
	if cmd.ProcessState.Success() { // also if its output was lost
		return health.Answer{}
	}
	return health.Answer{Error: fmt.Sprintf("%s: %v", filepath.Base(path), err), Output: string(out)}
}

// wait waits for the program and kills what is left of its process group. It
// does so while the program is still a zombie: only then does its number
// certainly not belong to another program.
func wait(cmd *exec.Cmd) error {
	for {
		err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			break
		}
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	return cmd.Wait()
}

// mayRun says why the program at path must not be run.
func mayRun(path string) error {
	var info os.FileInfo
	err := bootcheck.Retry(func() (err error) {
		info, err = os.Stat(path)
		return err
	})
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%q is not a regular file", path)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%q is not executable", path)
	}
	return bootcheck.CheckOwner(path)
}

// tail is the last health.MaxOutput bytes that were written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-health.MaxOutput):]
	return len(p), nil
}
