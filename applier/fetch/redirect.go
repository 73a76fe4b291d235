package fetch

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
)

// maxRedirects is how many a download may take; RFC 9110 suggests 5, and
// presigned addresses behind a CDN need 2.
const maxRedirects = 5

// A hops watches where the redirects of one client lead. Its requests are one after the
// other, but what dials may be left over from the one before.
type hops struct {
	mu       sync.Mutex
	first    zone // of the host that the address names
	redirect bool // a redirect was followed: what is dialled now was not named by the caller
	proxied  bool // what is dialled now is a proxy, which the device's owner named
}

// check decides about a redirect before it is followed.
func (h *hops) check(req *http.Request, via []*http.Request) error {
	h.mu.Lock()
	h.redirect = true
	h.mu.Unlock()
	from, to := via[len(via)-1].URL, req.URL
	switch {
	case len(via) > maxRedirects:
		return faultf(final, "more than %d redirects", maxRedirects).advising("give the address that the file really has")
	case to.Scheme != "http" && to.Scheme != "https":
		return faultf(final, "redirect to %q, which is neither http nor https", Redact(to.String()))
	case from.Scheme == "https" && to.Scheme == "http":
		return faultf(final, "redirect from https to %q, which an attacker on the network can change", Redact(to.String())).
			advising("give the address that begins with https:// and leads to the file, or correct the server")
	case to.Hostname() == "":
		return faultf(final, "redirect to %q, which names no host", Redact(to.String()))
	}
	// net/http keeps an Authorization for subdomains of the first host, and
	// passes the whole address on as Referer, query included. It does not
	// carry on credentials that the address of a redirect holds, nor do we.
	req.URL.User = nil
	req.Header.Del("Referer")
	if start := via[0].URL; to.Scheme != start.Scheme || to.Host != start.Host {
		req.Header.Del("Authorization")
	}
	return nil
}

// through notes that the next request goes through a proxy, or does not.
func (h *hops) through(proxy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.proxied = proxy
	if proxy && !h.redirect && h.first == zoneUnknown {
		// Where the proxy finds the server is not known. What a redirect then makes us
		// dial ourselves must not be what only the device can reach.
		h.first = zonePublic
	}
}

// control runs for each address that is dialled, after its name was resolved: a redirect
// must not reach what only the device itself, or its own network, is meant to reach,
// unless the first host is there, too.
func (h *hops) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("cannot dial %q: %v", address, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if z := zoneOf(ap.Addr()); h.redirect && !h.proxied && z < h.first {
		return faultf(final, "redirect from %v into %v (%v)", h.first, z, ap.Addr())
	}
	return nil
}

// connected notes where the first host is: where it answered, not where its name
// says that it is, too.
func (h *hops) connected(addr net.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a, ok := addr.(*net.TCPAddr); ok && h.first == zoneUnknown && !h.proxied {
		h.first = zoneOf(a.AddrPort().Addr())
	}
}

// A zone tells which hosts can reach an address: the smaller, the fewer.
type zone int

const (
	zoneUnknown zone = iota
	zoneDevice       // this machine and its link: services that trust every caller
	zoneNetwork      // the private network that the device is in
	zonePublic
)

func (z zone) String() string {
	return [...]string{"", "the device itself", "the local network", "the internet"}[z]
}

// zoneOf is a variable so that tests can have a public host without a network.
var zoneOf = func(a netip.Addr) zone {
	a = a.Unmap()
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.IsLinkLocalUnicast(), a.IsMulticast():
		return zoneDevice
	case a.IsPrivate():
		return zoneNetwork
	}
	return zonePublic
}
