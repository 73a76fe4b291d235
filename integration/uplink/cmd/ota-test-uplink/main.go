// Command ota-test-uplink is the network of a test machine; see package uplink.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tope-ota/ota/integration/uplink"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := uplink.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ota-test-uplink:", err)
		os.Exit(1)
	}
}
