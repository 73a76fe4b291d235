// Package cli is what the three programs' command lines have in common: flags
// before, between or after the other arguments, those of every command also before
// the command, one clear line for an error,
// and the exit codes.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
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

// ErrHelp says that help was asked for and printed: exit 0.
var ErrHelp = flag.ErrHelp

// ErrVersion says that the program's version was asked for: exit 0.
var ErrVersion = errors.New("version requested")

// Version is that of the programs, which is that of their package. `make build`
// sets it (go build -ldflags -X).
var Version = "unknown"

// Answer prints what err says that was asked for: the usage text or the version.
func Answer(w io.Writer, prog, usage string, err error) {
	switch {
	case errors.Is(err, ErrHelp):
		fmt.Fprint(w, usage)
	case errors.Is(err, ErrVersion):
		fmt.Fprintf(w, "%s %s\n", prog, Version)
	}
}

// Asked is ErrHelp or ErrVersion if word, which stands in the place of the
// command, asks for one of them, else nil.
func Asked(word string) error {
	switch word {
	case "help", "-h", "-help", "--help":
		return ErrHelp
	case "version", "-version", "--version":
		return ErrVersion
	}
	return nil
}

// Flags makes a flag set for a command, "ota-apply install", that reports errors
// to its caller instead of printing them.
func Flags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// Command is the command that args ask for, and its flags and arguments; name is
// empty if there is none. The flags of every command, each of which takes a value,
// may stand before it, too; they are moved behind it.
func Command(args []string, everywhere ...string) (name string, rest []string) {
	n := 0
	for n < len(args) && strings.HasPrefix(args[n], "-") {
		flag, _, whole := strings.Cut(strings.TrimPrefix(args[n][1:], "-"), "=")
		if !slices.Contains(everywhere, flag) {
			break
		}
		if n++; !whole {
			n++
		}
	}
	if n >= len(args) {
		return "", nil
	}
	return args[n], slices.Concat(args[:n], args[n+1:])
}

// Parse reads flags wherever they stand and returns the other arguments. After
// "--" everything is an argument. At least min and at most max arguments are
// taken; max < 0 means any number. None may be empty: that is a shell's variable
// that was never set, and to act as if nothing stood there may switch versions. The error is ErrHelp for -h and --help, else
// an *Error with ExitUsage that names what is wrong.
func Parse(fs *flag.FlagSet, args []string, min, max int) ([]string, error) {
	var rest []string
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, ErrHelp
			}
			return nil, Usagef(fs.Name(), "%v", err)
		}
		dashes := len(args) > fs.NArg() && args[len(args)-fs.NArg()-1] == "--"
		args = fs.Args()
		if dashes {
			rest = append(rest, args...)
			break
		}
		if len(args) > 0 {
			rest = append(rest, args[0])
			args = args[1:]
		}
	}
	switch {
	case len(rest) < min:
		return nil, Usagef(fs.Name(), "%s: something is missing: it takes %s, got %d", fs.Name(), arguments(min, max), len(rest))
	case max >= 0 && len(rest) > max:
		return nil, Usagef(fs.Name(), "%s: unexpected argument %q", fs.Name(), rest[max])
	}
	if i := slices.Index(rest, ""); i >= 0 {
		return nil, Usagef(fs.Name(), "%s: argument %d is empty", fs.Name(), i+1)
	}
	return rest, nil
}

func arguments(min, max int) string {
	switch {
	case min == max && min == 1:
		return "one argument"
	case min == max:
		return fmt.Sprintf("%d arguments", min)
	case max < 0:
		return fmt.Sprintf("at least %d arguments", min)
	}
	return fmt.Sprintf("%d to %d arguments", min, max)
}

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
	prog, _, _ := strings.Cut(command, " ")
	return bootcheck.Errorf(bootcheck.ExitUsage, "", format, args...).
		WithAdvice("`%s --help` lists the commands and flags", prog)
}

// Fail prints err for a person, "prog: what went wrong" and on a line of its own
// what to do, and returns the exit code of err. It prints nothing for nil and
// for what Answer answers.
func Fail(w io.Writer, prog string, err error) bootcheck.ExitCode {
	if err == nil || errors.Is(err, ErrHelp) || errors.Is(err, ErrVersion) {
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
