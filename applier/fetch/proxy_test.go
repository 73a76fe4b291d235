package fetch

import (
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/config"
)

// hiddenHost is a host that only the proxies of these tests can find.
const hiddenHost = "bundles.invalid"

// A testProxy is a real forward proxy for hiddenHost.
type testProxy struct {
	*server
	to     string // host:port of the server that hiddenHost is
	user   string // user:password that it wants; empty: none
	spoil  func(w http.ResponseWriter, r *http.Request, resp *http.Response, n int)
	refuse func(n int) int // status for the n-th request; 0: none
}

func newProxy(t *testing.T, p *testProxy) *testProxy {
	p.server = newServer(t, p.handle)
	return p
}

func (p *testProxy) handle(w http.ResponseWriter, r *http.Request, n int) {
	if p.user != "" && r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(p.user)) {
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if p.refuse != nil {
		if code := p.refuse(n); code != 0 {
			w.WriteHeader(code)
			return
		}
	}
	if host, _, _ := strings.Cut(r.Host, ":"); host != hiddenHost {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if r.Method == http.MethodConnect {
		p.tunnel(w)
		return
	}
	r.Header.Del("Proxy-Authorization") // it is for the proxy; net/http would pass it on
	r.URL.Host = p.to
	r.RequestURI = ""
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(r)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	if p.spoil != nil {
		p.spoil(w, r, resp, n)
		return
	}
	pass(w, resp)
}

func pass(w http.ResponseWriter, resp *http.Response) {
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}

func (p *testProxy) tunnel(w http.ResponseWriter) {
	to, err := net.Dial("tcp", p.to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	join(from, to, buffered.Reader)
}

// join passes bytes on in both directions until one side ends.
func join(from, to net.Conn, first io.Reader) {
	go func() {
		io.Copy(to, first)
		to.Close()
	}()
	io.Copy(from, to)
	from.Close()
}

// A proxyBehaviour is a way of a proxy to be between us and a good server.
type proxyBehaviour struct {
	name  string
	https bool
	proxy testProxy
	user  string // user:password@ in the proxy's address

	gets, code, advice string // "" in gets: the file
	maxFetched         int64  // 0: the file once
	requests           int    // to the proxy; 0: any number
}

func proxyBehaviours() []proxyBehaviour {
	always := func(code int) func(int) int { return func(int) int { return code } }
	once := func(code int) func(int) int {
		return func(n int) int {
			if n == 1 {
				return code
			}
			return 0
		}
	}
	halve := func(w http.ResponseWriter, resp *http.Response) []byte {
		b, _ := io.ReadAll(resp.Body)
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		return b[:len(b)/2]
	}
	return []proxyBehaviour{
		{name: "a proxy for http", requests: 2},
		{name: "a proxy for https", https: true, requests: 1},
		{name: "a proxy that wants a password, http", proxy: testProxy{user: "joe:se@cret"}, user: "joe:se%40cret@", requests: 2},
		{name: "a proxy that wants a password, https", https: true, proxy: testProxy{user: "joe:se@cret"}, user: "joe:se%40cret@", requests: 1},
		{name: "the wrong password for the proxy, http", proxy: testProxy{user: "joe:secret"}, user: "joe:wrongsecret@",
			gets: "server answered 407", code: failed, advice: "check the proxy", requests: 1},
		{name: "the wrong password for the proxy, https", https: true, proxy: testProxy{user: "joe:secret"},
			gets: "the proxy answered 407 Proxy Authentication Required", code: failed, advice: "check the proxy", requests: 1},
		{name: "a proxy that forbids the host, https", https: true, proxy: testProxy{refuse: always(403)},
			gets: "the proxy answered 403 Forbidden", code: failed, advice: "check the proxy", requests: 1},
		{name: "a proxy that cannot reach the host, once, https", https: true, proxy: testProxy{refuse: once(502)}, requests: 2},
		{name: "a proxy that cannot reach the host, always, https", https: true, proxy: testProxy{refuse: always(504)},
			gets: "the proxy answered 504 Gateway Timeout", code: failed, advice: "again", requests: 5},
		{name: "a proxy that cannot reach the host, once, http", proxy: testProxy{refuse: once(502)}, requests: 3},
		{name: "a proxy that compresses and says so", proxy: testProxy{spoil: func(w http.ResponseWriter, r *http.Request, resp *http.Response, n int) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("ETag", resp.Header.Get("ETag"))
			z := gzip.NewWriter(w)
			io.Copy(z, resp.Body)
			z.Close()
		}}, gets: `encoded as "gzip"`, code: failed, maxFetched: 1},
		{name: "a proxy that compresses and does not say so", proxy: testProxy{spoil: func(w http.ResponseWriter, r *http.Request, resp *http.Response, n int) {
			z := gzip.NewWriter(w)
			io.Copy(z, resp.Body)
			z.Close()
		}}, gets: "300007", code: wrong, advice: "another file", maxFetched: 3 * fileSize},
		{name: "a proxy that cuts each answer in half", proxy: testProxy{spoil: func(w http.ResponseWriter, r *http.Request, resp *http.Response, n int) {
			b := halve(w, resp)
			if len(b) < 10_000 {
				w.Header().Del("Content-Length")
				w.Header().Del("Content-Range")
				r.URL.RawQuery = ""
				full, _ := http.DefaultTransport.RoundTrip(r)
				defer full.Body.Close()
				pass(w, full)
				return
			}
			w.WriteHeader(resp.StatusCode)
			w.Write(b)
			cut(w)
		}}},
		{name: "a proxy that cuts the file in half and corrects the length", proxy: testProxy{spoil: func(w http.ResponseWriter, r *http.Request, resp *http.Response, n int) {
			b := halve(w, resp)
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			w.WriteHeader(resp.StatusCode)
			w.Write(b)
		}}, gets: "the server sends 131072 bytes, but names 0 to 262143", code: failed, advice: "run the same command again", maxFetched: 1},
		{name: "a proxy that answers every request from its cache, whole", proxy: testProxy{spoil: func(w http.ResponseWriter, r *http.Request, resp *http.Response, n int) {
			if n == 1 {
				b := halve(w, resp)
				w.Write(b)
				cut(w)
			}
			r.Header.Del("Range")
			r.Header.Del("If-Range")
			whole, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer whole.Body.Close()
			pass(w, whole)
		}}, maxFetched: 2 * fileSize, requests: 2},
		{name: "a proxy that shows a login page instead", proxy: testProxy{spoil: func(w http.ResponseWriter, r *http.Request, resp *http.Response, n int) {
			portal(w, r, nil)
		}}, gets: "want 300007", code: wrong, advice: "login page", maxFetched: 1},
	}
}

// TestProxy holds that a download through a proxy is intact or a clear error,
// and that the proxy's password is told to the proxy only.
func TestProxy(t *testing.T) {
	file := content(fileSize, 1)
	for _, row := range proxyBehaviours() {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			good := func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }
			var s *server
			opt := quick(spoolDir(t))
			scheme := "http"
			if row.https {
				s, opt = newTLSServer(t, tlsServer{host: hiddenHost}, good)
				scheme = "https"
			} else {
				s = newServer(t, good)
			}
			p := row.proxy // the row's own
			proxy := newProxy(t, &testProxy{to: s.Listener.Addr().String(), user: p.user, spoil: p.spoil, refuse: p.refuse})
			opt.Proxy = strings.Replace(proxy.URL, "http://", "http://"+row.user, 1)
			f, st, err := Fetch(t.Context(), Source{URL: scheme + "://" + hiddenHost + "/x?secret=1", Size: fileSize}, opt)
			switch {
			case row.gets == "" && err != nil:
				t.Fatal(err)
			case row.gets == "":
				mustHave(t, f, file)
			case err == nil:
				t.Fatal("Fetch succeeded")
			default:
				checkError(t, err, row.gets, lost, row.code)
				if a := bootcheck.Advice(err); !strings.Contains(a, row.advice) {
					t.Errorf("%q: advice %q, want %q in it", err, a, row.advice)
				}
				if fi, err := os.Stat(partOf(t, opt.Dir, scheme+"://"+hiddenHost+"/x")); err == nil && (fi.Size() > fileSize || fi.Size() == 0) {
					t.Errorf("%d bytes are left", fi.Size())
				}
			}
			if row.maxFetched == 0 {
				row.maxFetched = fileSize
			}
			if st.Fetched > row.maxFetched {
				t.Errorf("%d bytes were fetched, want at most %d", st.Fetched, row.maxFetched)
			}
			if n := len(proxy.asked()); row.requests > 0 && n != row.requests || n == 0 {
				t.Errorf("the proxy got %d requests, want %d", n, row.requests)
			}
			for _, r := range s.asked() {
				if v := r.Header.Get("Proxy-Authorization"); v != "" {
					t.Errorf("the server was sent %q", v)
				}
			}
		})
	}
}

