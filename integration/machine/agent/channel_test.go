package agent

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFindPort(t *testing.T) {
	dir := t.TempDir()
	if _, err := findPort(filepath.Join(dir, "none"), PortName); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("findPort without virtio-serial = %v, want fs.ErrNotExist", err)
	}
	for dev, name := range map[string]string{"vport1p1": "com.redhat.spice.0\n", "vport1p2": PortName + "\n"} {
		if err := os.MkdirAll(filepath.Join(dir, dev), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, dev, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "vport1p0"), 0o755); err != nil { // the console port has no name
		t.Fatal(err)
	}
	if dev, err := findPort(dir, PortName); dev != "/dev/vport1p2" || err != nil {
		t.Errorf("findPort = %q, %v, want /dev/vport1p2", dev, err)
	}
	if dev, err := findPort(dir, "ota"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("findPort of a name that none has = %q, %v", dev, err)
	}
}

// The agent starts before its channel is there.
func TestDialWaits(t *testing.T) {
	ctx := testContext(t)
	path := filepath.Join(t.TempDir(), "socket")
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(short, path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Dial of a socket that never comes = %v, want fs.ErrNotExist", err)
	}
	dialed := make(chan error, 1)
	go func() {
		conn, err := Dial(ctx, path)
		if err == nil {
			conn.Close()
		}
		dialed <- err
	}()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-dialed; err != nil {
		t.Error(err)
	}
}

// A port whose host went away reads as ended and comes back.
func TestPortWaitsForItsHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	if err := os.WriteFile(path, nil, 0o600); err != nil { // a file at its end reads like a port without a host
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	p, err := openPort(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	got := make(chan string, 1)
	read := func() {
		b := make([]byte, 16)
		n, err := p.Read(b)
		if err != nil {
			got <- err.Error()
			return
		}
		got <- string(b[:n])
	}
	go read()
	if err := os.WriteFile(path, []byte("back"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s != "back" {
		t.Errorf("read %q, want %q", s, "back")
	}
	go read()
	cancel()
	if s := <-got; s != context.Canceled.Error() {
		t.Errorf("read %q, want %q", s, context.Canceled)
	}
}
