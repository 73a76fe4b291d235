package guardian

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/journal"
)

// What the record keeps of a unit's journal: what fits on a screen or two. Each
// generation holds it.
const (
	journalLines = 50
	journalBytes = 16 << 10
	journalLine  = 300 // bytes
)

// How long reading it may take, in all: a device that a version brought to its
// knees is slow, and without it the cause is lost. journald's part is less: one that
// hangs must not take the time for what stands in its files.
const (
	journalWait = 10 * time.Second
	syncWait    = 3 * time.Second
)

// journalRead is how many bytes of journalctl's output are looked at. A version
// may write lines of any length, and this runs on a device that has little memory
// left when a version ate it.
const journalRead = 256 << 10

// journalTail is what unit wrote last in the boot bootID (empty: this one),
// oldest line first, each with the seconds since the boot. It takes 10 seconds at
// most. Empty: it wrote nothing, no journal is kept, or it may not be read; why
// is logged.
func (g *guardian) journalTail(ctx context.Context, unit, bootID string) []string {
	if !journal.IsStderr() || unit == "" {
		return nil // nothing of this device goes to a journal
	}
	ctx, cancel := context.WithTimeout(ctx, journalWait)
	defer cancel()
	args := []string{"--unit=" + unit, fmt.Sprintf("--lines=%d", journalLines), "--no-pager", "--quiet", "--output=short-monotonic", "--no-hostname"}
	if bootID != "" {
		args = append(args, "--boot="+strings.ReplaceAll(bootID, "-", ""))
	} else {
		args = append(args, "--boot")
		// What the unit wrote a moment ago may still be on its way.
		syncing, cancel := context.WithTimeout(ctx, syncWait)
		defer cancel()
		if _, err := run(syncing, "journalctl", "--sync"); err != nil && !errors.Is(err, exec.ErrNotFound) {
			g.logf("the journal of %s may lack its last lines: %v", unit, err)
		}
	}
	out, err := run(ctx, "journalctl", args...)
	if err != nil {
		g.logf("cannot read the journal of %s: %v", unit, err)
	}
	return tail(out)
}

// crashSeconds is how long unit crashed and was restarted in this boot, in seconds,
// rounded up: from the first restart to the end of tail, which journalTail returned. 0:
// the journal does not say.
func (g *guardian) crashSeconds(ctx context.Context, unit string, tail []string) int {
	if len(tail) == 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, syncWait)
	defer cancel()
	// systemd numbers the restarts that it makes, SD_MESSAGE_UNIT_RESTART_SCHEDULED.
	out, err := run(ctx, "journalctl", "--boot", "--lines=1", "--quiet", "--output=short-monotonic", "_PID=1", "UNIT="+unit, "N_RESTARTS=1")
	if err != nil {
		g.logf("cannot read the journal of %s: %v", unit, err)
		return 0
	}
	var first, last float64 // "[    7.540369] systemd[1]: …"
	if _, err := fmt.Sscanf(string(out), "[%f]", &first); err != nil {
		return 0
	}
	if _, err := fmt.Sscanf(tail[len(tail)-1], "[%f]", &last); err != nil || last <= first {
		return 0
	}
	return int(math.Ceil(last - first))
}

// run returns the last bytes, at most journalRead, that a program printed; also
// with an error. When ctx ends the program is killed with what it started.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, complaint := lastBytes{limit: journalRead}, lastBytes{limit: 1 << 10}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// What left the process group may hold the output open.
	cmd.WaitDelay = time.Second
	start := time.Now()
	err := cmd.Run()
	switch text := bootcheck.OneLine(string(complaint.bytes())); {
	case err == nil:
	case ctx.Err() != nil:
		err = fmt.Errorf("%s did not end within %s", name, time.Since(start).Round(100*time.Millisecond))
	case text != "":
		err = fmt.Errorf("%s: %w: %s", name, err, text)
	}
	return out.bytes(), err
}

// lastBytes keeps the last limit bytes that were written to it.
type lastBytes struct {
	limit int
	b     []byte // up to twice the limit, so that bytes move seldom
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.b = append(l.b, p...)
	if len(l.b) > 2*l.limit {
		l.b = append(l.b[:0], l.bytes()...)
	}
	return len(p), nil
}

func (l *lastBytes) bytes() []byte { return l.b[max(0, len(l.b)-l.limit):] }

// tail is the last lines of text, cut to what the record may hold.
func tail(text []byte) []string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	size := 0
	first := len(lines)
	for i := len(lines) - 1; i >= 0 && len(lines)-i <= journalLines; i-- {
		line := bootcheck.Clip(strings.TrimRight(bootcheck.Printable(lines[i]), " "), journalLine)
		if size += len(line); size > journalBytes {
			break
		}
		lines[i], first = line, i
	}
	if lines = lines[first:]; len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines
}