// TestNoProxyThere holds that a dead and a silent proxy are clear errors.
func TestNoProxyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	silent := newListener(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	for _, row := range []struct{ name, proxy, url, gets, advice string }{
		{"dead", "http://joe:secret@" + l.Addr().String(), "http://" + hiddenHost + "/x", "the proxy: nothing listens on ", "check the address and the network"},
		{"dead, https", "http://joe:secret@" + l.Addr().String(), "https://" + hiddenHost + "/x", "the proxy: nothing listens on ", "check the address and the network"},
		{"silent", "http://" + silent, "http://" + hiddenHost + "/x", "the server sent less than 20480 bytes a second for 1s", "again"},
		{"silent, https", "http://" + silent, "https://" + hiddenHost + "/x", "the server sent less than 20480 bytes a second for 1s", "again"},
		{"silent, SOCKS", "socks5://" + silent, "http://" + hiddenHost + "/x", "the server sent less than 20480 bytes a second for 1s", "again"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			opt := quick(spoolDir(t))
			opt.Proxy, opt.patience.tries, opt.patience.window = row.proxy, 2, shortWindow
			_, _, err := Fetch(t.Context(), Source{URL: row.url + "?secret=1"}, opt)
			if err == nil {
				t.Fatal("Fetch succeeded")
			}
			checkError(t, err, row.gets, lost, failed)
			if a := bootcheck.Advice(err); !strings.Contains(a, row.advice) {
				t.Errorf("advice %q, want %q in it", a, row.advice)
			}
			if left := entries(t, opt.Dir); len(left) != 0 {
				t.Errorf("%v are left", left)
			}
		})
	}
}

