// Package loopback speaks just enough HTTP to ask a service on this machine how
// it is and to tell it something. It is written by hand because net/http adds
// 2.7 MB to a program that is read from slow flash in every boot.
//
// It trusts nobody: the other side may be the broken version that is on trial.
// Only the loopback interface is spoken to, and no name is ever resolved. No
// redirect is followed. The head of an answer is at most 16 KiB, a body at most
// 64 KiB, and everything ends with the context.
//
// It asks in HTTP/1.0 with "Connection: close", so that the end of the connection
// ends the answer and nothing is kept alive.
package loopback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// MaxBody is the longest body that is read, in bytes. A health answer is a
	// few hundred bytes; a version that sends a gigabyte is broken.
	MaxBody = 64 << 10

	maxHead = 16 << 10 // status line and headers together, in bytes

	// longest bounds a request whose context has no deadline.
	longest = time.Minute
)

// ErrTooLarge says that the body is longer than MaxBody. The status and the
// first MaxBody bytes are returned with it.
var ErrTooLarge = errors.New("the body is larger than 64 KiB")

// Get asks for url. An answer of any status is no error: err means that there
// was no complete answer. status is 0 until a status line was understood; after
// that it and the body so far are returned even with an error.
func Get(ctx context.Context, url string) (status int, body []byte, err error) {
	return do(ctx, "GET", url, "", nil)
}

// Post sends body to url; else it is like Get.
func Post(ctx context.Context, url, contentType string, body []byte) (status int, answer []byte, err error) {
	return do(ctx, "POST", url, contentType, body)
}

// Check says why url cannot be asked; nil if it can. It touches nothing.
func Check(url string) error {
	_, err := parse(url)
	return err
}

func do(ctx context.Context, method, rawURL, contentType string, body []byte) (int, []byte, error) {
	t, err := parse(rawURL)
	if err != nil {
		return 0, nil, err
	}
	req, err := request(method, t, contentType, body)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()

	status, answer, err := exchange(ctx, t, req)
	if err == nil {
		return status, answer, nil
	}
	// What ctx cut short shows up as whatever call was in progress.
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return status, answer, fmt.Errorf("%s %s: %w", method, rawURL, err)
}

func exchange(ctx context.Context, t target, req []byte) (int, []byte, error) {
	conn, err := dial(ctx, t)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	// A deadline in the past ends every call in progress. It is set only when
	// ctx has ended, so that ctx.Err is never nil after a time-out.
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()

	// A server may answer before it has read everything and close; its answer
	// tells more than the failed write.
	_, sendErr := conn.Write(req)
	status, body, err := readResponse(conn)
	if err != nil && status == 0 && sendErr != nil {
		err = sendErr
	}
	return status, body, err
}

func request(method string, t target, contentType string, body []byte) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: ota\r\nAccept: */*\r\nConnection: close\r\n", method, t.path, t.host)
	if method == "POST" {
		if strings.ContainsFunc(contentType, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("cannot send content type %q", contentType)
		}
		fmt.Fprintf(&b, "Content-Type: %s\r\nContent-Length: %d\r\n", contentType, len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes(), nil
}

// A target is where a request goes.
type target struct {
	addrs []netip.AddrPort // tried in order
	host  string           // for the Host header
	path  string           // path and query, escaped
}

func parse(rawURL string) (target, error) {
	refuse := func(why string) (target, error) {
		return target{}, fmt.Errorf("cannot use %q: %s", rawURL, why)
	}
	// Not net/url: nothing else of the guardian needs it, and it would be 16 KB of it.
	const scheme = "http://"
	if len(rawURL) < len(scheme) || !strings.EqualFold(rawURL[:len(scheme)], scheme) {
		return refuse("only http:// is spoken")
	}
	host, path := rawURL[len(scheme):], "/"
	if i := strings.IndexAny(host, "/?#"); i >= 0 {
		path, _, _ = strings.Cut(host[i:], "#")
		if host = host[:i]; !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
	}
	name, port := host, uint64(80)
	if h, p, err := net.SplitHostPort(host); err == nil {
		name = h
		if p != "" {
			port, err = strconv.ParseUint(p, 10, 16)
		}
		if err != nil || port == 0 {
			return refuse("the port must be 1 to 65535")
		}
	} else if strings.HasPrefix(host, "[") {
		name = strings.Trim(host, "[]")
	} else if strings.Contains(host, ":") {
		return refuse("an IPv6 address stands in brackets: [::1]")
	}
	switch {
	case strings.Contains(host, "@"):
		return refuse("it holds a user name")
	case name == "":
		return refuse("it names no host")
	}
	// "localhost" without a resolver: what /etc/hosts or a DNS server says about
	// it is nobody's business here.
	hosts := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if !strings.EqualFold(name, "localhost") {
		addr, err := netip.ParseAddr(name)
		// An IPv4 address in IPv6 clothes is a way around such checks, never a need.
		if err != nil || !addr.IsLoopback() || addr.Is4In6() || addr.Zone() != "" {
			return refuse("only the loopback interface is spoken to: 127.0.0.1, [::1] or localhost")
		}
		hosts = []netip.Addr{addr}
	}
	// A space would end the request line's path.
	if strings.ContainsFunc(host+path, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return refuse("spaces and what is not ASCII must be escaped")
	}
	t := target{host: host, path: path}
	for _, h := range hosts {
		t.addrs = append(t.addrs, netip.AddrPortFrom(h, uint16(port)))
	}
	return t, nil
}

// dial connects to the first address that listens. The error is that of the
// first address: it is the one people mean.
func dial(ctx context.Context, t target) (net.Conn, error) {
	// Not DialContext: it would link the whole resolver into a program that never
	// resolves a name.
	var d net.Dialer
	var first error
	for _, a := range t.addrs {
		conn, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, a)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
