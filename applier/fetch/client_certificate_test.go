package fetch

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tope-ota/ota/bootcheck"
	"github.com/tope-ota/ota/bootcheck/calendar"
)

// own makes the file of a client certificate of that name, self-signed, with its key.
func own(t *testing.T, name string, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}

// A server that asks for a certificate of the device is shown the one in the file, as it is
// at that time, of a small request and of a download; without one the hint names the key.
func TestClientCertificate(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("x"), 1000)
	var mu sync.Mutex
	var seen []string
	saw := func() (all []string) {
		mu.Lock()
		defer mu.Unlock()
		all, seen = seen, nil
		return all
	}
	s, opt := newTLSServer(t, tlsServer{asks: true}, func(w http.ResponseWriter, r *http.Request, _ int) {
		mu.Lock()
		seen = append(seen, r.TLS.PeerCertificates[0].Subject.CommonName)
		mu.Unlock()
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	opt.Calendar = calendar.Open(opt.Dir, nil)

	src := Source{URL: s.URL + "/x"}
	_, _, err = Fetch(t.Context(), src, opt)
	checkError(t, err, "certificate required", bootcheck.ExitDownloadFailed, failed)
	if !strings.Contains(bootcheck.Advice(err), "`client_certificate`") {
		t.Errorf("without a certificate the hint is %q", bootcheck.Advice(err))
	}

	opt.ClientCertificate = filepath.Join(t.TempDir(), "device.pem")
	client, err := opt.Client()
	if err != nil {
		t.Fatal(err) // a follower that begins before the file is there
	}
	if _, err := client.Get(s.URL); bootcheck.Exit(err) != bootcheck.ExitDownloadFailed || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("before the file is there: %v, exit code %d", err, bootcheck.Exit(err))
	}
	for name, key := range map[string]crypto.Signer{"ec": ec, "rsa": rsaKey} {
		if err := os.WriteFile(opt.ClientCertificate, own(t, name, key), 0o600); err != nil {
			t.Fatal(err)
		}
		opt.Dir = spoolDir(t)
		if f, _, err := Fetch(t.Context(), src, opt); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			mustHave(t, f, content)
		}
		if got := saw(); len(got) == 0 || got[0] != name {
			t.Errorf("%s: the server saw %v", name, got)
		}
	}

	// Replaced while the program runs.
	if err := os.WriteFile(opt.ClientCertificate, own(t, "second", ec), 0o600); err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(s.URL)
	if got := saw(); err != nil || len(got) != 1 || got[0] != "second" {
		t.Fatalf("a small request: %v, the server saw %v", err, got)
	}
	resp.Body.Close()

	// One that the server refuses.
	s.TLS.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("no") }
	opt.Dir = spoolDir(t)
	_, _, err = Fetch(t.Context(), src, opt)
	checkError(t, err, "bad certificate", bootcheck.ExitDownloadFailed, failed)
	if !strings.Contains(bootcheck.Advice(err), "the server refuses the certificate") {
		t.Errorf("of a certificate that is refused the hint is %q", bootcheck.Advice(err))
	}
}

// A file that cannot be the client certificate is told of before anything is asked for, and
// nothing of it is shown.
func TestClientCertificateRefused(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, wrong := own(t, "x", key), own(t, "x", other)
	cert, _ := pem.Decode(good)
	for _, row := range []struct {
		name string
		text []byte
		mode os.FileMode
		gets string
	}{
		{"one that others can read", good, 0o644, "others can read it"},
		{"no key", pem.EncodeToMemory(cert), 0o600, "key"},
		{"no certificate", []byte("marker"), 0o600, "certificate"},
		{"the key of another one", append(pem.EncodeToMemory(cert), wrong...), 0o600, "does not match"},
		{"none", nil, 0, "no such file"},
	} {
		opt := quick(spoolDir(t))
		opt.ClientCertificate = filepath.Join(t.TempDir(), "device.pem")
		if row.mode != 0 {
			if err := os.WriteFile(opt.ClientCertificate, row.text, row.mode); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := Fetch(t.Context(), Source{URL: "https://127.0.0.1:1/x"}, opt)
		if err == nil {
			t.Errorf("%s was taken", row.name)
			continue
		}
		checkError(t, err, row.gets, bootcheck.ExitDownloadFailed, failed)
		if strings.Contains(err.Error(), "marker") || !strings.Contains(bootcheck.Advice(err), "`client_certificate`") {
			t.Errorf("%s: %v, hint %q", row.name, err, bootcheck.Advice(err))
		}
	}
}

// The authorities of small requests are those in the files at that time: a file that is not
// there or is damaged fails that request alone, and another authority counts at once.
func TestAuthoritiesReplaced(t *testing.T) {
	s, opt := newTLSServer(t, tlsServer{}, func(http.ResponseWriter, *http.Request, int) {})
	opt.Calendar = calendar.Open(opt.Dir, nil)
	good, err := os.ReadFile(opt.CA[0])
	if err != nil {
		t.Fatal(err)
	}
	_, file := certificate(t, "127.0.0.1", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	other, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(opt.CA[0]); err != nil {
		t.Fatal(err)
	}
	client, err := opt.Client()
	if err != nil {
		t.Fatal(err) // a follower that begins before the file is there
	}
	for _, row := range []struct {
		name string
		text []byte
		gets string // "": an answer
	}{
		{"no file", nil, "no such file"},
		{"the server's", good, ""},
		{"half of it", good[:len(good)/2], "holds no certificate"},
		{"the server's again", good, ""},
		{"another", other, "unknown authority"},
		{"both", append(other, good...), ""},
	} {
		if row.text != nil {
			write(t, opt.CA[0], row.text)
		}
		resp, err := client.Post(s.URL, "text/plain", strings.NewReader("x"))
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != (row.gets == "") || err != nil && !strings.Contains(err.Error(), row.gets) {
			t.Errorf("%s: %v, want %q", row.name, err, row.gets)
		}
	}
}
