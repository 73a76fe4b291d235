package bootcheck

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"unicode"
)

// TestPrintable holds that nothing that a terminal obeys passes, and that text stays.
func TestPrintable(t *testing.T) {
	for _, row := range []struct{ text, printable, line string }{
		{"", "", ""},
		{"version 1.2.0: grün, 版本\n\tzwei", "version 1.2.0: grün, 版本\n\tzwei", "version 1.2.0: grün, 版本 zwei"},
		{"\x1b]0;title\x07\x1b[2J", " ]0;title  [2J", "]0;title [2J"},
		{"back\x08\x7f", "back  ", "back"},
		{"over\rwritten", "over written", "over written"},
		{"C1: \u009b31m", "C1:  31m", "C1: 31m"},
		{"a byte: \x9b31m", "a byte: \uFFFD31m", "a byte: \uFFFD31m"},
		{"right to left: \u202egnp.exe", "right to left:  gnp.exe", "right to left: gnp.exe"},
		{"\u2028 and \u2029", "  and  ", "and"},
	} {
		if got := Printable(row.text); got != row.printable {
			t.Errorf("Printable(%q) = %q, want %q", row.text, got, row.printable)
		}
		if got := OneLine(row.text); got != row.line {
			t.Errorf("OneLine(%q) = %q, want %q", row.text, got, row.line)
		}
	}
	var all strings.Builder
	for r := rune(0); r < 0x3000; r++ {
		all.WriteRune(r)
	}
	for _, r := range Printable(all.String()) {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			t.Errorf("Printable lets %U pass", r)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31m\x9b")
	f.Fuzz(func(t *testing.T, text string) {
		line := OneLine(text)
		if line != OneLine(line) || strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("OneLine(%q) = %q", text, line)
		}
	})
}

func TestLine(t *testing.T) {
	told, stop := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-told.Done()
	for _, c := range []struct {
		err  error
		want string
	}{
		{told.Err(), "interrupted"},
		{context.Cause(told), "interrupted"},
		{fmt.Errorf("cannot pack: %w", context.Cause(told)), "cannot pack: interrupted"},
		{fmt.Errorf("cannot read\n%q: %w; the rest is there", "a", context.Canceled), `cannot read "a": interrupted; the rest is there`},
		{fmt.Errorf("interrupted after 3 of 5 bytes: %w", context.Cause(told)), "interrupted after 3 of 5 bytes"},
		{errors.New("no such file"), "no such file"},
	} {
		if got := Line(c.err); got != c.want {
			t.Errorf("%q is shown as %q, want %q", c.err, got, c.want)
		}
	}
}
