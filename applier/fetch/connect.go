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

// newRoute makes the route that opt asks for, but for the dates.
func newRoute(opt *Options) (*route, error) {
	r := &route{Options: opt, dates: opt.Calendar}
	var err error
	if r.roots, err = loadCA(opt.CA); err != nil {
		return nil, err
	}
	if r.proxy, err = proxyFunc(opt.Proxy); err != nil {
		return nil, err
	}
	return r, nil
}

// Client is a client for small requests, which reaches servers as a download with opt does:
// through the same proxy, with the same trust. opt.Calendar must be set. Errors are as those
// of Start, but a client certificate that cannot be used is one of each request: a follower
// that begins while the file is replaced continues.
func (opt Options) Client() (*http.Client, error) {
	r, err := newRoute(&opt)
	if err != nil {
		return nil, err
	}
	c := r.newClient(&hops{})
	c.Timeout = usual.window
	return c, nil
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
func (r *route) newClient(h *hops) *http.Client {
	dialer := net.Dialer{
		Timeout:   15 * time.Second, // a host with a dead IPv6 route has 300 ms, then IPv4 is tried beside it
		KeepAlive: 15 * time.Second,
		Control:   h.control,
	}
	t := &http.Transport{ // HTTP/1.1: the program has no other
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
	c := &http.Client{CheckRedirect: h.check, Transport: t}
	if r.Transport != nil {
		c.Transport = r.Transport(t)
	}
	return c
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
