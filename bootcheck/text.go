package bootcheck

import (
	"strings"
	"unicode"
	"unicode/utf8"
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

// Wrap is text, which begins in column indent, in lines of at most 80 characters; the
// further ones are indented as far. A word that is longer is not broken, nor is a command
// in backticks, which would paste as several.
func Wrap(indent int, text string) string {
	var b strings.Builder
	column := indent
	words := strings.Fields(text)
	for i := 0; i < len(words); i++ {
		word := words[i]
		for strings.Count(word, "`")%2 == 1 && i+1 < len(words) {
			i++
			word += " " + words[i]
		}
		n := utf8.RuneCountInString(word)
		if column += n + 1; column > 81 && b.Len() > 0 {
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent + n + 1
		} else if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	return b.String()
}

// Clip shortens text to at most limit bytes, between two characters.
func Clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-len("…")], "") + "…"
}

// Nearest is the word of words that is most like typed: one that begins with it, or whose
// part after the last point it is, or one with a letter or two that differ. Empty: none is
// like it.
func Nearest(typed string, words []string) string {
	best, least := "", 3
	for _, w := range words {
		d := distance(typed, w)
		if len(typed) > 1 && (strings.HasPrefix(w, typed) || strings.HasSuffix(w, "."+typed)) {
			d = 0
		}
		if d < least && 2*d <= len(typed) { // "fly" does not mean "why"
			best, least = w, d
		}
	}
	return best
}

// distance is how many letters have to be changed, added or removed (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := min(row[j+1], row[j]) + 1
			if a[i] == b[j] {
				d = min(d, diagonal)
			}
			diagonal, row[j+1] = row[j+1], min(d, diagonal+1)
		}
	}
	return row[len(b)]
}
