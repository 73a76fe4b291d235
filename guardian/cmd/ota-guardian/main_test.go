package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/integration/cmdtest"
)

// The scripts install versions before they judge them, so the test (and only
// the test) runs the applier's programs too.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ota-guardian": main,
		"ota-apply": func() {
			os.Exit(int(applier.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)))
		},
		"ota-bundle": func() {
			os.Exit(int(bundlecmd.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
		},
	})
}

func TestScripts(t *testing.T) { cmdtest.Run(t, "testdata/script") }
