package fetch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
)

// certificate makes a self-signed one, and the PEM file that it is in.
func certificate(t *testing.T, host string, from, until time.Time) (tls.Certificate, string) {
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
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, file
}

// A tlsServer says what is special about a server that speaks TLS.
type tlsServer struct {
	host        string    // of its certificate; empty: 127.0.0.1
	from, until time.Time // of its certificate; zero: an hour around now
	http2       bool
	asks        bool   // for a certificate of the client
	most        uint16 // newest version of TLS; 0: any
}

// newTLSServer starts a server, and gives the options of a client that trusts it.
func newTLSServer(t *testing.T, c tlsServer, handle handler) (*server, Options) {
	t.Helper()
	if c.host == "" {
		c.host = "127.0.0.1"
	}
	if c.from.IsZero() {
		c.from, c.until = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	cert, file := certificate(t, c.host, c.from, c.until)
	s := &server{}
	s.Server = httptest.NewUnstartedServer(s.counting(handle))
	s.EnableHTTP2 = c.http2
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: c.most}
	if c.asks {
		s.TLS.ClientAuth = tls.RequireAnyClientCert
	}
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	opt := quick(spoolDir(t))
	opt.CA = []string{file}
	return s, opt
}

// A tlsBehaviour is a way of a server, or of the device's clock, to speak TLS.
type tlsBehaviour struct {
	name     string
	server   tlsServer
	ca       []string  // of the client, instead of the server's own; empty, not nil: the system's
	clock    time.Time // of the device; zero: the real one
	seen     time.Time // the date in the spool directory; zero: none
	stalls   bool
	handle   func(file []byte) handler // nil: a good server
	gets     string                    // "": the file; else a part of the error's text
	advice   string                    // a part of what to do next
	requests int
}

func tlsBehaviours(t *testing.T) []tlsBehaviour {
	now := time.Now()
	y1970 := time.Date(1970, 1, 1, 0, 0, 30, 0, time.UTC)
	years := func(n int) time.Time { return bootcheck.BuildDate().AddDate(n, 0, 0) }
	plain := newServer(t, func(w http.ResponseWriter, r *http.Request, n int) { t.Error("a request came over plain http") })
	_, other := certificate(t, "127.0.0.1", now.Add(-time.Hour), now.Add(time.Hour))
	return []tlsBehaviour{
		{name: "good, HTTP/1.1", requests: 2},
		{name: "good, and HTTP/2 if we could", server: tlsServer{http2: true}, requests: 2},
		{name: "dropped each 100 kB", handle: func(file []byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) { serveCut(w, r, file, 100_000) }
		}, requests: 4},
		{name: "a stall in the body", stalls: true, handle: halfThenWait, requests: 2},
		{name: "TLS 1.2", server: tlsServer{most: tls.VersionTLS12}, requests: 2},
		{name: "TLS 1.1 only", server: tlsServer{most: tls.VersionTLS11}, gets: "protocol version", advice: "TLS 1.2 or newer"},
		{name: "TLS 1.0 only", server: tlsServer{most: tls.VersionTLS10}, gets: "protocol version", advice: "TLS 1.2 or newer"},
		{name: "unknown CA", ca: []string{}, gets: "certificate signed by unknown authority", advice: "name the file with the certificate"},
		{name: "another CA is pinned", ca: []string{other}, gets: "certificate signed by unknown authority", advice: "only the authorities in the files of `ca`"},
		{name: "wrong host", server: tlsServer{host: "host.invalid"}, gets: "cannot validate certificate", advice: "ask for it by a name"},
		{name: "a redirect to http", handle: func([]byte) handler {
			return func(w http.ResponseWriter, r *http.Request, n int) { redirect(w, plain.URL+"/x?secret=1", 302) }
		}, gets: "redirect from https to \"" + plain.URL + "/x?…\"", advice: "https://", requests: 1},

		{name: "expired", server: tlsServer{from: now.Add(-2 * time.Hour), until: now.Add(-time.Hour)},
			gets: "expired or is not yet valid", advice: "clock"},
		{name: "not yet valid", server: tlsServer{from: now.Add(time.Hour), until: now.Add(2 * time.Hour)},
			gets: "expired or is not yet valid", advice: "clock"},
		{name: "clock in 1970, certificate older than the program", clock: y1970,
			server: tlsServer{from: years(-1), until: years(1)}, requests: 2},
		{name: "clock in 1970, certificate expired before the program was written", clock: y1970,
			server: tlsServer{from: years(-2), until: years(-1)}, gets: "expired or is not yet valid", advice: "the device's clock is not set, it shows 1970-01-01"},
		{name: "clock in 1970, certificate newer than the program", clock: y1970,
			server: tlsServer{from: years(1), until: years(3)}, gets: "expired or is not yet valid", advice: "the device's clock is not set, it shows 1970-01-01"},
		{name: "clock in 1970, a certificate as new was seen before", clock: y1970, seen: years(1),
			server: tlsServer{from: years(1), until: years(3)}, requests: 2},
		{name: "clock in 1970, certificate expired before what was seen", clock: y1970, seen: years(4),
			server: tlsServer{from: years(1), until: years(3)}, gets: "expired or is not yet valid", advice: "the device's clock is not set, it shows 1970-01-01"},
		{name: "clock in 1970, what was seen is absurd", clock: y1970, seen: years(500),
			server: tlsServer{from: years(-1), until: years(1)}, requests: 2},
		{name: "clock years ahead", clock: years(30),
			server: tlsServer{from: years(-1), until: years(1)}, gets: "expired or is not yet valid", advice: "set the device's clock"},
	}
}

