package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
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

// portsDir lists the virtio-serial ports that the kernel found.
const portsDir = "/sys/class/virtio-ports"

// Dial opens the guest's end of the channel to the host: the unix socket at
// socket, or if that is empty the one at SocketPath if there is one, or else the
// virtio-serial port PortName. It waits for the channel to appear until ctx
// ends: drivers are still being loaded when the agent starts.
func Dial(ctx context.Context, socket string) (io.ReadWriteCloser, error) {
	for {
		conn, err := dial(ctx, socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func dial(ctx context.Context, socket string) (io.ReadWriteCloser, error) {
	if socket == "" {
		if _, err := os.Stat(SocketPath); err == nil {
			socket = SocketPath
		}
	}
	if socket != "" {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	dev, err := findPort(portsDir, PortName)
	if err != nil {
		return nil, err
	}
	return openPort(ctx, dev)
}

// findPort returns the device of the virtio-serial port called name. The node
// is the one devtmpfs made, as no udev runs to make /dev/virtio-ports/NAME.
func findPort(dir, name string) (string, error) {
	ports, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("no virtio-serial ports: %w", err)
	}
	for _, p := range ports {
		b, err := os.ReadFile(filepath.Join(dir, p.Name(), "name"))
		if err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Join("/dev", p.Name()), nil
		}
	}
	return "", fmt.Errorf("none of the %d virtio-serial ports is called %q: %w", len(ports), name, fs.ErrNotExist)
}

// port is a virtio-serial port. Nobody at the other end is an end of file to the
// kernel, and passes: a machine restored from a snapshot gets its host later.
type port struct {
	ctx context.Context
	f   *os.File
}

func openPort(ctx context.Context, dev string) (*port, error) {
	// Blocking: without a host a blocking write waits for one, and the poller's
	// edges are not needed.
	fd, err := syscall.Open(dev, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dev, Err: err}
	}
	return &port{ctx, os.NewFile(uintptr(fd), dev)}, nil
}

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.f.Read(b)
		if n > 0 || !errors.Is(err, io.EOF) {
			return n, err
		}
		select {
		case <-p.ctx.Done():
			return 0, p.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *port) Write(b []byte) (int, error) { return p.f.Write(b) }
func (p *port) Close() error                { return p.f.Close() }
