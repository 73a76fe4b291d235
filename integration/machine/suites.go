package machine

import (
	"testing"

	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// EachSuite runs test as a subtest for each suite that this run asks for, see
// debian.Suites. None is left out: a suite that cannot be built fails.
func EachSuite(t *testing.T, test func(t *testing.T, s debian.Suite)) {
	t.Helper()
	defer try.Fatal(t)
	for _, s := range try.Get(debian.Suites()) {
		t.Run(s.String(), func(t *testing.T) { test(t, s) })
	}
}
