package fetch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

func redirect(w http.ResponseWriter, to string, code int) {
	w.Header().Set("Location", to)
	w.WriteHeader(code)
}

func TestRedirects(t *testing.T) {
	file := content(fileSize, 1)
	hop := func(w http.ResponseWriter, r *http.Request, n int) {
		var left int
		if _, err := fmt.Sscanf(r.URL.Path, "/hop/%d", &left); err == nil && left > 0 {
			redirect(w, fmt.Sprintf("/hop/%d?secret=2", left-1), []int{301, 302, 303, 307, 308}[left%5])
			return
		}
		serve(w, r, file)
	}
	to := func(location string) handler {
		return func(w http.ResponseWriter, r *http.Request, n int) { redirect(w, location, 302) }
	}
	for _, row := range []struct {
		name   string
		path   string
		handle handler
		gets   string
	}{
		{"five hops", "/hop/5", hop, ""},
		{"six hops", "/hop/6", hop, "more than 5 redirects"},
		{"a loop", "/x", to("/x"), "more than 5 redirects"},
		{"to a file", "/x", to("file:///etc/passwd"), `redirect to "file:///etc/passwd", which is neither http nor https`},
		{"to ftp", "/x", to("ftp://host.invalid/x?secret=1"), "neither http nor https"},
		{"to no host", "/x", to("http:///x"), "names no host"},
		{"to a malformed address", "/x", to("http://user:secret@[::1/x?secret"), "failed to parse Location"},
		{"without an address", "/x", func(w http.ResponseWriter, r *http.Request, n int) { w.WriteHeader(302) }, "server answered 302 Found"},
		{"for each try, the rest included", "/hop/1", func(w http.ResponseWriter, r *http.Request, n int) {
			if strings.HasSuffix(r.URL.Path, "/1") {
				redirect(w, "/hop/0", 307)
				return
			}
			serveCut(w, r, file, fileSize/3)
		}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, row.handle)
			f, st, err := Fetch(t.Context(), Source{URL: s.URL + row.path + "?secret=1", Size: fileSize}, quick(spoolDir(t)))
			if row.gets != "" {
				if err == nil {
					t.Fatal("Fetch succeeded")
				}
				checkError(t, err, row.gets, lost, failed)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mustHave(t, f, file)
			if st.Fetched != fileSize {
				t.Errorf("%d bytes were fetched, want %d", st.Fetched, fileSize)
			}
		})
	}
}

// TestCredentials holds that the credentials of an address reach its own host
// and no other, and that its query is told to nobody.
func TestCredentials(t *testing.T) {
	file := content(fileSize, 1)
	other := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	s := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) {
		switch r.URL.Path {
		case "/away":
			redirect(w, strings.Replace(other.URL, "http://", "http://eve:evil@", 1)+"/x", 302)
		case "/here":
			redirect(w, "/file", 302)
		default:
			serve(w, r, file)
		}
	})
	withUser := strings.Replace(s.URL, "http://", "http://joe:s%2Fecret@", 1)
	for _, path := range []string{"/file", "/here", "/away"} {
		f, _, err := Fetch(t.Context(), Source{URL: withUser + path + "?token=1", Size: fileSize}, quick(spoolDir(t)))
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	for _, r := range s.asked() {
		if user, password, _ := r.BasicAuth(); user != "joe" || password != "s/ecret" {
			t.Errorf("%s was asked for by %q with password %q", r.URL.Path, user, password)
		}
	}
	if n := len(s.asked()); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
	for _, r := range append(other.asked(), s.asked()...) {
		if v := r.Header.Get("Referer"); v != "" {
			t.Errorf("Referer %q was sent", v)
		}
	}
	if n := len(other.asked()); n != 1 {
		t.Errorf("%d requests to the other host, want 1", n)
	}
	for _, r := range other.asked() {
		if v := r.Header.Get("Authorization"); v != "" {
			t.Errorf("the other host was sent %q", v)
		}
	}
}

// TestRedirectInward holds that a redirect does not lead from the internet
// into the device or its network, by address or by name.
func TestRedirectInward(t *testing.T) {
	real := zoneOf
	t.Cleanup(func() { zoneOf = real })
	zoneOf = func(a netip.Addr) zone {
		switch a {
		case netip.MustParseAddr("127.0.0.2"):
			return zonePublic
		case netip.MustParseAddr("127.0.0.3"):
			return zoneNetwork
		}
		return real(a)
	}
	file := content(1000, 1)
	on := func(ip string, handle handler) *server {
		l, err := net.Listen("tcp", ip+":0")
		if err != nil {
			t.Skipf("no address %s here: %v", ip, err) // only Linux has all of 127/8
		}
		s := &server{}
		s.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: s.counting(handle)}}
		s.Start()
		t.Cleanup(s.Close)
		return s
	}
	good := func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }
	servers := map[string]*server{"device": on("127.0.0.1", good), "network": on("127.0.0.3", good), "internet": on("127.0.0.2", good)}
	for _, row := range []struct {
		from, to, gets string
	}{
		{"127.0.0.2", "internet", ""},
		{"127.0.0.2", "network", "redirect from the internet into the local network (127.0.0.3)"},
		{"127.0.0.2", "device", "redirect from the internet into the device itself (127.0.0.1)"},
		{"127.0.0.3", "device", "redirect from the local network into the device itself (127.0.0.1)"},
		{"127.0.0.3", "network", ""},
		{"127.0.0.1", "device", ""},
		{"127.0.0.1", "internet", ""},
	} {
		t.Run(row.from+" to "+row.to, func(t *testing.T) {
			target := servers[row.to]
			before := len(target.asked())
			s := on(row.from, func(w http.ResponseWriter, r *http.Request, n int) { redirect(w, target.URL+"/x", 302) })
			f, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: 1000}, quick(spoolDir(t)))
			if row.gets == "" {
				if err != nil {
					t.Fatal(err)
				}
				mustHave(t, f, file)
				return
			}
			if err == nil {
				t.Fatal("Fetch succeeded")
			}
			checkError(t, err, row.gets, lost, failed)
			if n := len(target.asked()) - before; n != 0 {
				t.Errorf("%d requests got through", n)
			}
		})
	}
	t.Run("by name", func(t *testing.T) {
		u, _ := url.Parse(servers["device"].URL)
		s := on("127.0.0.2", func(w http.ResponseWriter, r *http.Request, n int) {
			redirect(w, "http://localhost:"+u.Port()+"/x", 302)
		})
		_, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: 1000}, quick(spoolDir(t)))
		if err == nil {
			t.Fatal("Fetch succeeded")
		}
		checkError(t, err, "into the device itself", lost, failed)
	})
}

