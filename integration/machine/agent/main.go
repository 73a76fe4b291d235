package agent

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// bundlesAddr is what BundleAt names.
var bundlesAddr = strings.TrimPrefix(BundleAt, "http://")

// Main is the guest's program. It returns the exit code when the channel to the
// host breaks; systemd then starts it again.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	fs := flag.NewFlagSet("ota-test-agent", flag.ContinueOnError)
	fs.SetOutput(stderr)
	socket := fs.String("socket", os.Getenv("OTA_AGENT_SOCKET"),
		"unix socket of the host; empty: "+SocketPath+" if it is there, else the virtio-serial port "+PortName)
	bundles := fs.String("bundles", BundleDir, "folder served at "+BundleAt+"; empty: none")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	fail := func(err error) int {
		fmt.Fprintln(stderr, "ota-test-agent:", err)
		return 1
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fail(err)
	}
	if *bundles != "" {
		go func() {
			if err := serveBundles(ctx, *bundles); err != nil {
				fmt.Fprintln(stderr, "ota-test-agent: no bundles are served:", err)
			}
		}()
	}
	conn, err := Dial(ctx, *socket)
	if err != nil {
		return fail(err)
	}
	return fail(Serve(ctx, conn, strings.TrimSpace(string(bootID))))
}

// serveBundles serves dir until ctx ends. The address is tried for as long: the
// loopback interface comes up while the machine starts.
func serveBundles(ctx context.Context, dir string) error {
	for {
		l, err := net.Listen("tcp", bundlesAddr)
		if err == nil {
			return http.Serve(l, Bundles(dir))
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}
