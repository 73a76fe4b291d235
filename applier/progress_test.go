package applier

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// A pty is a terminal whose other side the test reads.
type pty struct {
	master, terminal *os.File
	out              chan string // all that was written, once the terminal is closed
}

func newPty(t *testing.T, columns uint16) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	p := &pty{master, terminal, make(chan string, 1)}
	p.resize(t, columns)
	t.Cleanup(func() { master.Close(); terminal.Close() })
	go func() {
		text, _ := io.ReadAll(master) // ends with EIO when the terminal is closed
		p.out <- string(text)
	}()
	return p
}

func (p *pty) resize(t *testing.T, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(p.terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// end is all that was written to the terminal.
func (p *pty) end() string {
	p.terminal.Close()
	return <-p.out
}

// TestProgressBar holds what an operator at a terminal sees of an install: lines that
// fit, at most ten a second, nothing of them left, and no log line mixed with them.
func TestProgressBar(t *testing.T) {
	t.Setenv("TERM", "")
	for _, columns := range []uint16{200, 40, 5} {
		t.Run(fmt.Sprint(columns, " columns"), func(t *testing.T) {
			p := newPty(t, columns)
			synctest.Test(t, func(t *testing.T) { progressBarOn(t, p, columns) })
		})
	}
}

// progressBarOn is one row of TestProgressBar. The clock is that of synctest.
func progressBarOn(t *testing.T, p *pty, columns uint16) {
	bar := newProgressBar(p.terminal)
	if bar == nil {
		t.Fatal("no bar on a terminal")
	}
	log := bar.over(p.terminal)
	begin := time.Now()
	const total = 100 << 20
	for _, stage := range []string{"downloading", "installing"} {
		bar.stage(stage, "the bundle\x1b[31m of "+strings.Repeat("ä", 300))
		for i := range 600 {
			bar.progress(int64(i+1)*total/600, total)
			if i%200 == 199 {
				fmt.Fprintln(log, "ota-apply: a line of the log")
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	bar.close()
	bar.close()
	took := time.Since(begin)
	frames := strings.Split(p.end(), clearLine)
	t.Logf("%d redraws in %v, such as %q", len(frames)-1, took, frames[min(3, len(frames)-1)])

	if n, most := len(frames)-1, int(took/redraw)+2+6; n < 3 || n > most {
		t.Errorf("%d redraws in %v, want 3 to %d: ten a second, and one for each line of the log", n, took, most)
	}
	if last := frames[len(frames)-1]; last != "" && last != "ota-apply: a line of the log\r\n" {
		t.Errorf("%q is left on the terminal", last)
	}
	logs := 0
	for _, frame := range frames {
		// A line of the log stands alone, behind a cleared line.
		for line := range strings.Lines(frame) {
			if strings.Contains(line, "log") {
				logs++
				if line != "ota-apply: a line of the log\r\n" {
					t.Errorf("a line of the log became %q", line)
				}
				continue
			}
			if n := utf8.RuneCountInString(line); n > int(columns)-1 {
				t.Errorf("%q has %d columns, want less than %d", line, n, columns)
			}
			if strings.ContainsAny(line, "\r\n\x1b") {
				t.Errorf("%q moves the cursor", line)
			}
		}
	}
	if logs != 6 {
		t.Errorf("%d lines of the log, want 6", logs)
	}
}

// TestProgressBarNowhere holds that nothing is shown where there is no terminal.
func TestProgressBarNowhere(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var text strings.Builder
	p := newPty(t, 80)
	t.Setenv("TERM", "dumb")
	for name, w := range map[string]io.Writer{"a file": file, "a buffer": &text, "a terminal that cannot": p.terminal} {
		bar := newProgressBar(w)
		if bar != nil {
			t.Errorf("%s got a bar", name)
		}
		bar.stage("downloading", "x")
		bar.progress(1, 2)
		if bar.over(w) != w {
			t.Errorf("%s: over changed the writer", name)
		}
		bar.close()
	}
}

// TestProgressLine holds what is shown. A download of 400 MiB has 8 MiB/s for three
// seconds, then 12 MiB/s.
func TestProgressLine(t *testing.T) {
	const mib = 1 << 20
	now := time.Unix(0, 0)
	p := &progressBar{name: "downloading", begun: now}
	p.progress(100*mib, 400*mib)
	p.startOver(now)
	shows := func(what, want string) {
		t.Helper()
		if got := p.line(now); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	all := " of " + bootcheck.Size(400*mib)
	shows("at once", "downloading  25 %, "+bootcheck.Size(100*mib)+all)
	for i := range 80 {
		now = now.Add(redraw)
		step := int64(12 * mib)
		if i < 30 {
			step = 8 * mib
		}
		p.progress(p.done+step/10, 400*mib)
		p.line(now)
	}
	shows("after eight seconds", "downloading  45 %, "+bootcheck.Size(184*mib)+all+", "+bootcheck.Size(int64(p.rate))+"/s, 0:19 left")
	if p.rate < 10*mib || p.rate > 12*mib {
		t.Errorf("the rate is %.1f MiB/s, want it near the last seconds' 12", p.rate/mib)
	}
	for range 11 {
		now = now.Add(redraw)
		p.line(now)
	}
	shows("nothing comes any more", "downloading  45 %, "+bootcheck.Size(184*mib)+all+", stalled")
	p.progress(10*mib, 400*mib)
	p.startOver(now)
	shows("it started over", "downloading   2 %, "+bootcheck.Size(10*mib)+all)
	p.progress(500*mib, 400*mib)
	shows("a server that sends more than it said", "downloading 100 %, "+bootcheck.Size(400*mib)+all)

	p = &progressBar{name: "rebooting", message: "restarting the services", begun: now}
	now = now.Add(65 * time.Second)
	shows("no one knows how far", "rebooting: restarting the services, 1:05")
	const trial = `ota-apply: trial of 1.1.0: healthy for 23 of 60 s, "device-api answers" good`
	p.trial(trial)
	shows("a trial", trial)
	p.stage("installing", "x")
	shows("a trial is over", "installing: x")
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0:00", 7 * time.Second: "0:07", 59600 * time.Millisecond: "1:00", 754 * time.Second: "12:34",
		3723 * time.Second: "1:02:03", 1 << 62: "99:59:59",
	} {
		if got := clock(d); got != want {
			t.Errorf("clock(%v) = %q, want %q", d, got, want)
		}
	}
}
