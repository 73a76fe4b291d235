package ddi

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/tope-ota/ota/bootcheck"
)

// Auth adds the token of File to requests that go to the scheme and host of Base, and to no
// other, as those that a redirect or a download link leads to. The file is read for each
// request, so a new token needs no restart. No file: no token.
type Auth struct {
	Base *url.URL
	File string
	Over http.RoundTripper
}

// RoundTrip sends req by Over.
func (a *Auth) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != a.Base.Scheme || req.URL.Host != a.Base.Host {
		return a.Over.RoundTrip(req)
	}
	token, err := ReadToken(a.File)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", token)
	}
	return a.Over.RoundTrip(req)
}

// ReadToken returns the Authorization that file holds; empty: there is no file. One that
// others than its owner can read is refused. No error shows what it holds.
func ReadToken(file string) (string, error) {
	fail := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("cannot use the token in %s: %s", file, fmt.Sprintf(format, args...))
	}
	data, err := bootcheck.ReadSecret(file, 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return fail("%v", err)
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return fail("it is empty")
	case strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }):
		return fail("it is more than one line of ASCII")
	case !strings.Contains(token, " "):
		token = "TargetToken " + token
	}
	return token, nil
}
