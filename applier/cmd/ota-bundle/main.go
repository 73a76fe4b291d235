// Command ota-bundle makes keys and bundles, and looks into bundles: see package
// bundlecmd, and package bundle for the format.
package main

import (
	"os"

	"github.com/tope-ota/ota/applier/bundlecmd"
	"github.com/tope-ota/ota/bootcheck/cli"
)

func main() {
	ctx, stop := cli.Context()
	defer stop()
	os.Exit(int(bundlecmd.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}
