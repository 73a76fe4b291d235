// Package uplink is a network that can be taken away from a test machine: an
// address that is not the loopback's, and a server there.
package uplink

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/machine/debian"
)

// Address is where the server is: TEST-NET-1 of RFC 5737, which nobody has.
const Address = "192.0.2.1:80"

var address = netip.MustParseAddrPort(Address)

// Service is the unit that is the network: while it runs, Address answers;
// otherwise there is no way to it.
const Service = "uplink.service"

// Overlay adds the network to a machine, down.
func Overlay(ctx context.Context, o debian.Overlay) error {
	program, err := debian.Program(ctx, "github.com/tope-ota/ota/integration/uplink/cmd/ota-test-uplink")
	if err != nil {
		return err
	}
	o["/usr/lib/ota-test/ota-test-uplink"] = debian.File{Mode: 0o755, Data: program}
	o["/etc/systemd/system/"+Service] = debian.Unit("[Service]\nType=exec\nExecStart=/usr/lib/ota-test/ota-test-uplink\n")
	return nil
}

// Run gives this machine the address and serves there until ctx ends.
func Run(ctx context.Context) error {

	if err := set(true); err != nil {
		return fmt.Errorf("cannot bring the network up: %w", err)
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return set(false)
		}
		if err != nil {
			return err
		}
		c.Close()
	}
}

// set adds the address to the loopback interface, as another name of it, or
// removes it. By ioctl, netdevice(7): the machine has no ip(8).
func set(up bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo:1")
	if err != nil {
		return err
	}
	if !up {
		ifr.SetUint16(0) // without IFF_UP: such a name is gone then
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	}
	ip := address.Addr().As4()
	if err := ifr.SetInet4Addr(ip[:]); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr)
}