func TestZoneOf(t *testing.T) {
	for addr, want := range map[string]zone{
		"127.0.0.1": zoneDevice, "127.8.8.8": zoneDevice, "::1": zoneDevice, "::ffff:127.0.0.1": zoneDevice,
		"0.0.0.0": zoneDevice, "::": zoneDevice, "169.254.169.254": zoneDevice, "::ffff:169.254.169.254": zoneDevice,
		"fe80::1": zoneDevice, "224.0.0.1": zoneDevice,
		"10.0.0.1": zoneNetwork, "172.16.0.1": zoneNetwork, "192.168.1.1": zoneNetwork, "fd00::1": zoneNetwork,
		"8.8.8.8": zonePublic, "172.32.0.1": zonePublic, "2001:4860:4860::8888": zonePublic,
	} {
		if got := zoneOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("zoneOf(%s) = %v, want %v", addr, got, want)
		}
	}
}

// certificate makes a self-signed one, and the pool that trusts it.
func certificate(t *testing.T, host string, from, until time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func TestTLS(t *testing.T) {
	file := content(fileSize, 1)
	plain := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) })
	good := func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }
	now := time.Now()
	for _, row := range []struct {
		name        string
		host        string // of the certificate
		from, until time.Duration
		untrusted   bool
		old         bool // the server speaks TLS 1.1 at most
		http2       bool
		stalls      bool
		handle      handler
		gets        string
		requests    int
	}{
		{name: "good, HTTP/1.1", host: "127.0.0.1", handle: good, requests: 1},
		{name: "good, HTTP/2", host: "127.0.0.1", http2: true, handle: good, requests: 1},
		{name: "HTTP/2, dropped each 100 kB", host: "127.0.0.1", http2: true, handle: func(w http.ResponseWriter, r *http.Request, n int) {
			serveCut(w, r, file, 100_000)
		}, requests: 4},
		{name: "HTTP/2, a stall in the body", host: "127.0.0.1", http2: true, stalls: true, handle: func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				serveHanging(w, r, file)
				return
			}
			serve(w, r, file)
		}, requests: 2},
		{name: "unknown CA", host: "127.0.0.1", untrusted: true, handle: good, gets: "certificate signed by unknown authority"},
		{name: "wrong host", host: "host.invalid", handle: good, gets: "cannot validate certificate"},
		{name: "expired", host: "127.0.0.1", from: -2 * time.Hour, until: -time.Hour, handle: good, gets: "expired or is not yet valid"},
		{name: "not yet valid", host: "127.0.0.1", from: time.Hour, until: 2 * time.Hour, handle: good, gets: "expired or is not yet valid"},
		{name: "TLS 1.1", host: "127.0.0.1", old: true, handle: good, gets: "protocol version"},
		{name: "a redirect to http", host: "127.0.0.1", handle: func(w http.ResponseWriter, r *http.Request, n int) {
			redirect(w, plain.URL+"/x?secret=1", 302)
		}, gets: "redirect from https to \"" + plain.URL + "/x?…\"", requests: 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if row.until == 0 {
				row.from, row.until = -time.Hour, time.Hour
			}
			cert, pool := certificate(t, row.host, now.Add(row.from), now.Add(row.until))
			s := &server{}
			s.Server = httptest.NewUnstartedServer(s.counting(row.handle))
			s.EnableHTTP2 = row.http2
			s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
			if row.old {
				s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
			}
			s.Config.ErrorLog = quiet
			s.StartTLS()
			t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
			opt := quick(spoolDir(t))
			opt.Failures = 6
			if row.stalls {
				opt.Window = shortWindow
			}
			opt.TLS = &tls.Config{RootCAs: pool}
			if row.untrusted {
				opt.TLS = nil
			}
			f, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x?secret=1", Size: fileSize}, opt)
			switch {
			case row.gets == "" && err != nil:
				t.Fatal(err)
			case row.gets == "":
				mustHave(t, f, file)
			case err == nil:
				t.Fatal("Fetch succeeded")
			default:
				checkError(t, err, row.gets, lost, failed)
				if strings.Contains(row.gets, "expired") && !strings.Contains(bootcheck.Advice(err), "clock") {
					t.Errorf("advice %q does not name the clock", bootcheck.Advice(err))
				}
			}
			if n := len(s.asked()); n != row.requests {
				t.Errorf("%d requests, want %d", n, row.requests)
			}
			for _, r := range s.asked() {
				if row.http2 != (r.ProtoMajor == 2) {
					t.Errorf("the request came by %s", r.Proto)
				}
			}
		})
	}
	if n := len(plain.asked()); n != 0 {
		t.Errorf("%d requests were sent over plain http", n)
	}
}
