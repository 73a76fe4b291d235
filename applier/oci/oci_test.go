package oci

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	for address, want := range map[string]string{
		"oci://registry.example.com/printers/x1:1.2.0": "https://registry.example.com/v2/printers/x1/",
		"oci://Registry.example.com:5000/x1:1.2.0_a":   "https://Registry.example.com:5000/v2/x1/",
		"oci://127.0.0.1:5000/x1@" + digest:            "http://127.0.0.1:5000/v2/x1/",
		"oci://[::1]:5000/x1:a":                        "http://[::1]:5000/v2/x1/",
		"oci://localhost/a/b-c/d__e:1":                 "http://localhost/v2/a/b-c/d__e/",
		"oci://h/x1:1@" + digest:                       "", // a tag and a digest
		"oci://h/x1":                                   "",
		"oci://h/x1:":                                  "",
		"oci://h/x1:.a":                                "",
		"oci://h/x1:" + strings.Repeat("a", 129):       "",
		"oci://h/x1@sha256:12":                         "",
		"oci://h/x1@" + strings.ToUpper(digest):        "",
		"oci://h/X1:1":                                 "",
		"oci://h/../x1:1":                              "",
		"oci://h/x1/:1":                                "",
		"oci://h//x1:1":                                "",
		"oci:///x1:1":                                  "",
		"oci://user:password@h/x1:1":                   "",
		"oci://h\n/x1:1":                               "",
		"oci://h?/x1:1":                                "",
		"https://h/x1:1":                               "",
		"oci://":                                       "",
	} {
		r, err := Parse(address)
		switch {
		case want == "" && err == nil:
			t.Errorf("Parse(%q) = %+v, want an error", address, r)
		case want != "" && (err != nil || r.url("") != want || r.String() != address):
			t.Errorf("Parse(%q) = %+v, %v: %s at %s, want %s", address, r, err, r, r.url(""), want)
		}
	}
}

// TestLocateRefuses asks registries that answer with what is no bundle.
func TestLocateRefuses(t *testing.T) {
	layer := fmt.Sprintf(`{"mediaType":"x","digest":%q,"size":7}`, digest)
	for _, row := range []struct{ name, answer, want string }{
		{"a bundle", `{"layers":[` + layer + `]}`, ""},
		{"an image of two layers", `{"layers":[` + layer + `,` + layer + `]}`, "2 layers"},
		{"an index", `{"manifests":[` + layer + `]}`, "0 layers"},
		{"no JSON", `<html>`, "cannot be read"},
		{"nothing", ``, "cannot be read"},
		{"a layer without a size", `{"layers":[{"digest":"` + digest + `"}]}`, "no size"},
		{"a digest that leaves the path", `{"layers":[{"digest":"sha256:../../x","size":7}]}`, "no SHA-256"},
		{"a long one", `{"layers":[` + layer + `],"x":"` + strings.Repeat("x", maxManifest) + `"}`, "longer than"},
		{"another than was asked for", `{"layers":[` + layer + `] }`, "digest that was asked for"},
	} {
		t.Run(row.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, row.answer) }))
			defer srv.Close()
			ref := Reference{Host: srv.Listener.Addr().String(), Name: "x1", Tag: "1"}
			if strings.HasPrefix(row.name, "another") {
				ref.Tag, ref.Digest = "", digest
			}
			url, size, err := ref.Locate(t.Context(), srv.Client())
			if row.want == "" && (err != nil || size != 7 || url != srv.URL+"/v2/x1/blobs/"+digest) {
				t.Errorf("Locate = %s, %d, %v", url, size, err)
			}
			if row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("Locate = %v, want %q", err, row.want)
			}
		})
	}
}

// TestAuthStays sends neither token nor password to another host.
func TestAuthStays(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("another host was sent %s", r.Header.Get("Authorization"))
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="give"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	auth := Auth(srv.Listener.Addr().String(), "Basic dTpw")
	resp, err := (&http.Client{Transport: auth(http.DefaultTransport)}).Get(srv.URL)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || resp.Request.URL.String() != other.URL {
		t.Errorf("got %v, %v", resp, err)
	}
}

// TestTokenRealm: a registry that is reached by https does not send the password somewhere by http.
func TestTokenRealm(t *testing.T) {
	for _, realm := range []string{"http://127.0.0.1:1/token", "", "/token", "file:///etc/passwd", "ftp://h/"} {
		srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		auth := Auth(srv.Listener.Addr().String(), "Basic dTpw")
		_, err := (&http.Client{Transport: auth(srv.Client().Transport)}).Get(srv.URL)
		if err == nil || !strings.Contains(err.Error(), "no https address") {
			t.Errorf("realm %q: %v", realm, err)
		}
		srv.Close()
	}
}

