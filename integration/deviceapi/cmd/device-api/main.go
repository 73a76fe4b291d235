// The program device-api is the application that the test machines update.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tope-ota/ota/integration/deviceapi"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	os.Exit(deviceapi.Main(ctx, os.Stderr))
}
