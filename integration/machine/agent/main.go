package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// PortName is the virtio-serial port that belongs to the agent:
	// -device virtserialport,chardev=…,name=ota.agent
	PortName = "ota.agent"

	// SocketPath is where a container puts the socket that its host listens on.
	SocketPath = "/ota-test-agent/socket"
)

// Main is the guest's program. It returns the exit code when the channel to the
// host breaks; systemd then starts it again.
func Main(ctx context.Context, stderr io.Writer) int {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err == nil {
		go serveBundles(ctx)
		var conn io.ReadWriteCloser
		// Drivers are still being loaded when the agent starts.
		err = Poll(ctx, "the host's line", func(context.Context) (err error) { conn, err = dial(); return err })
		if err == nil {
			err = Serve(ctx, conn, strings.TrimSpace(string(bootID)))
		}
	}
	fmt.Fprintln(stderr, "ota-test-agent:", err)
	return 1
}

// serveBundles serves BundleDir. The loopback interface comes up while the machine starts.
func serveBundles(ctx context.Context) {
	_ = Poll(ctx, "the loopback interface", func(context.Context) error {
		return http.ListenAndServe(strings.TrimPrefix(BundleAt, "http://"), Bundles(BundleDir))
	})
}

// dial opens the guest's end of the channel: the socket at SocketPath, if there is one,
// else the virtio-serial port PortName. Its node is the one devtmpfs made, as no udev
// runs to make /dev/virtio-ports/NAME.
func dial() (io.ReadWriteCloser, error) {
	if _, err := os.Stat(SocketPath); err == nil {
		return net.Dial("unix", SocketPath)
	}
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, name := range names {
		if b, err := os.ReadFile(name); err != nil || strings.TrimSpace(string(b)) != PortName {
			continue
		}
		// Blocking: without a host a blocking write waits for one, and the poller's
		// edges are not needed.
		dev := filepath.Join("/dev", filepath.Base(filepath.Dir(name)))
		fd, err := syscall.Open(dev, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		return port{os.NewFile(uintptr(fd), dev)}, err
	}
	return nil, fmt.Errorf("none of the %d virtio-serial ports is called %q", len(names), PortName)
}

// port is a virtio-serial port. No process at the other end is an end of file to the
// kernel, and passes: a machine restored from a snapshot gets its host later.
type port struct{ *os.File }

func (p port) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
