// Package cli is what the three programs' command lines have in common: a table of
// commands, flags that stand anywhere, one clear line for an error, the exit codes,
// and output that never holds a program up.
package cli

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// ExitCodes is the table for a usage text.
const ExitCodes = `Exit codes:
  0 done                     4 refused          8 rolled back
  1 failed, nothing changed  5 damaged bundle   9 hold: the operator must act
  2 usage                    6 download failed 10 switched, maybe not durable
  3 busy                     7 no space
`

// Version is that of the programs, which is that of their package. `make build`
// sets it (go build -ldflags -X).
var Version = "unknown"

// Plural is "1 file", "2 files".
func Plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Usagef is an error of the command line. Its hint names the help of command,
// "ota-apply install".
func Usagef(command, format string, args ...any) error {
	advice := "`" + command + " --help` lists the commands and flags"
	if prog, verb, ok := strings.Cut(command, " "); ok {
		advice = "`" + prog + " help " + verb + "` shows its flags"
	}
	return bootcheck.Errorf(bootcheck.ExitUsage, "", format, args...).WithAdvice("%s", advice)
}

// An Answer is what a command that acts says with --json: one object, also when it fails.
// A nil one is of a command without --json.
type Answer struct {
	Text bytes.Buffer   // what an operator would be told on stdout
	keys map[string]any // of the command, see Set
}

// Set puts a key of the command's own into the object.
func (a *Answer) Set(key string, value any) {
	if a == nil {
		return
	}
	if a.keys == nil {
		a.keys = make(map[string]any)
	}
	a.keys[key] = value
}

// Give writes the object of a command that ended with err, which it returns, or else the
// error of the write.
func (a *Answer) Give(w io.Writer, err error) error {
	a.Set("schema", bootcheck.OutputSchema)
	a.Set("exit", bootcheck.Exit(err))
	a.Set("message", bootcheck.OneLine(a.Text.String()))
	a.Set("error", nil)
	a.Set("hint", bootcheck.OrNull(bootcheck.OneLine(bootcheck.Advice(err))))
	if err != nil {
		text := bootcheck.Line(err)
		a.Set("message", text)
		a.Set("error", bootcheck.ReportCode(err)+": "+text)
	}
	return cmp.Or(err, bootcheck.WriteJSON(w, a.keys))
}

// GiveLinks is Give with the current, previous and factory version of store; nil: none was
// opened.
func (a *Answer) GiveLinks(w io.Writer, store *bootcheck.Store, err error) error {
	var record *bootcheck.Record
	if store != nil {
		record, _ = store.Record()
	}
	for name, info := range store.LinkInfo(record) {
		a.Set(name, info)
	}
	return a.Give(w, err)
}

// Fail prints err as "prog: what failed, to what: why" and, on a line of its own,
// "hint:" with what the operator does next; it returns the exit code of err. It prints
// nothing for nil.
func Fail(w io.Writer, prog string, err error) bootcheck.ExitCode {
	if err == nil {
		return bootcheck.ExitDone
	}
	if errors.Is(err, errReader) {
		return bootcheck.ExitFailed // as `ota-apply list | head -1`: its reader has enough
	}
	w = Log(w)
	// One line, also if a cause has several.
	fmt.Fprintf(w, "%s: %s\n", prog, bootcheck.Line(err))
	if advice := bootcheck.Advice(err); advice != "" {
		fmt.Fprintf(w, "hint: %s\n", bootcheck.OneLine(advice))
	}
	return bootcheck.Exit(err)
}
