// Command ota-guardian decides which version a device runs: see package guardian.
package main

import (
	"os"

	"github.com/tope-ota/ota/bootcheck/cli"
	"github.com/tope-ota/ota/guardian"
)

func main() {
	ctx, stop := cli.Context()
	defer stop()
	os.Exit(int(guardian.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
}
