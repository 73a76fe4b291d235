package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/bootcheck"
)

// TestPaint: colours reach a terminal, unless the operator forbids them, and nothing else;
// what a version printed never has one.
func TestPaint(t *testing.T) {
	print := func(o *Output) {
		bootcheck.Paint(o, bootcheck.Green, "confirmed")
		fmt.Fprint(o, " \x1b[31mred\n")
	}
	var b bytes.Buffer
	print(&Output{W: &b})
	if got := b.String(); got != "confirmed  [31mred\n" {
		t.Errorf("not on a terminal: %q", got)
	}
	for _, row := range []struct{ term, noColour, want string }{
		{"linux", "", "\x1b[32mconfirmed\x1b[m  [31mred\r\n"},
		{"linux", "1", "confirmed  [31mred\r\n"},
		{"dumb", "", "confirmed  [31mred\r\n"},
	} {
		t.Setenv("TERM", row.term)
		t.Setenv("NO_COLOR", row.noColour)
		master, terminal := openTerminal(t)
		print(&Output{W: terminal})
		if got, err := bufio.NewReader(master).ReadString('\n'); err != nil || got != row.want {
			t.Errorf("TERM=%s NO_COLOR=%s: %q, %v, want %q", row.term, row.noColour, got, err, row.want)
		}
	}
	master, terminal := openTerminal(t)
	t.Setenv("TERM", "linux")
	st := &bootcheck.Status{Phase: bootcheck.PhaseHold, Hold: bootcheck.HoldExhausted}
	st.Print(&Output{W: terminal}, bootcheck.BootLimits{}, time.Now())
	if got, err := bufio.NewReader(master).ReadString('\n'); err != nil || !strings.HasPrefix(got, "phase     \x1b[31mhold\x1b[m: no version left") {
		t.Errorf("the status begins with %q, %v, want a red hold", got, err)
	}
}

func openTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}