// TestProxyAddress holds that a wrong address of a proxy is refused before
// anything is made, and not shown.
func TestProxyAddress(t *testing.T) {
	for _, proxy := range []string{"proxy:3128", "joe:secret@proxy", "ftp://proxy", "http://", "http://proxy/secret", "http://joe:secret@pro xy"} {
		dir := spoolDir(t)
		_, _, err := Fetch(t.Context(), Source{URL: "http://host.invalid/x"}, Options{Dir: dir, Proxy: proxy})
		if err == nil {
			t.Errorf("proxy %q was taken", proxy)
			continue
		}
		checkError(t, err, "the address of the proxy is malformed", bootcheck.ExitUsage, failed)
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("proxy %q: the directory was made", proxy)
		}
	}
}

// TestSOCKS holds that a SOCKS proxy is used, and that it resolves the name.
func TestSOCKS(t *testing.T) {
	file := content(fileSize, 1)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	proxy := newListener(t, func(from net.Conn) {
		b := make([]byte, 256)
		io.ReadFull(from, b[:2]) // version, number of methods
		io.ReadFull(from, b[:b[1]])
		from.Write([]byte{5, 0})
		io.ReadFull(from, b[:5]) // version, connect, reserved, a name, its length
		n := int(b[4])
		io.ReadFull(from, b[:n+2])
		if string(b[:n]) != hiddenHost {
			return
		}
		to, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			return
		}
		from.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		join(from, to, from)
	})
	opt := quick(spoolDir(t))
	opt.Proxy = "socks5://" + proxy
	f, _, err := Fetch(t.Context(), Source{URL: "http://" + hiddenHost + "/x", Size: fileSize}, opt)
	if err != nil {
		t.Fatal(err)
	}
	mustHave(t, f, file)
}

