package main

import (
	"testing"

	"github.com/tope-ota/ota/integration/cmdtest"
)

// The scripts install versions before they try them, so the test (and only
// the test) runs the applier's programs too.
func TestMain(m *testing.M) {
	cmdtest.Main(m, map[string]func(){"ota-guardian": main})
}

func TestScripts(t *testing.T) { cmdtest.Run(t, "testdata/script") }
