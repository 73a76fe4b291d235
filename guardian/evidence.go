package guardian

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// What the record keeps of a unit's journal: what fits on a screen or two. Each
// generation holds it.
const (
	journalLines = 50
	journalBytes = 16 << 10
	journalLine  = 300 // bytes
	journalWait  = 5 * time.Second
)

// journalctl is the program that reads the journal. A variable for the tests.
var journalctl = "journalctl"

// journalTail is what unit wrote last in the boot bootID (empty: this one),
// oldest line first, each with the seconds since the boot. It takes 5 seconds at
// most. Empty: it wrote nothing, no journal is kept, or nobody may read it; why
// is logged.
func (g *guardian) journalTail(ctx context.Context, unit, bootID string) []string {
	if !journalled() || unit == "" {
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
		if err := run(ctx, io.Discard, journalctl, "--sync"); err != nil {
			g.logf("the journal may miss the last lines: %v", err)
		}
	}
	var out bytes.Buffer
	if err := run(ctx, &out, journalctl, args...); err != nil {
		g.logf("cannot read the journal of %s: %v", unit, err)
	}
	return tail(out.Bytes())
}

// run runs a program and kills it when ctx ends.
func run(ctx context.Context, out io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Stdout = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s: no answer within %s", name, journalWait)
	}
	return err
}

// tail is the last lines of text, cut to what the record may hold.
func tail(text []byte) []string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(string(text), "\uFFFD")), "\n")
	size := 0
	first := len(lines)
	for i := len(lines) - 1; i >= 0 && len(lines)-i <= journalLines; i-- {
		line := strings.TrimSpace(strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, lines[i]))
		if len(line) > journalLine {
			line = strings.ToValidUTF8(line[:journalLine], "") + "…"
		}
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
