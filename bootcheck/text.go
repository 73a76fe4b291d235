package bootcheck

import (
	"strings"
	"unicode"
)

// Printable returns text as a terminal, a journal and a screen may get it: valid
// UTF-8 in which every character that is not printable is a space, but for tabs and
// ends of lines. Text from outside (a health check, a server, a bundle, a file that
// another program wrote) can hold escape sequences, which a terminal obeys.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "\uFFFD"))
}

// OneLine is Printable in one line, each run of white space as one space.
func OneLine(text string) string { return strings.Join(strings.Fields(Printable(text)), " ") }

// Clip shortens text to at most limit bytes, between two characters.
func Clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-len("…")], "") + "…"
}
