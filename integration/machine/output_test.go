package machine

import (
	"strings"
	"testing"
)

// TestCheckOutput: what a program of the product prints with --json is checked, and
// nothing else is.
func TestCheckOutput(t *testing.T) {
	const changed = `{"schema":1,"versions":[],"changed":1}`
	for _, row := range []struct {
		command, output string
		code            int
		wrong           bool
	}{
		{"ota-apply list --json", `{"schema":1,"versions":[]}`, 0, false},
		{"ota-apply list --json", changed, 0, true},
		{"ota-apply list --json", changed, 1, true},
		{"/usr/bin/ota list --json", changed, 0, true},
		{"ota-guardian status --json", changed, 0, true},
		{"ota-apply list", changed, 0, false},
		{"ota-apply list --json", changed[:9], 128 + 9, false}, // killed while it wrote
		{"systemctl list --json", changed, 0, false},
	} {
		err := CheckOutput(strings.Fields(row.command), Result{Stdout: row.output, Code: row.code})
		if (err != nil) != row.wrong {
			t.Errorf("%s with %s (%d): CheckOutput = %v", row.command, row.output, row.code, err)
		}
	}
}
