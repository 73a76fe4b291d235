package health

import (
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// oneLine makes text from outside fit for a journal entry and a table: one line of
// at most 300 bytes.
func oneLine(s string) string {
	s = bootcheck.OneLine(s)
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-3], "") + "…"
	}
	return s
}