func TestParameters(t *testing.T) {
	got := parameters(`realm="https://auth.example.com/token?a=b,c",service="registry.example.com", Scope="repository:x:pull,push",error=invalid`)
	want := map[string]string{"realm": "https://auth.example.com/token?a=b,c", "service": "registry.example.com", "scope": "repository:x:pull,push", "error": "invalid"}
	if !maps.Equal(got, want) {
		t.Errorf("parameters = %q, want %q", got, want)
	}
	for _, s := range []string{"", "x", `realm="`, `=`, `,,=",`} {
		parameters(s)
	}
}

func TestReadCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth.json")
	if c, err := ReadCredentials(file, "h"); err != nil || c != "" {
		t.Errorf("no file: %v, %v", c, err)
	}
	for _, row := range []struct {
		text string
		mode os.FileMode
		want string
		err  string
	}{
		{`{"auths":{"h":{"auth":"dTpwOjE="}}}`, 0o600, "Basic dTpwOjE=", ""},
		{`{"auths":{"other":{"auth":"dTpw"}}}`, 0o600, "", ""},
		{`{"auths":{"h":{"auth":"dTpw"}}}`, 0o640, "", "others can read"},
		{`{"auths":{"h":{"auth":"secret"}}}`, 0o600, "", "is not the base64"},
		{`{"auths":{"h":{}},"credsStore":"desktop"}`, 0o600, "", "credsStore"},
		{`secret`, 0o600, "", "not JSON"},
	} {
		if err := os.WriteFile(file, []byte(row.text), row.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, row.mode); err != nil {
			t.Fatal(err)
		}
		c, err := ReadCredentials(file, "h")
		if c != row.want || (err == nil) != (row.err == "") || err != nil && (!strings.Contains(err.Error(), row.err) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s %o: %v, %v", row.text, row.mode, c, err)
		}
	}
}

// A registry that takes an upload and does not say where.
func TestPushNowhere(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "1.0.0.ota")
	if err := os.WriteFile(file, []byte("a bundle"), 0o644); err != nil {
		t.Fatal(err)
	}
	to := Reference{Host: srv.Listener.Addr().String(), Name: "printers", Tag: "1.0.0"}
	want := to.String() + ": the registry does not say where the upload goes"
	if _, err := to.Push(t.Context(), srv.Client(), file); err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// A registry behind a proxy that ends TLS names its own addresses by http: neither the bundle nor
// the password goes there in clear.
func TestNothingInClear(t *testing.T) {
	file := filepath.Join(t.TempDir(), "1.0.0.ota")
	if err := os.WriteFile(file, []byte("a bundle"), 0o644); err != nil {
		t.Fatal(err)
	}
	uploads := 0
	registry := roundTripper(func(req *http.Request) (*http.Response, error) {
		answer := func(code int, header http.Header) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: header, Body: http.NoBody, Request: req}, nil
		}
		authorized := req.Header.Get("Authorization") != ""
		switch {
		case req.URL.Scheme != "https":
			t.Errorf("%s %s, authorized: %v", req.Method, req.URL, authorized)
			return answer(http.StatusUnauthorized, http.Header{"Www-Authenticate": {"Basic"}})
		case !authorized:
			return answer(http.StatusUnauthorized, http.Header{"Www-Authenticate": {"Basic"}})
		case req.Method == http.MethodHead:
			return answer(http.StatusNotFound, nil)
		case req.Method == http.MethodPost:
			return answer(http.StatusAccepted, http.Header{"Location": {"http://registry.example.com/v2/x1/blobs/uploads/7"}})
		}
		uploads++
		return answer(http.StatusCreated, nil)
	})
	auth := Auth("registry.example.com", "Basic dTpw")
	ref := Reference{Host: "registry.example.com", Name: "x1", Tag: "1"}
	if _, err := ref.Push(t.Context(), &http.Client{Transport: auth(registry)}, file); err != nil || uploads != 3 {
		t.Errorf("Push: %v, after %d of 3 uploads", err, uploads)
	}

	redirecting := roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Scheme == "http" && req.Header.Get("Authorization") != "" {
			t.Error("the password was sent in clear after a redirect")
		}
		if req.URL.Scheme == "http" || req.Header.Get("Authorization") == "" {
			return &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {"Basic"}}, Body: http.NoBody, Request: req}, nil
		}
		return &http.Response{StatusCode: http.StatusFound, Header: http.Header{"Location": {"http://registry.example.com/x"}}, Body: http.NoBody, Request: req}, nil
	})
	if resp, err := (&http.Client{Transport: auth(redirecting)}).Get("https://registry.example.com/v2/"); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %v, %v", resp, err)
	}
}

// TestPushInterrupted holds that the hash of a large bundle is not waited for.
func TestPushInterrupted(t *testing.T) {
	name := filepath.Join(t.TempDir(), "large.ota")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 16<<30); err != nil { // it takes no room
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ref := Reference{Host: "localhost:1", Name: "x1", Tag: "1"}
	if _, err := ref.Push(ctx, http.DefaultClient, name); err != context.Canceled {
		t.Errorf("Push = %v, want %v", err, context.Canceled)
	}
}
