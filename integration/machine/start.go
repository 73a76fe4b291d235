package machine

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/machine/vm"
	"github.com/tope-ota/ota/integration/try"
)

// reserve is kept free before the test binary's deadline for a message that says
// what was waited for: the deadline itself only prints stacks.
const reserve = 15 * time.Second

// Require ends the test when the host lacks something that kind of machine
// needs: skipped with a loud list, or failed where CI=true, since a log hides a
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

// RequireContainer ends the test when the host lacks something that a container needs.
func RequireContainer(t testing.TB) {
	t.Helper()
	Require(t, "container", container.Missing())
}

// RequireVM ends the test when the host lacks something that a virtual machine of
// that processor needs.
func RequireVM(t testing.TB, a debian.Arch) {
	t.Helper()
	Require(t, "virtual machine of "+a.String(), vm.Missing(a))
}

// StartContainer starts a machine that is stopped at the end of the test, and prints
// its log when the test has failed. A machine that leaves something on the host
// fails the test.
func StartContainer(t testing.TB, o container.Options) *container.Container {
	t.Helper()
	RequireContainer(t)
	defer try.Fatal(t)
	c := try.Get(container.Start(Context(t), o))
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

// StartVM starts a machine that is stopped at the end of the test, and prints its
// log when the test has failed. How long the start took is in the test's log.
func StartVM(t testing.TB, o vm.Options) *vm.VM {
	t.Helper()
	RequireVM(t, o.Variant.Arch)
	defer try.Fatal(t)
	start := time.Now()
	m := try.Get(vm.Start(Context(t), o))
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
