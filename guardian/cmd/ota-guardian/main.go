// Command ota-guardian decides which version a device runs: see package guardian.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tope-ota/ota/guardian"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(int(guardian.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)))
}
