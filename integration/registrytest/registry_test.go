// Package registrytest installs bundles from a real OCI registry: plain, with a user and a
// password, and behind a server of tokens. The registry is Debian's docker-registry and, at
// night, the one that came after it, distribution 3.
package registrytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/integration/cmdtest"
	"github.com/tope-ota/ota/integration/daemon"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/tier"
	"github.com/tope-ota/ota/integration/try"
)

func TestMain(m *testing.M) { cmdtest.Main(m, nil) }

// Debian's docker-registry is distribution 2.
func TestScripts(t *testing.T) {
	defer try.Fatal(t)
	dir := try.Get(debian.Tools(t.Context(), "docker-registry"))
	scripts(t, filepath.Join(dir, "usr/bin/docker-registry"))
}

// Distribution 3 is built from its sources, which takes minutes: at night only.
func TestScriptsOfDistribution3(t *testing.T) {
	if !tier.Nightly {
		t.Skip("OTA_TESTS is not nightly")
	}
	defer try.Fatal(t)
	scripts(t, try.Get(debian.FromModule(t.Context(), "github.com/distribution/distribution/v3/cmd/registry", "v3.1.2")))
}

// scripts runs the scripts with a registry that is program. They have these commands:
//
//	registry         start a registry; its address is $REGISTRY
//	registry basic   one that asks for the user u and the password marker-p
//	registry bearer  one that asks for a token, which u and marker-p get, and which is
//	                 good for five requests
//	fetched MIN MAX  from MIN to MAX bytes of bundles were fetched since the last one
func scripts(t *testing.T, program string) {
	var served sync.Map // the bytes of bundles, by $REGISTRY
	cmdtest.Run(t, "testdata/script", map[string]func(*testscript.TestScript, bool, []string){
		"registry": func(ts *testscript.TestScript, _ bool, args []string) {
			bytes := new(atomic.Int64)
			start(ts, program, strings.Join(args, ""), bytes)
			served.Store(ts.Getenv("REGISTRY"), bytes)
		},
		"fetched": func(ts *testscript.TestScript, _ bool, args []string) {
			bytes, _ := served.Load(ts.Getenv("REGISTRY"))
			n := bytes.(*atomic.Int64).Swap(0)
			var low, high int64
			if _, err := fmt.Sscan(strings.Join(args, " "), &low, &high); err != nil || n < low || n > high {
				ts.Fatalf("%d bytes were fetched, want %s", n, strings.Join(args, " to "))
			}
		},
	})
}

// start starts the registry and, before it, a server that asks for what kind says.
func start(ts *testscript.TestScript, program, kind string, served *atomic.Int64) {
	defer try.Fatal(ts)
	addr := daemon.Address()
	config := ts.MkAbs("registry.yml")
	ts.Check(os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", ts.MkAbs("registry"), addr), 0o600))
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none") // or distribution 3 looks for a collector
	_, stop := daemon.Start(cmd, addr)
	ts.Defer(stop)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, "/blobs/") {
			served.Add(max(0, r.ContentLength))
		}
		return nil
	}
	var left atomic.Int64 // requests for which the token is good
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, basic := r.BasicAuth()
		good := basic && user == "u" && password == "marker-p"
		switch {
		case r.URL.Path == "/token" && good && r.FormValue("service") == "s" && r.FormValue("scope") != "":
			left.Store(5)
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "marker-t"})
			return
		case r.URL.Path == "/token":
			w.WriteHeader(http.StatusUnauthorized)
			return
		case kind == "basic" && !good:
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		case kind == "bearer" && (r.Header.Get("Authorization") != "Bearer marker-t" || left.Add(-1) < 0):
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+srv.URL+`/token",service="s",scope="repository:x:pull,push"`)
		default:
			r.Host = r.URL.Host
			proxy.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	ts.Defer(srv.Close)
	ts.Setenv("REGISTRY", srv.Listener.Addr().String())
}
