package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Loopback returns the addresses that the URL of a check or of the reports leads to,
// in the order in which they are tried. Only http:// and the loopback interface are
// used, and no name is resolved: "localhost" is 127.0.0.1 and ::1, not what
// /etc/hosts or a DNS server says.
func Loopback(address string) ([]netip.AddrPort, error) {
	refuse := func(why string) ([]netip.AddrPort, error) {
		return nil, fmt.Errorf("cannot use %q: %s", address, why)
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' }):
		return refuse("it is no URL, in which spaces and what is not ASCII are escaped")
	case u.Scheme != "http" || u.Opaque != "":
		return refuse("it must begin with http://")
	case u.User != nil:
		return refuse("it holds a user name")
	}
	port := uint64(80)
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return refuse("the port must be 1 to 65535")
		}
	}
	hosts := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if !strings.EqualFold(u.Hostname(), "localhost") {
		addr, err := netip.ParseAddr(u.Hostname())
		// An IPv4 address in IPv6 clothes is a way around such checks, never a need.
		if err != nil || !addr.IsLoopback() || addr.Is4In6() || addr.Zone() != "" {
			return refuse("it must name this machine: 127.0.0.1, [::1] or localhost")
		}
		hosts = []netip.Addr{addr}
	}
	var addrs []netip.AddrPort
	for _, h := range hosts {
		addrs = append(addrs, netip.AddrPortFrom(h, uint16(port)))
	}
	return addrs, nil
}