// TestRedirectPastProxy holds that a redirect from beyond a proxy does not lead
// to what only the device itself can reach, though the proxy is there, too.
func TestRedirectPastProxy(t *testing.T) {
	inside := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, content(1000, 1)) })
	for _, to := range []string{inside.URL + "/x", strings.Replace(inside.URL, "127.0.0.1", "localhost", 1) + "/x"} {
		s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { redirect(w, to, 302) })
		proxy := newProxy(t, &testProxy{to: s.Listener.Addr().String()})
		opt := quick(spoolDir(t))
		opt.Proxy = proxy.URL
		_, _, err := Fetch(t.Context(), Source{URL: "http://" + hiddenHost + "/x", Size: 1000}, opt)
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "redirect from the internet into the device itself", lost, failed)
	}
	if n := len(inside.asked()); n != 0 {
		t.Errorf("%d requests got through", n)
	}
}

// TestProxyFromEnvironment holds that the variables count where nothing is
// configured. net/http reads them once in a process: hence a child for each row.
func TestProxyFromEnvironment(t *testing.T) {
	file := content(fileSize, 1)
	for _, row := range []struct {
		name, option string
		env          func(proxy string) []string
		host         string // empty: hiddenHost
		direct       bool
		gets         string
	}{
		{name: "http_proxy", env: func(p string) []string { return []string{"http_proxy=" + p} }},
		{name: "HTTP_PROXY", env: func(p string) []string { return []string{"HTTP_PROXY=" + p} }},
		{name: "https_proxy is not for http", env: func(p string) []string { return []string{"https_proxy=" + p} }, gets: hiddenHost},
		{name: "no_proxy", env: func(p string) []string { return []string{"http_proxy=" + p, "no_proxy=.invalid"} }, gets: hiddenHost},
		{name: "the device itself needs no proxy", env: func(p string) []string { return []string{"http_proxy=" + p} }, host: "127.0.0.1", direct: true},
		{name: "none is configured", option: config.NoProxy, env: func(p string) []string { return []string{"http_proxy=" + p} }, gets: hiddenHost},
		{name: "another is configured", option: "proxy", env: func(p string) []string { return []string{"http_proxy=http://127.0.0.1:1", "no_proxy=*"} }},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
			proxy := newProxy(t, &testProxy{to: s.Listener.Addr().String()})
			u := &url.URL{Scheme: "http", Host: hiddenHost, Path: "/x"}
			if row.host != "" {
				u.Host = net.JoinHostPort(row.host, fmt.Sprint(s.Listener.Addr().(*net.TCPAddr).Port))
			}
			option := row.option
			if option == "proxy" {
				option = proxy.URL
			}
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
			child.WaitDelay = 10 * time.Second
			for _, v := range os.Environ() {
				if name, _, _ := strings.Cut(v, "="); !strings.HasSuffix(strings.ToLower(name), "_proxy") {
					child.Env = append(child.Env, v)
				}
			}
			child.Env = append(child.Env, row.env(proxy.URL)...)
			child.Env = append(child.Env, "FETCH_TEST_URL="+u.String(), "FETCH_TEST_DIR="+spoolDir(t), "FETCH_TEST_PROXY="+option)
			out, err := child.CombinedOutput()
			switch {
			case row.gets == "" && err != nil:
				t.Fatalf("%v: %s", err, out)
			case row.gets != "" && (err == nil || !strings.Contains(string(out), row.gets)):
				t.Errorf("%v: %s, want an error with %q", err, out, row.gets)
			}
			if n := len(proxy.asked()); (n == 0) != (row.gets != "" || row.direct) {
				t.Errorf("the proxy got %d requests", n)
			}
		})
	}
}
