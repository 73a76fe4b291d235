package fetch

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
	"github.com/tope-ota/ota/bootcheck/config"
)

// A route is how servers are reached, the same for all tries of a download.
type route struct {
	*Options
	proxy func(*http.Request) (*url.URL, error) // nil address: none
	roots *x509.CertPool                        // nil: the system's
	dates *calendar.Calendar
}

// newRoute makes the route that opt asks for, but for the authorities and the dates.
func newRoute(opt *Options) (r *route, err error) {
	r = &route{Options: opt, dates: opt.Calendar}
	r.proxy, err = proxyFunc(opt.Proxy)
	return r, err
}

// Client is a client for small requests, which reaches servers as a download with opt does:
// through the same proxy, with the same trust. opt.Calendar must be set. The files of opt.CA and
// opt.ClientCertificate are read while it asks, and one that cannot be used is an
// *bootcheck.Error of that request: a follower that begins while one is replaced continues.
func (opt Options) Client() (*http.Client, error) {
	r, err := newRoute(&opt)
	if err != nil {
		return nil, err
	}
	h := new(hops)
	c := r.client(h, &current{route: r, hops: h})
	c.Timeout = usual.window
	return c, nil
}

// A current is a transport that trusts the authorities which the files hold at each request. Its
// requests are one after the other.
type current struct {
	route *route // its roots are those of over
	hops  *hops
	over  *http.Transport // nil: nothing was sent yet
}

// RoundTrip sends req by the transport of before, as long as the files hold the same.
func (c *current) RoundTrip(req *http.Request) (*http.Response, error) {
	roots, err := LoadCA(c.route.CA)
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	if c.over == nil || !roots.Equal(c.route.roots) {
		if c.over != nil {
			c.over.CloseIdleConnections()
		}
		c.route.roots = roots
		c.over = c.route.transport(c.hops)
	}
	return c.over.RoundTrip(req)
}

// proxyFunc finds the proxy for a request. One that is named is for all
// servers but those on the device itself, and the environment then says
// nothing.
func proxyFunc(named string) (func(*http.Request) (*url.URL, error), error) {
	switch named {
	case "":
		return http.ProxyFromEnvironment, nil
	case config.NoProxy:
		return func(*http.Request) (*url.URL, error) { return nil, nil }, nil
	}
	u, err := url.Parse(named)
	if err != nil || config.CheckProxy(named) != nil {
		// Not shown: it may hold a password.
		return nil, bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed, "cannot download: the address of the proxy is malformed").
			WithAdvice("correct `proxy` in the configuration: \"http://host:port\", or \"none\"")
	}
	return func(req *http.Request) (*url.URL, error) {
		host := req.URL.Hostname()
		if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
			return nil, nil // as with a proxy from the environment
		}
		return u, nil
	}, nil
}

// newClient makes the HTTP client for one try. Nothing is shared with the try
// before: a connection that died silently would be used again.
func (r *route) newClient(h *hops) *http.Client { return r.client(h, r.transport(h)) }

// client sends by over.
func (r *route) client(h *hops, over http.RoundTripper) *http.Client {
	if r.Transport != nil {
		over = r.Transport(over)
	}
	return &http.Client{CheckRedirect: h.check, Transport: over}
}

// transport makes connections, with the authorities that r has now.
func (r *route) transport(h *hops) *http.Transport {
	dialer := net.Dialer{
		Timeout:   15 * time.Second, // a host with a dead IPv6 route has 300 ms, then IPv4 is tried beside it
		KeepAlive: 15 * time.Second,
		Control:   h.control,
	}
	return &http.Transport{ // HTTP/1.1: the program has no other
		Proxy: func(req *http.Request) (*url.URL, error) {
			u, err := r.proxy(req)
			h.through(u != nil)
			return u, err
		},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err == nil {
				h.connected(conn.RemoteAddr())
			}
			return conn, err
		},
		OnProxyConnectResponse: checkProxy,
		TLSClientConfig:        r.tlsConfig(),
		TLSHandshakeTimeout:    15 * time.Second,
		DisableCompression:     true, // lengths and ranges are those of the file
		MaxResponseHeaderBytes: 64 << 10,
		ReadBufferSize:         64 << 10,
	}
}

// checkProxy checks what a proxy answers when it is asked for a way to a
// server.
func checkProxy(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	code := resp.StatusCode
	if code == http.StatusOK {
		return nil
	}
	f := faultf(transient, "the proxy answered %s", statusOf(resp))
	if code >= 400 && code < 500 && code != 408 && code != 429 {
		f.kind, f.advice = final, proxyAdvice
	}
	return f
}

const proxyAdvice = "check the proxy (`proxy` in the configuration, else http_proxy and https_proxy in the environment), and its user and password"
