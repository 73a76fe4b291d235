package machine

import (
	"testing"

	"github.com/tope-ota/ota/integration/machine/debian"
)

// EachSuite runs test as a subtest for each suite that this run asks for, see
// debian.Suites. None is left out: a suite that cannot be built fails.
func EachSuite(t *testing.T, test func(t *testing.T, s debian.Suite)) {
	t.Helper()
	all, err := debian.Suites()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.String(), func(t *testing.T) { test(t, s) })
	}
}
