// Package s3test installs bundles from a real object store, versitygw, by presigned addresses.
package s3test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
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
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tope-ota/ota/integration/cmdtest"
	"github.com/tope-ota/ota/integration/daemon"
	"github.com/tope-ota/ota/integration/machine/debian"
	"github.com/tope-ota/ota/integration/try"
)

// version of versitygw: the S3 API over a directory.
const version = "v1.8.0"

// The user of the store, whose key must not be seen anywhere.
const user, key = "user", "marker-of-the-key"

// A row is a request as the front saw it.
type row struct {
	method, query string
	status        int
	bytes         int64
}

// A front is what stands before the store and sees what it is asked.
type front struct {
	*httptest.Server
	uses atomic.Int64 // answers for which an address is good; 0: any number

	mu   sync.Mutex
	used map[string]int64 // answers, by query
	rows []row
}

// presign prints an address of the object $1 of the bucket, as a service of the operator does.
func presign() {
	now := time.Now().UTC()
	fmt.Println(sign(os.Getenv("S3"), http.MethodGet, "/bundles/"+os.Args[1], now, now.Nanosecond()))
}

func TestMain(m *testing.M) { cmdtest.Main(m, map[string]func(){"presign": presign}) }

// TestScripts has these commands and programs:
//
//	s3                       start a store with the bucket "bundles"; its address is $S3
//	put FILE KEY             put FILE there
//	presign KEY              print an address that is good for an hour
//	expire N                 from now on an address expires after N answers
//	asked GETS MIN MAX       GETS requests of addresses that were good (N+: N or more) gave from
//	                         MIN to MAX bytes since the last one, and nothing but GET was sent
func TestScripts(t *testing.T) {
	defer try.Fatal(t)
	program := try.Get(debian.FromModule(t.Context(), "github.com/versity/versitygw/cmd/versitygw", version))
	var fronts sync.Map // by $S3
	of := func(ts *testscript.TestScript) *front {
		f, ok := fronts.Load(ts.Getenv("S3"))
		if !ok {
			ts.Fatalf("there is no store: s3 starts one")
		}
		return f.(*front)
	}
	cmdtest.Run(t, "testdata/script", map[string]func(*testscript.TestScript, bool, []string){
		"s3": func(ts *testscript.TestScript, _ bool, _ []string) {
			f := start(ts, program)
			ts.Setenv("S3", f.URL)
			fronts.Store(f.URL, f)
			f.send(ts, http.MethodPut, "/bundles", nil)
		},
		"put": func(ts *testscript.TestScript, _ bool, args []string) {
			of(ts).send(ts, http.MethodPut, "/bundles/"+args[1], []byte(ts.ReadFile(args[0])))
		},
		"expire": func(ts *testscript.TestScript, _ bool, args []string) {
			var n int64
			_, err := fmt.Sscan(args[0], &n)
			ts.Check(err)
			of(ts).uses.Store(n)
		},
		"asked": func(ts *testscript.TestScript, _ bool, args []string) { of(ts).asked(ts, args) },
	})
}

// start starts the store and its front.
func start(ts *testscript.TestScript, program string) *front {
	defer try.Fatal(ts)
	addr := daemon.Address()
	dir := ts.MkAbs("store")
	for _, name := range []string{"objects", "meta"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	cmd := exec.Command(program, "--quiet", "--access", user, "--secret", key, "--port", addr, "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "objects"))
	_, stop := daemon.Start(cmd, addr)
	ts.Defer(stop)
	f := &front{used: make(map[string]int64)}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) } // of a client that hung up
	proxy.ModifyResponse = func(r *http.Response) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.rows = append(f.rows, row{r.Request.Method, r.Request.URL.RawQuery, r.StatusCode, max(0, r.ContentLength)})
		return nil
	}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && f.expired(r.URL.RawQuery) {
			// What the store says of an address that was good for a second, a day ago.
			old, err := url.Parse(sign(f.URL, r.Method, r.URL.Path, time.Now().UTC().AddDate(0, 0, -1), 0))
			if err != nil {
				panic(err)
			}
			r.URL.RawQuery = old.RawQuery
		}
		proxy.ServeHTTP(w, r)
	}))
	ts.Defer(f.Close)
	return f
}

// expired counts an answer to query.
func (f *front) expired(query string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used[query]++
	return f.uses.Load() > 0 && f.used[query] > f.uses.Load()
}

func (f *front) send(ts *testscript.TestScript, method, path string, body []byte) {
	req, err := http.NewRequest(method, sign(f.URL, method, path, time.Now().UTC(), 0), bytes.NewReader(body))
	ts.Check(err)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s %s: %s", method, path, resp.Status)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows = nil
}

// asked: see TestScripts.
func (f *front) asked(ts *testscript.TestScript, args []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var gets int
	var sent int64
	for _, r := range f.rows {
		if r.method != http.MethodGet {
			ts.Fatalf("%s was sent", r.method)
		}
		if r.status < 300 {
			gets++
			sent += r.bytes
		}
	}
	f.rows = nil
	var want int
	var low, high int64
	least := strings.HasSuffix(args[0], "+")
	if _, err := fmt.Sscan(strings.TrimSuffix(args[0], "+")+" "+args[1]+" "+args[2], &want, &low, &high); err != nil {
		ts.Fatalf("usage: asked GETS MIN MAX: %v", err)
	}
	if gets < want || gets > want && !least || sent < low || sent > high {
		ts.Fatalf("%d requests gave %d bytes, want %s and %d to %d", gets, sent, args[0], low, high)
	}
}

// sign returns the address of path at base, which is good for an hour from at on: AWS
// Signature Version 4 in the query. mark makes it another one.
func sign(base, method, path string, at time.Time, mark int) string {
	u, err := url.Parse(base)
	if err != nil {
		panic(err)
	}
	day, stamp := at.Format("20060102"), at.Format("20060102T150405Z")
	scope := day + "/us-east-1/s3/aws4_request"
	q := url.Values{
		"X-Amz-Algorithm": {"AWS4-HMAC-SHA256"}, "X-Amz-Credential": {user + "/" + scope},
		"X-Amz-Date": {stamp}, "X-Amz-Expires": {"3600"}, "X-Amz-SignedHeaders": {"host"},
		"x-mark": {fmt.Sprint(mark)},
	}
	canonical := strings.Join([]string{method, path, strings.ReplaceAll(q.Encode(), "+", "%20"), "host:" + u.Host, "", "host", "UNSIGNED-PAYLOAD"}, "\n")
	sum := sha256.Sum256([]byte(canonical))
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	k := []byte("AWS4" + key)
	for _, part := range []string{day, "us-east-1", "s3", "aws4_request"} {
		k = mac(k, part)
	}
	q.Set("X-Amz-Signature", hex.EncodeToString(mac(k, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(sum[:]))))
	u.Path, u.RawQuery = path, q.Encode()
	return u.String()
}
