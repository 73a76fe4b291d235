package bundlecmd

import (
	"bytes"
	"strings"
	"testing"
)

// TestExamples: the example of a command that does nothing without a key has one.
func TestExamples(t *testing.T) {
	for _, v := range Program().Verbs {
		var help bytes.Buffer
		if err := Program().Run(t.Context(), append(strings.Fields(v.Name), "--help"), &help, &help); err != nil {
			t.Fatal(err)
		}
		flags, example, _ := strings.Cut(help.String(), "\nExample: ")
		example, _, _ = strings.Cut(example, "\n")
		if strings.Contains(flags, "  --key ") && !strings.Contains(example, "--key ") && !strings.Contains(example, "--with ") {
			t.Errorf("ota-bundle %s: the example %q names no key", v.Name, example)
		}
	}
}
