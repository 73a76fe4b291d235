package guardian

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/tope-ota/ota/bootcheck"
)

// TestWhyIsOneScreen holds that the end of a long journal is shown, and how much is not.
func TestWhyIsOneScreen(t *testing.T) {
	for _, n := range []int{shownLines, shownLines + 3} {
		var journal []string
		for i := range n {
			journal = append(journal, fmt.Sprintf("[%d.0] app[1]: line %d", i, i))
		}
		var b bytes.Buffer
		printJournal(func(name, text string) { fmt.Fprintf(&b, "%-9s %s\n", name, text) }, &bootcheck.Rollback{Journal: journal})
		got := b.String()
		if !strings.Contains(got, fmt.Sprintf("line %d\n", n-1)) || strings.Contains(got, "line 0\n") != (n == shownLines) ||
			strings.Contains(got, "has 3 more") != (n > shownLines) || strings.Count(got, "\n") > shownLines+1 {
			t.Errorf("%d lines:\n%s", n, got)
		}
	}
}
