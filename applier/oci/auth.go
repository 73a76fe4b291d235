package oci

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/tope-ota/ota/bootcheck"
)

// maxSmall is how long a file of credentials or the answer with a token may be, bytes.
const maxSmall = 64 << 10

// ReadCredentials reads the Authorization for host from file, which has the form that docker,
// podman and oras write: {"auths":{"HOST":{"auth":"base64 of USER:PASSWORD"}}}. Empty if there
// is no file, or nothing in it for host. A file that others than its owner can read
// is refused.
func ReadCredentials(file, host string) (basic string, err error) {
	text, err := bootcheck.ReadSecret(file, maxSmall)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", fmt.Errorf("cannot use the registry's credentials in %s: %w", file, err)
	}
	var all struct {
		Auths map[string]struct{ Auth string }
	}
	if json.Unmarshal(text, &all) != nil { // its text may be in the error
		return "", fmt.Errorf("cannot read the registry's credentials: %s is not JSON as docker writes it", file)
	}
	entry, ok := all.Auths[host]
	if !ok {
		return "", nil
	}
	if entry.Auth == "" {
		return "", fmt.Errorf("cannot read the registry's credentials: those of %s are not in %s, but in a program (credsStore), which is not asked", host, file)
	}
	plain, err := base64.StdEncoding.DecodeString(entry.Auth)
	if err != nil || !bytes.Contains(plain, []byte(":")) {
		return "", fmt.Errorf("cannot read the registry's credentials: in %s, auth of %s is not the base64 of USER:PASSWORD", file, host)
	}
	return "Basic " + base64.StdEncoding.EncodeToString(plain), nil
}

// Auth answers the challenges of the registry host: with a token that it gets where the
// registry says (Bearer), or with basic, of ReadCredentials. Requests to other hosts, as of a
// redirect to the store behind it, and those that are in clear pass as they are. What one
// transport found out serves all.
func Auth(host, basic string) func(base http.RoundTripper) http.RoundTripper {
	a := &auth{host: host, basic: basic}
	return func(base http.RoundTripper) http.RoundTripper { return &transport{a, base} }
}

type auth struct {
	host, basic string

	mu   sync.Mutex
	have string // the Authorization that was good last
}

type transport struct {
	*auth
	base http.RoundTripper
}

// RoundTrip sends req, whose body GetBody makes, and once more if it is answered with a challenge.
func (a *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != a.host || req.URL.Scheme != "https" && !onDevice(req.URL) {
		return a.base.RoundTrip(req)
	}
	if req.Body != nil {
		defer req.Body.Close() // send makes its own
	}
	a.mu.Lock()
	have := a.have
	a.mu.Unlock()
	resp, err := a.send(req, have)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	fresh, err := a.answer(req, resp.Header.Values("WWW-Authenticate"))
	if err == nil && (fresh == "" || fresh == have) {
		return resp, nil // there is nothing else to try
	}
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp, err = a.send(req, fresh)
	if err == nil && resp.StatusCode != http.StatusUnauthorized {
		a.mu.Lock()
		a.have = fresh
		a.mu.Unlock()
	}
	return resp, err
}

func (a *transport) send(req *http.Request, authorization string) (_ *http.Response, err error) {
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	if authorization != "" {
		again.Header.Set("Authorization", authorization)
	}
	return a.base.RoundTrip(again)
}

// answer is the Authorization that one of the challenges asks for; empty: none can be had.
func (a *transport) answer(req *http.Request, challenges []string) (string, error) {
	for _, c := range challenges {
		switch scheme, rest, _ := strings.Cut(c, " "); strings.ToLower(scheme) {
		case "basic":
			return a.basic, nil
		case "bearer":
			token, err := a.token(req, parameters(rest))
			if err != nil {
				return "", fmt.Errorf("cannot get a token for the registry: %w", err)
			}
			return "Bearer " + token, nil
		}
	}
	return "", nil
}

// token asks for one where the challenge says.
func (a *transport) token(req *http.Request, c map[string]string) (string, error) {
	realm, err := url.Parse(c["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != req.URL.Scheme {
		return "", fmt.Errorf("the registry names no https address for it: %.200q", c["realm"])
	}
	q := realm.Query()
	for _, key := range []string{"service", "scope"} {
		if c[key] != "" {
			q.Set(key, c[key])
		}
	}
	realm.RawQuery = q.Encode()
	ask, err := http.NewRequestWithContext(req.Context(), http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", err
	}
	if a.basic != "" {
		ask.Header.Set("Authorization", a.basic)
	}
	resp, err := a.base.RoundTrip(ask)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", &StatusError{realm.Host, resp.StatusCode}
	}
	var answer struct {
		Token       string
		AccessToken string `json:"access_token"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, maxSmall)).Decode(&answer)
	token := cmp.Or(answer.Token, answer.AccessToken)
	if err != nil || token == "" {
		return "", fmt.Errorf("%s answered without one", realm.Host)
	}
	return token, nil
}

// parameters reads key="value", key=value, … of a challenge.
func parameters(s string) map[string]string {
	all := map[string]string{}
	for s != "" {
		key, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		var value string
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			value, rest, _ = strings.Cut(quoted, `"`)
			_, s, _ = strings.Cut(rest, ",")
		} else {
			value, s, _ = strings.Cut(rest, ",")
		}
		all[strings.ToLower(strings.Trim(key, " ,"))] = strings.TrimSpace(value)
	}
	return all
}
