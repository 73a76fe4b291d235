package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/tope-ota/ota/bootcheck"
)

// tlsConfig trusts r.roots, or the system's authorities if that is nil, and
// checks certificates by the date of r.dates. The first day of one that was found
// good is a date for r.dates: its signer had that date. A server that asks for a client
// certificate gets the one that is in the file now.
func (r *route) tlsConfig() *tls.Config {
	c := &tls.Config{
		RootCAs:    r.roots,
		MinVersion: tls.VersionTLS12,
		Time:       r.dates.Certificates,
		VerifyConnection: func(s tls.ConnectionState) error {
			r.dates.Learn(s.PeerCertificates[0].NotBefore)
			return nil
		},
	}
	if r.ClientCertificate != "" {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return LoadClientCertificate(r.ClientCertificate)
		}
	}
	return c
}

// LoadClientCertificate reads a PEM file with a certificate, those that lead to its authority,
// and its key. The error is an *Error with ExitDownloadFailed: the file may be replaced at this
// moment, so a follower asks again.
func LoadClientCertificate(name string) (*tls.Certificate, error) {
	var cert tls.Certificate
	err := bootcheck.CheckOwner(name)
	if err == nil {
		var text []byte
		if text, err = bootcheck.ReadSecret(name, 1<<20); err == nil {
			cert, err = tls.X509KeyPair(text, text)
		}
	}
	if err != nil {
		return nil, bootcheck.Errorf(bootcheck.ExitDownloadFailed, bootcheck.CodeDownloadFailed, "cannot read the client certificate %s: %w", name, err).
			WithAdvice("correct `client_certificate` in the configuration: a PEM file with the certificate, those that lead to its authority, and its key, not encrypted, mode 0600")
	}
	return &cert, nil
}

// LoadCA reads the certificates in PEM files. None is nil, the system's. Each
// file must hold one: an authority that the operator meant to name must not go
// missing silently. The error is an *Error with ExitUsage.
func LoadCA(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, name := range files {
		if err := addCA(pool, name); err != nil {
			return nil, bootcheck.Errorf(bootcheck.ExitUsage, bootcheck.CodeDownloadFailed,
				"cannot read the certificates that servers are to be checked by: %w", err).
				WithAdvice("correct `ca` in the configuration: PEM files with the certificates of the authorities")
		}
	}
	return pool, nil
}

func addCA(pool *x509.CertPool, name string) error {
	if err := bootcheck.CheckOwner(name); err != nil {
		return err
	}
	text, err := bootcheck.ReadLinked(name, 4<<20) // all authorities of a browser are 0.3 MB
	if err != nil {
		return err
	}
	n := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d in %q is damaged: %w", n, name, err)
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		return fmt.Errorf("%q holds no certificate in PEM form", name)
	}
	return nil
}
