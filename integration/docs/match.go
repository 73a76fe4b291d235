package docs

import (
	"fmt"
	"regexp"
	"strings"
)

// anything stands for anything in a line of expected output, or, alone in a line,
// for any number of lines.
const anything = "…"

// What is another in each run, and in a document an example: the ID of a key, a
// digest, the ID of a boot. What a document shows twice must be the same twice.
var example = regexp.MustCompile(`\b([0-9A-F]{16}|[0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\b`)

// A matcher compares what commands print with what a document says.
type matcher struct {
	is map[string]string // an example of the document, and what it is in this run
}

// match compares the output of one command, and says where they part; nil: nowhere.
func (m *matcher) match(want, got []string) error {
	if len(want) == 0 && len(got) > 0 {
		return fmt.Errorf("it prints %q, and nothing of that is shown", got[0])
	}
	at, ok := m.from(want, got)
	switch {
	case ok:
		return nil
	case at >= len(want):
		return fmt.Errorf("it prints more: %q", got[len(got)-1])
	}
	return fmt.Errorf("nothing that it prints at this place is %q", want[at])
}

// from reports whether all of got is as want says, and else up to which line of
// want it was.
func (m *matcher) from(want, got []string) (deepest int, ok bool) {
	if len(want) == 0 {
		return 0, len(got) == 0
	}
	if strings.TrimSpace(want[0]) == anything {
		for skip := 0; skip <= len(got); skip++ {
			at, ok := m.from(want[1:], got[skip:])
			if ok {
				return 0, true
			}
			deepest = max(deepest, at+1)
		}
		return deepest, false
	}
	if len(got) == 0 || !m.line(want[0], got[0]) {
		return 0, false
	}
	at, ok := m.from(want[1:], got[1:])
	return at + 1, ok
}

func (m *matcher) line(want, got string) bool {
	var pattern strings.Builder
	examples := example.FindAllString(want, -1)
	rest := want
	literal := func(text string) {
		for i, part := range strings.Split(text, anything) {
			if i > 0 {
				pattern.WriteString(".*")
			}
			pattern.WriteString(regexp.QuoteMeta(part))
		}
	}
	for _, e := range examples {
		before, after, _ := strings.Cut(rest, e)
		literal(before)
		pattern.WriteString(`([-0-9A-Fa-f]+)`)
		rest = after
	}
	literal(rest)
	found := regexp.MustCompile("^" + pattern.String() + "$").FindStringSubmatch(got)
	if found == nil {
		return false
	}
	for i, e := range examples {
		now := found[i+1]
		was, ok := m.is[e]
		if len(now) != len(e) || ok && was != now {
			return false
		}
		for other, is := range m.is {
			if is == now && other != e {
				return false // the document shows two where there is one
			}
		}
	}
	for i, e := range examples {
		m.is[e] = found[i+1]
	}
	return true
}

// outputLines are the lines of what a command printed, without spaces at their end, and
// without what go fetches on a machine that has not built this before.
func outputLines(text string) []string {
	text = strings.ReplaceAll(text, "\r", "")
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "go: downloading ") {
			continue
		}
		lines = append(lines, strings.TrimRight(line, " \t\n"))
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// rewrite is what the document must say instead of want: lines that are right
// stay as they are, with what they leave open.
func (m *matcher) rewrite(want, got []string) []string {
	text := make([]string, len(got))
	copy(text, got)
	if len(want) == len(got) {
		for i := range want {
			if m.line(want[i], got[i]) {
				text[i] = want[i]
			}
		}
	}
	return text
}
