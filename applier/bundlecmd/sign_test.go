package bundlecmd

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// TestSignHTTP signs with a key that only a server has, as a key management service does.
func TestSignHTTP(t *testing.T) {
	t.Chdir(t.TempDir())
	pub, key, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := pub.MarshalText()
	if err := errors.Join(os.WriteFile("k.pub", text, 0o600), os.Mkdir("tree", 0o755), os.WriteFile("tree/app", nil, 0o755)); err != nil {
		t.Fatal(err)
	}
	signed := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		m, err := bootcheck.ParseManifest(raw)
		switch {
		case r.Header.Get("Authorization") != "Bearer ci":
			http.Error(w, "no", http.StatusUnauthorized)
		case err != nil || m.Models[0] != "x1": // a service that has a policy
			http.Error(w, "not for you", http.StatusForbidden)
		default:
			signed++
			w.Write(bundle.Sign(key, raw, bundle.Comment(m.Version)))
		}
	}))
	defer srv.Close()
	run := func(args ...string) (bootcheck.ExitCode, string) {
		t.Helper()
		var out bytes.Buffer
		code := Main(t.Context(), args, strings.NewReader(""), &out, &out)
		return code, out.String()
	}
	for _, model := range []string{"x1", "x2"} {
		if code, out := run("create", "--unsigned", "--dir", "tree", "--version", "1.0.0", "--release", "1", "--model", model, "-o", model+".ota"); code != 0 {
			t.Fatalf("create: exit %d: %s", code, out)
		}
	}
	curl := func(token string) string {
		return "curl -fsS --data-binary @- -H 'Authorization: Bearer " + token + "' " + srv.URL
	}
	for _, row := range []struct {
		name, file, token string
		want              bootcheck.ExitCode
	}{
		{"a token that is none", "x1.ota", "guess", bootcheck.ExitFailed},
		{"a bundle that the service does not sign", "x2.ota", "ci", bootcheck.ExitFailed},
		{"one that it signs", "x1.ota", "ci", bootcheck.ExitDone},
	} {
		before, _ := os.ReadFile(row.file)
		code, out := run("sign", "--pub", "k.pub", "--with", curl(row.token), row.file)
		if code != row.want {
			t.Errorf("%s: exit %d, want %d: %s", row.name, code, row.want, out)
		}
		if after, _ := os.ReadFile(row.file); code != 0 && !bytes.Equal(before, after) {
			t.Errorf("%s: the bundle changed", row.name)
		}
	}
	if code, out := run("verify", "--key", "k.pub", "x1.ota"); code != 0 || signed != 1 {
		t.Errorf("verify: exit %d: %s; the service signed %d times", code, out, signed)
	}
	if left, _ := filepath.Glob(".*"); len(left) > 0 {
		t.Errorf("left: %s", left)
	}
}