func TestTLS(t *testing.T) {
	file := content(fileSize, 1)
	for _, row := range tlsBehaviours(t) {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			if row.handle == nil {
				row.handle = func(file []byte) handler {
					return func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }
				}
			}
			s, opt := newTLSServer(t, row.server, row.handle(file))
			if row.ca != nil {
				opt.CA = row.ca
			}
			if row.stalls {
				opt.patience.window = shortWindow
			}
			if !row.seen.IsZero() {
				if err := os.Mkdir(opt.Dir, 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Join(opt.Dir, calendar.FileName), []byte(row.seen.Format(time.RFC3339)+"\n"))
			}
			if !row.clock.IsZero() {
				opt.Calendar = calendar.Open(opt.Dir, func() time.Time { return row.clock })
			}
			var retries int
			opt.Log = func(string) { retries++ }
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
				if !strings.Contains(bootcheck.Advice(err), row.advice) {
					t.Errorf("%q: advice %q, want %q in it", err, bootcheck.Advice(err), row.advice)
				}
				if retries > 0 {
					t.Errorf("%q came after %d more tries: nothing gets better by them", err, retries)
				}
				for _, name := range entries(t, opt.Dir) {
					if name != calendar.FileName {
						t.Errorf("%s is left of a file of which nothing arrived", name)
					}
				}
			}
			if n := len(s.asked()); n != row.requests {
				t.Errorf("%d requests, want %d", n, row.requests)
			}
			for _, r := range s.asked() {
				if r.ProtoMajor != 1 {
					t.Errorf("the request came by %s", r.Proto)
				}
			}
		})
	}
}

// TestVeryOldTLS holds that a server that knows nothing of how newer versions
// are agreed on, and picks TLS 1.0, is refused at once.
func TestVeryOldTLS(t *testing.T) {
	const (
		handshake   = "\x16\x03\x01\x00\x2a"                  // a record of TLS 1.0, 42 bytes
		serverHello = "\x02\x00\x00\x26" + "\x03\x01"         // the message, 38 bytes; TLS 1.0
		rest        = "\x00" + "\x00\x2f" + "\x00"            // no session, AES128-SHA, no compression
		random      = "0123456789abcdef0123456789abcdef" + "" // 32 bytes
	)
	s := newListener(t, func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, handshake+serverHello+random+rest)
		_, _ = io.Copy(io.Discard, conn)
	})
	_, st, err := Fetch(t.Context(), Source{URL: "https://" + s + "/x?secret=1"}, quick(spoolDir(t)))
	if err == nil {
		t.Fatal("Fetch succeeded")
	}
	checkError(t, err, "server selected unsupported protocol version", lost, failed)
	if a := bootcheck.Advice(err); st.Requests != 1 || !strings.Contains(a, "TLS 1.2") {
		t.Errorf("%d requests, advice %q", st.Requests, a)
	}
}

