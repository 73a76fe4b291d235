package check

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/tope-ota/ota/bootcheck/config"
	"github.com/tope-ota/ota/bootcheck/health"
)

// maxBody is the longest body that is read, in bytes. A health answer is a few
// hundred bytes; a version that sends a gigabyte is broken.
const maxBody = 64 << 10

var errRefused = errors.New("nothing listens on")

var errTooLarge = errors.New("the body is larger than 64 KiB")

// address is good when url answers 200 and, if the answer is JSON with a
// "version", that is the one that should be running. An answer that is no JSON,
// or says nothing about a version, is good.
func address(ctx context.Context, url, version string) health.Answer {
	status, body, err := do(ctx, http.MethodGet, url, nil)
	a := health.Answer{Output: string(body[:min(len(body), health.MaxOutput)])}
	got := answeredVersion(body)
	switch {
	case err != nil:
		a.Error, a.Refused = err.Error(), errors.Is(err, errRefused)
	case status != http.StatusOK:
		a.Error = fmt.Sprintf("%s answers with status %d, want 200", url, status)
	case version != "" && got != "" && bare(got) != bare(version):
		a.Error = fmt.Sprintf("%s answers with version %q, want %q", url, got, version)
	case got != "":
		a.Note = "version " + got
	}
	return a
}

// report tells device-api something.
func report(ctx context.Context, url string, body []byte) health.Answer {
	status, _, err := do(ctx, http.MethodPost, url, body)
	switch {
	case err != nil:
		return health.Answer{Error: err.Error()}
	case status/100 != 2:
		return health.Answer{Error: fmt.Sprintf("it answered %d", status)}
	}
	return health.Answer{}
}

// do sends one request to this machine. An answer of any status is no error. It
// trusts no server: the other side can be the broken version that is on trial. So no
// name is resolved, no redirect followed, and head and body are bounded. The status
// and the body so far are returned even with an error.
func do(ctx context.Context, method, address string, body []byte) (status int, answer []byte, err error) {
	addrs, err := config.Loopback(address)
	if err != nil {
		return 0, nil, err
	}
	client := http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				var dialer net.Dialer
				var first error // the one that people mean
				for _, a := range addrs {
					conn, err := dialer.DialTCP(ctx, network, netip.AddrPort{}, a)
					if err == nil {
						return conn, nil
					}
					first = cmp.Or(first, err)
				}
				return nil, first
			},
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("User-Agent", "ota")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		answer, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
		if len(answer) > maxBody {
			answer, err = answer[:maxBody], errTooLarge
		}
		status = resp.StatusCode
	}
	if cause, ok := errors.AsType[*url.Error](err); ok {
		err = cause.Err
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return 0, nil, fmt.Errorf("%w %s", errRefused, req.URL.Host)
	case err != nil:
		return status, answer, fmt.Errorf("%s: %w", address, err)
	}
	return status, answer, nil
}

// answeredVersion is the "version" of a JSON object; empty if there is none or
// it is no string.
func answeredVersion(body []byte) string {
	var answer struct{ Version any }
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	s, _ := answer.Version.(string)
	return s
}

// bare is a version without the "v" that some write before it.
func bare(version string) string { return strings.TrimPrefix(version, "v") }
