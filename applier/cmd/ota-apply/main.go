// Command ota-apply installs a version and makes it run: see package applier.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tope-ota/ota/applier"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(int(applier.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
}
