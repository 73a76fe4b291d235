// Package vmtest starts virtual machines for tests.
package vmtest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/vm"
)

// reserve is kept free before the test binary's deadline for a message that says
// what was waited for: the deadline itself only prints stacks.
const reserve = 15 * time.Second

// Require ends the test when the host lacks something that machines need: skipped
// with a loud list, or failed where CI=true, since nobody reads a skip there.
func Require(t testing.TB) {
	t.Helper()
	missing := vm.Missing()
	if testing.Short() {
		t.Skip("virtual machines take seconds to start: not in -short")
	}
	if len(missing) == 0 {
		return
	}
	text := "virtual machines cannot be tested here; MISSING: apt-get install " + strings.Join(missing, " ")
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// Context is t's, and ends a little before the deadline of the test binary.
func Context(t testing.TB) context.Context {
	ctx := t.Context()
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := d.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, deadline.Add(-reserve))
			t.Cleanup(cancel)
		}
	}
	return ctx
}

// Start starts a machine that is stopped at the end of the test, and prints its
// log when the test has failed. How long the start took is in the test's log.
func Start(t testing.TB, o vm.Options) *vm.VM {
	t.Helper()
	Require(t)
	start := time.Now()
	m, err := vm.Start(Context(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the machine's log:\n%s", m.Log())
		}
		m.Stop()
	})
	kind := "warm"
	if o.Cold {
		kind = "cold"
	}
	t.Logf("%s start in %s", kind, time.Since(start).Round(time.Millisecond))
	return m
}