// newListener serves each connection by handle, and returns its address.
func newListener(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return l.Addr().String()
}

// TestSeenDate holds that the first day of a good certificate is kept for a
// boot without a clock, that of a refused one is not, and that the file is
// written only when there is something new.
func TestSeenDate(t *testing.T) {
	file := content(1000, 1)
	good := func(w http.ResponseWriter, r *http.Request, n int) { serve(w, r, file) }
	year := func(n int) time.Time { return bootcheck.BuildDate().AddDate(n, 0, 0).Truncate(time.Second) }
	dir := spoolDir(t)
	name := filepath.Join(dir, calendar.FileName)
	get := func(from, until, clock time.Time, pinned bool) error {
		s, opt := newTLSServer(t, tlsServer{from: from, until: until}, good)
		opt.Dir, opt.Calendar = dir, calendar.Open(dir, func() time.Time { return clock })
		if !pinned {
			opt.CA = nil
		}
		f, _, err := Fetch(t.Context(), Source{URL: s.URL + "/x", Size: 1000}, opt)
		if err == nil {
			f.Close()
		}
		return err
	}
	kept := func(what string, want time.Time) {
		t.Helper()
		text, err := os.ReadFile(name)
		got, _ := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
		if want.IsZero() != (err != nil) || err == nil && !got.Equal(want) {
			t.Errorf("%s: the date kept is %v (%v), want %v", what, got, err, want)
		}
	}
	boot := time.Unix(30, 0)

	if err := get(year(-1), year(9), boot, true); err != nil {
		t.Fatal(err)
	}
	kept("a certificate older than the program", time.Time{})
	if err := get(year(1), year(9), year(2), false); err == nil {
		t.Fatal("a certificate of an unknown authority was trusted")
	}
	kept("a certificate that was refused", time.Time{})
	if err := get(year(1), year(9), year(2), true); err != nil {
		t.Fatal(err)
	}
	kept("a good certificate, the clock was set", year(1))
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := get(year(1), year(9), boot, true); err != nil {
		t.Errorf("the same certificate after a boot without a clock: %v", err)
	}
	if after, err := os.Stat(name); err != nil || !os.SameFile(before, after) || before.Mode().Perm() != 0o600 {
		t.Errorf("the file was written again, or has the mode %v, want 0600", before.Mode())
	}
	if err := get(year(-2), year(0), boot, true); err == nil {
		t.Error("a certificate that had expired by then was trusted")
	}
	if err := os.Chmod(name, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := get(year(1), year(9), boot, true); err == nil {
		t.Error("a date without a signature was trusted")
	}
}

func TestCA(t *testing.T) {
	_, good := certificate(t, "127.0.0.1", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(text []byte) string {
		name := filepath.Join(t.TempDir(), "ca.pem")
		write(t, name, text)
		return name
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})
	for _, row := range []struct{ name, file, gets string }{
		{"one certificate", good, ""},
		{"two, and something else around them", file([]byte("A comment\n" + string(text) + string(key) + string(text))), ""},
		{"no file", filepath.Join(t.TempDir(), "none.pem"), "no such file"},
		{"a directory", t.TempDir(), "is not a regular file"},
		{"an empty file", file(nil), "holds no certificate"},
		{"a key", file(key), "holds no certificate"},
		{"a certificate in DER form", file([]byte{0x30, 0x82}), "holds no certificate"},
		{"the second is damaged", file(append(text[:len(text):len(text)], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})...)), "certificate 2 in"},
		{"a huge file", file(make([]byte, 5<<20)), "larger than 4 MiB"},
	} {
		pool, err := LoadCA([]string{good, row.file})
		if row.gets == "" {
			if err != nil || pool == nil {
				t.Errorf("%s: %v", row.name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s was taken", row.name)
			continue
		}
		checkError(t, err, row.gets, bootcheck.ExitUsage, failed)
		if !strings.Contains(bootcheck.Advice(err), "`ca`") {
			t.Errorf("%s: advice %q", row.name, bootcheck.Advice(err))
		}
	}
}
