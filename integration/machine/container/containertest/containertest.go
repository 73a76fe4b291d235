// Package containertest starts containers for tests.
package containertest

import (
	"os"
	"testing"

	"github.com/tope-ota/ota/integration/machine/container"
	"github.com/tope-ota/ota/integration/machine/machinetest"
)

// Require ends the test when the host lacks something that a container needs.
func Require(t testing.TB) {
	t.Helper()
	machinetest.Require(t, "container", container.Missing())
}

// Start starts a machine that is stopped at the end of the test, and prints its
// log when the test has failed. A machine that leaves something on the host
// fails the test.
func Start(t testing.TB, o container.Options) *container.Container {
	t.Helper()
	Require(t)
	c, err := container.Start(machinetest.Context(t), o)
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
