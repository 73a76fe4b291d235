// Package containertest starts containers for tests.
package containertest

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/container"
)

// reserve is kept free before the test binary's deadline for a message that says
// what was waited for: the deadline itself only prints stacks.
const reserve = 15 * time.Second

// Require ends the test when the host lacks something that containers need:
// skipped with a loud list, or failed where CI=true, since nobody reads a skip
// there.
func Require(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("containers need root and packages: not in -short")
	}
	missing := container.Missing()
	if len(missing) == 0 {
		return
	}
	text := "containers cannot be tested here; MISSING: " + strings.Join(missing, "; ")
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
// log when the test has failed. A machine that leaves something on the host
// fails the test.
func Start(t testing.TB, o container.Options) *container.Container {
	t.Helper()
	Require(t)
	c, err := container.Start(Context(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop()
		if _, err := os.Lstat(c.Dir()); err == nil {
			t.Errorf("the container could not be removed from the host: %s is left", c.Dir())
		}
		if t.Failed() {
			t.Logf("the container's log:\n%s", c.Log())
		}
	})
	return c
}
