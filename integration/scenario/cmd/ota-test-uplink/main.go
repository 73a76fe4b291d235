// Command ota-test-uplink is a network that can be taken away from a test machine: an
// address that is not the loopback's, its argument, and a server there.
package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tope-ota/ota/integration/try"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, netip.MustParseAddrPort(os.Args[1])); err != nil {
		fmt.Fprintln(os.Stderr, "ota-test-uplink:", err)
		os.Exit(1)
	}
}

// serve gives this machine the address and serves there until ctx ends.
func serve(ctx context.Context, address netip.AddrPort) (err error) {
	defer try.End(&err)
	if err := set(address.Addr(), true); err != nil {
		return fmt.Errorf("cannot bring the network up: %w", err)
	}
	l := try.Get(net.ListenTCP("tcp", net.TCPAddrFromAddrPort(address)))
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return set(address.Addr(), false)
		}
		try.Check(err)
		c.Close()
	}
}

// set adds the address to the loopback interface, as another name of it, or
// removes it. By ioctl, netdevice(7): the machine has no ip(8).
func set(address netip.Addr, up bool) (err error) {
	defer try.End(&err)
	fd := try.Get(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0))
	defer unix.Close(fd)
	ifr := try.Get(unix.NewIfreq("lo:1"))
	if !up {
		ifr.SetUint16(0) // without IFF_UP: such a name is gone then
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	}
	ip := address.As4()
	try.Check(ifr.SetInet4Addr(ip[:]))
	return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr)
}
