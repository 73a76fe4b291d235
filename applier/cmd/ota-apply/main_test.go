package main

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/guardian"
	"github.com/tope-ota/ota/integration/cmdtest"
)

// The scripts let the guardian judge what they installed, so the test (and only
// the test) runs it too.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"ota-apply": main,
		"ota-guardian": func() {
			os.Exit(int(guardian.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)))
		},
		"ota-bundle": func() {
			os.Exit(int(bundlecmd.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
		},
	})
}

func TestScripts(t *testing.T) { cmdtest.Run(t, "testdata/script") }
