package invariants

import (
	"slices"
	"strings"
)

// A Said is what a program said about its work before it ended or was killed.
type Said struct {
	Killed bool
	Exit   int // unless Killed
	Stdout string
	Stderr string
	// Stages are the stages that it reported, in their order.
	Stages []string
	// Operation is the stage that the file for screens says; empty: no file.
	Operation string
}

// Success reports whether the caller was told that it is done.
func (s *Said) Success() bool {
	return !s.Killed && s.Exit == 0 || slices.Contains(s.Stages, "success") || s.Operation == "success"
}

// Honest compares what a program said with what is found, after a command that
// leads from before by way of one of the states in between (before among them) to
// after. Success means after, for ever. The exit codes that promise that nothing
// changed mean before, or what was committed on the way and named in between.
func Honest(said *Said, found, before, after State, between []State) []Problem {
	var problems []Problem
	lie := func(format string, args ...any) {
		problems = append(problems, Lie.Of(format, args...))
	}
	if found != after && !slices.Contains(between, found) && found != before {
		lie("found %v, which is no state on the way from %v to %v", found, before, after)
	}
	if said.Success() && found != after {
		lie("success was said (exit %d, killed %v, stages %v, operation %q), and there is %v, want %v", said.Exit, said.Killed, said.Stages, said.Operation, found, after)
	}
	if said.Killed {
		return problems
	}
	switch said.Exit {
	case 1, 2, 3, 4, 5, 6, 7: // failed or refused: nothing changed
		if found == after && after != before && !slices.Contains(between, after) {
			lie("exit %d says that nothing changed, and there is %v", said.Exit, found)
		}
		if found.Phase == Adopting && found != before {
			lie("exit %d says that nothing changed, and a half of it is done: %v", said.Exit, found)
		}
	case 0, 8, 9, 10:
	default:
		lie("exit %d is none of the documented ones: %s", said.Exit, firstLine(said.Stderr))
	}
	if strings.Contains(said.Stderr, "goroutine ") || strings.Contains(said.Stderr, "panic:") {
		lie("it panicked: %s", firstLine(said.Stderr))
	}
	if said.Exit != 0 && strings.TrimSpace(said.Stderr) == "" {
		lie("exit %d without a word", said.Exit)
	}
	return problems
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
