// Package cli is what the three programs' command lines have in common: a table of
// commands, flags that stand anywhere, one clear line for an error, the exit codes,
// and output that never holds a program up.
package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// ExitCodes is the table for a usage text.
const ExitCodes = `Exit codes:
  0 done                     6 download failed
  1 failed, nothing changed  7 no space
  2 usage                    8 rolled back
  3 busy                     9 hold, a person is needed
  4 refused                 10 unknown: switched, not certainly durable
  5 damaged or hostile bundle
`

// Version is that of the programs, which is that of their package. `make build`
// sets it (go build -ldflags -X).
var Version = "unknown"

// Size is n bytes for a person to read: "812 bytes", "11.8 MB".
func Size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d bytes", n)
	case n < 1000*1000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1000*1000*1000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.2f GB", float64(n)/1e9)
}

// Plural is "1 file", "2 files".
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Usagef is an error of the command line. command, "ota-apply install", is what
// its advice sends the reader to the help of.
func Usagef(command, format string, args ...any) error {
	advice := "`" + command + " --help` lists the commands and flags"
	if prog, verb, ok := strings.Cut(command, " "); ok {
		advice = "`" + prog + " help " + verb + "` shows its flags"
	}
	return bootcheck.Errorf(bootcheck.ExitUsage, "", format, args...).WithAdvice("%s", advice)
}

// Fail prints err for a person, "prog: what went wrong" and on a line of its own
// what to do, and returns the exit code of err. It prints nothing for nil.
func Fail(w io.Writer, prog string, err error) bootcheck.ExitCode {
	if err == nil {
		return bootcheck.ExitDone
	}
	if errors.Is(err, errReader) {
		return bootcheck.ExitFailed // as `ota-apply list | head -1`: nobody asks for the rest
	}
	w = Log(w)
	// One line, whatever a cause put into its text.
	fmt.Fprintf(w, "%s: %s\n", prog, bootcheck.OneLine(err.Error()))
	if advice := bootcheck.Advice(err); advice != "" {
		fmt.Fprintf(w, "%s: %s\n", prog, advice)
	}
	return bootcheck.Exit(err)
}
