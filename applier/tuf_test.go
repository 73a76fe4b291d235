package applier

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/tope-ota/ota/applier/bundle"
	"github.com/tope-ota/ota/bootcheck"
)

// TestTUF is one test for each class of attacks on updaters that The Update
// Framework names, through the whole of an install. docs/SECURITY.md has the table;
// what each defence does in detail is tested where it is.
func TestTUF(t *testing.T) {
	t.Parallel()
	const refused, damaged, failed = bootcheck.ExitRefused, bootcheck.ExitDamaged, bootcheck.ExitDownloadFailed
	release := func(n int64) func(c *bundle.Contents) { return func(c *bundle.Contents) { c.Release = n } }

	t.Run("arbitrary software", func(t *testing.T) {
		d := newDevice(t)
		_, stranger, err := minisign.GenerateKey(nil)
		d.must(err)
		d.refused(d.install(d.bundle("2.0.0", func(c *bundle.Contents) { c.Key = stranger }), installOptions{}), refused, "which is not trusted here")
		// Not even when an operator insists, and not by a device that has no keys.
		d.refused(d.install(d.path("2.0.0.ota"), installOptions{force: true, allowDowngrade: true}), refused, "which is not trusted here")
		good := d.bundle("2.0.1", nil)
		d.must(os.RemoveAll(d.path("etc/keys")))
		d.refused(d.install(good, installOptions{}), refused, "every install is refused")
	})

	t.Run("rollback", func(t *testing.T) {
		d := newDevice(t)
		d.refused(d.install(d.bundle("0.9.0", release(4)), installOptions{}), refused, "its release 4 is older than release 5")
		// Nor when all that the device remembers is destroyed: the current version knows it.
		records, err := filepath.Glob(d.path("versions/.generations/*/record*"))
		d.must(err)
		for _, name := range records {
			d.must(os.WriteFile(name, []byte("x"), 0o600))
		}
		d.refused(d.install(d.path("0.9.0.ota"), installOptions{}), refused, "its release 4 is older than release 5")
	})

	t.Run("fast-forward", func(t *testing.T) {
		d := newDevice(t)
		for _, n := range []int64{1<<63 - 1, 1 << 62, 5 + bootcheck.MaxReleaseStep + 1} {
			d.refused(d.install(d.bundle("9.0.0", release(n)), installOptions{}), refused, fmt.Sprintf("its release %d is ", n))
		}
		// What is trusted leaves room above it.
		d.must(d.install(d.bundle("9.0.1", release(5+bootcheck.MaxReleaseStep)), installOptions{}))
		d.confirm()
		d.must(d.install(d.bundle("2.0.0", release(6+bootcheck.MaxReleaseStep)), installOptions{}))
	})

	t.Run("freeze", func(t *testing.T) {
		d := newDevice(t)
		program := bootcheck.BuildDate()
		until := program.AddDate(0, 6, 0)
		old := d.bundle("1.5.0", func(c *bundle.Contents) { c.NotAfter = &until })
		d.clock = program.AddDate(0, 1, 0)
		d.must(d.install(old, installOptions{noActivate: true}))
		d.must(os.RemoveAll(d.path("versions/v1.5.0")))

		// A year later the clock was set once, and a server showed its certificate.
		d.clock = program.AddDate(1, 0, 1)
		url, ca := tlsFile(t, d.bundle("1.6.0", nil), program.AddDate(1, 0, 0))
		d.cfg.CA = []string{ca}
		d.must(d.install(url, installOptions{noActivate: true}))
		d.must(os.RemoveAll(d.path("versions/v1.6.0")))

		// The device boots without a clock, and is offered the old bundle again.
		d.clock = time.Unix(30, 0)
		d.refused(d.install(old, installOptions{}), refused, "it expired at")
	})

	t.Run("endless data", func(t *testing.T) {
		for _, what := range []string{"instead of a bundle", "after the head of one", "after all of one"} {
			d := newDevice(t)
			name := d.bundle("2.0.0", nil)
			data, err := os.ReadFile(name)
			d.must(err)
			switch what {
			case "instead of a bundle":
				data = nil
			case "after the head of one":
				n, err := bundle.HeadSize(data)
				d.must(err)
				data = data[:n]
			}
			var sent atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Write(data)
				zeros := make([]byte, 32<<10)
				for {
					n, err := w.Write(zeros)
					sent.Add(int64(n))
					if err != nil || sent.Load() > 256<<20 {
						return
					}
				}
			}))
			// What waits in the kernel of the server is not what the device took.
			server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
				d.must(c.(*net.TCPConn).SetWriteBuffer(64 << 10))
				return ctx
			}
			server.Start()
			d.must(d.tolerate(d.install(server.URL+"/x.ota", installOptions{}), damaged, failed))
			if n := sent.Load(); n > 16<<20 {
				t.Errorf("%s: the server sent %d MiB, and the device took them", what, n>>20)
			}
			server.CloseClientConnections()
			server.Close()
		}
	})

	t.Run("slow retrieval", func(t *testing.T) {
		d := newDevice(t)
		d.cfg.DownloadDeadline = time.Second // for the whole of it; the least rate has its tests in package fetch
		data, err := os.ReadFile(d.bundle("2.0.0", nil))
		d.must(err)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			for i := range data {
				w.Write(data[i : i+1])
				http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}))
		defer server.Close()
		defer server.CloseClientConnections()
		err = d.install(server.URL+"/x.ota", installOptions{})
		if bootcheck.Exit(err) != failed || !strings.Contains(err.Error(), "it is not complete after 1s") {
			t.Errorf("install: %v, want exit %d after the deadline", err, failed)
		}
		if d.runs() != "1.0.0" {
			t.Errorf("%s runs", d.runs())
		}
	})

	t.Run("extraneous dependencies", func(t *testing.T) {
		// A bundle names no other bundle. What is added to it is refused.
		d := newDevice(t)
		name := d.bundle("2.0.0", nil)
		good, err := os.ReadFile(name)
		d.must(err)
		more, err := os.ReadFile(d.bundle("2.0.1", nil))
		d.must(err)
		d.must(os.WriteFile(name, append(good, more...), 0o600))
		d.refused(d.install(name, installOptions{}), damaged, "bytes follow the end of the bundle")
	})

	t.Run("mix-and-match", func(t *testing.T) {
		// The head of one version, the payload of another, both good.
		d := newDevice(t)
		read := func(version string) (data []byte, head int64) {
			data, err := os.ReadFile(d.bundle(version, nil))
			d.must(err)
			head, err = bundle.HeadSize(data)
			d.must(err)
			return data, head
		}
		a, headA := read("2.0.0")
		b, headB := read("2.0.1")
		mixed := append(a[:headA:headA], b[headB:]...)
		if more := len(a) - len(mixed); more > 0 { // how they compress decides
			mixed = append(mixed, make([]byte, more)...)
		}
		name := d.path("mixed.ota")
		d.must(os.WriteFile(name, mixed[:len(a)], 0o600))
		d.refused(d.install(name, installOptions{}), damaged, " of the bundle is damaged: sha256")
	})

	t.Run("wrong software", func(t *testing.T) {
		d := newDevice(t)
		d.refused(d.install(d.bundle("2.0.0", func(c *bundle.Contents) { c.Models = []string{"x2"} }), installOptions{force: true, allowDowngrade: true}),
			refused, `it is for x2, this device is "x1"`)
		// Another good bundle than the one that was asked for.
		d.refused(d.install(d.bundle("2.0.1", nil), installOptions{sha256: strings.Repeat("0", 64)}), damaged, "is not 0000")
		// The name of the current version, with another content.
		d.refused(d.install(d.bundle("1.0.0", release(6)), installOptions{}), refused, "is a version of this name with other content")
	})

	t.Run("key compromise", func(t *testing.T) {
		d := newDevice(t)
		// The old key was stolen, and the new one says so.
		thief := d.bundle("6.6.6", release(7))
		d.must(d.install(d.bundle("2.0.0", func(c *bundle.Contents) { c.Key, c.Revoke, c.Release = d.new, []string{keyID(d.key)}, 6 }), installOptions{}))
		d.confirm()
		err := d.install(thief, installOptions{force: true, allowDowngrade: true})
		if bootcheck.Exit(err) != refused || !strings.Contains(err.Error(), "which was revoked") || d.runs() != "2.0.0" {
			t.Errorf("install of what a revoked key signed: %v, %s runs", err, d.runs())
		}
		// The new key cannot be revoked by the old one any more, and by itself never.
		_, err = bundle.Create(context.Background(), d.path("self.ota"), bundle.Contents{
			Dir: d.path("tree-2.0.0"), Version: "2.0.1", Models: []string{"x1"}, Release: 7, Key: d.new, Revoke: []string{keyID(d.new)},
		})
		if bootcheck.Exit(err) != refused {
			t.Errorf("a bundle that revokes the key that signs it: %v", err)
		}
		err = d.install(d.bundle("6.6.7", func(c *bundle.Contents) { c.Release, c.Revoke = 7, []string{keyID(d.new)} }), installOptions{})
		if bootcheck.Exit(err) != refused || !strings.Contains(err.Error(), "which was revoked") {
			t.Errorf("a revoked key revokes another: %v", err)
		}
		d.must(d.install(d.bundle("2.1.0", func(c *bundle.Contents) { c.Key, c.Release = d.new, 7 }), installOptions{}))
	})
}

// tolerate is nil if err has one of these exit codes and nothing was installed.
func (d *device) tolerate(err error, codes ...bootcheck.ExitCode) error {
	d.t.Helper()
	for _, c := range codes {
		if bootcheck.Exit(err) == c && d.runs() == "1.0.0" {
			return nil
		}
	}
	return fmt.Errorf("install: %v (exit %d), %s runs; want one of the exits %v and 1.0.0", err, bootcheck.Exit(err), d.runs(), codes)
}

// tlsFile serves a file over https, with a certificate that begins at from.
func tlsFile(t *testing.T, name string, from time.Time) (url, ca string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.AddDate(20, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	must(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL + "/x.ota", ca
}
