// Command ota-bundle makes keys and bundles, and looks into bundles: see package
// bundlecmd, and package bundle for the format.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tope-ota/ota/applier/bundlecmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(int(bundlecmd.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)))
}
