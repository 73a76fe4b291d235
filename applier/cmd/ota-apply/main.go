// Command ota-apply installs a version and makes it run: see package applier.
package main

import (
	"os"

	"github.com/tope-ota/ota/applier"
	"github.com/tope-ota/ota/bootcheck/cli"
)

func main() {
	ctx, stop := cli.Context()
	defer stop()
	os.Exit(int(applier.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
}
