// Package vmtest starts virtual machines for tests.
package vmtest

import (
	"testing"
	"time"

	"github.com/tope-ota/ota/integration/arch"
	"github.com/tope-ota/ota/integration/machine/machinetest"
	"github.com/tope-ota/ota/integration/machine/vm"
)

// Require ends the test when the host lacks something that a virtual machine needs.
func Require(t testing.TB) {
	t.Helper()
	RequireFor(t, arch.AMD64)
}

// RequireFor is Require for a machine of that processor.
func RequireFor(t testing.TB, a arch.Arch) {
	t.Helper()
	machinetest.Require(t, "virtual machine of "+a.String(), vm.MissingFor(a))
}

// Start starts a machine that is stopped at the end of the test, and prints its
// log when the test has failed. How long the start took is in the test's log.
func Start(t testing.TB, o vm.Options) *vm.VM {
	t.Helper()
	RequireFor(t, o.Variant.Arch)
	start := time.Now()
	m, err := vm.Start(machinetest.Context(t), o)
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
