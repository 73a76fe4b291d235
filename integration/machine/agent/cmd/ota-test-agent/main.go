// The program ota-test-agent runs in a test machine and does what the test says.
package main

import (
	"context"
	"os"

	"github.com/tope-ota/ota/integration/machine/agent"
)

func main() { os.Exit(agent.Main(context.Background(), os.Stderr)) }
