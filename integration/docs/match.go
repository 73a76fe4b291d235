package docs

import (
	"fmt"
	"regexp"
	"strings"
)

// any stands for anything in a line of expected output, or, alone in a line, for
// any number of lines.
const anything = "…"

// match compares what a command printed with what the document says, and says
// where they part; nil: nowhere.
func match(want, got []string) error {
	if len(want) == 0 && len(got) > 0 {
		return fmt.Errorf("it prints %q, and nothing of that is shown", got[0])
	}
	if at, ok := matchFrom(want, got); !ok {
		switch {
		case at >= len(want):
			return fmt.Errorf("it prints more: %q", got[len(got)-1])
		default:
			return fmt.Errorf("nothing that it prints at this place is %q", want[at])
		}
	}
	return nil
}

// matchFrom reports whether all of got is as want says, and else up to which line
// of want it was.
func matchFrom(want, got []string) (deepest int, ok bool) {
	if len(want) == 0 {
		return 0, len(got) == 0
	}
	if strings.TrimSpace(want[0]) == anything {
		for skip := 0; skip <= len(got); skip++ {
			at, ok := matchFrom(want[1:], got[skip:])
			if ok {
				return 0, true
			}
			deepest = max(deepest, at+1)
		}
		return deepest, false
	}
	if len(got) == 0 || !matchLine(want[0], got[0]) {
		return 0, false
	}
	at, ok := matchFrom(want[1:], got[1:])
	return at + 1, ok
}

func matchLine(want, got string) bool {
	parts := strings.Split(want, anything)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(got)
}

// outputLines are the lines of what a command printed, without spaces at their end.
func outputLines(text string) []string {
	text = strings.ReplaceAll(text, "\r", "")
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimRight(line, " \t\n"))
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}
