// Package machinetest is what the tests of all machines have in common.
package machinetest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// reserve is kept free before the test binary's deadline for a message that says
// what was waited for: the deadline itself only prints stacks.
const reserve = 15 * time.Second

// Require ends the test when the host lacks something that kind of machine
// needs: skipped with a loud list, or failed where CI=true, since nobody reads a
// skip there.
func Require(t testing.TB, kind string, missing []string) {
	t.Helper()
	if testing.Short() {
		t.Skipf("a %s takes seconds, and packages of the host: not in -short", kind)
	}
	if len(missing) == 0 {
		return
	}
	text := "a " + kind + " cannot be tested here; MISSING: " + strings.Join(missing, "; ") + " (see scripts/packages.sh)"
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
