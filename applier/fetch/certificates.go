package fetch

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/tope-ota/ota/bootcheck"
)

// written is when this was written: no clock that shows less was ever set. Raise
// it now and then, never beyond the day on which that is done.
var written = time.Date(2026, time.September, 1, 0, 0, 0, 0, time.UTC)

// dateName is a file in the spool folder: the newest date that a signature has
// proved here, in the form of RFC 3339.
const dateName = "newest-date"

// maxAhead is how far beyond its own date the program believes what that file
// says: a damaged one must not make every certificate expired for ever.
const maxAhead = 10 * 365 * 24 * time.Hour

// A calendar says which date it is for judging certificates. Many devices have
// no clock that runs without power; they begin each boot in 1970 and may not
// reach a time server. The date is the latest of
//
//   - the system's clock,
//   - the date of this program: that of its commit, where the build says it,
//     but at least written,
//   - the newest date that is signed: the first day of a server's certificate
//     that was found good here, in this boot or in an earlier one. (Manifests hold
//     no date of their making, so that a build can be repeated; their not_after
//     says nothing about what day it is.)
//
// That is never later than the true date, so no certificate that is good is
// taken for expired; one that began after all three is refused as not yet valid
// until the clock is set.
type calendar struct {
	clock func() time.Time
	name  string    // of the file
	floor time.Time // the latest of what is not the clock
	mu    sync.Mutex
	newer bool // floor is later than the file says
}

// openCalendar reads what is in dir. No file, or one that others can have
// written, says nothing.
func openCalendar(dir string, clock func() time.Time) *calendar {
	if clock == nil {
		clock = time.Now
	}
	c := &calendar{clock: clock, name: filepath.Join(dir, dateName), floor: programDate()}
	if t, err := readDate(c.name); err == nil && t.After(c.floor) && t.Before(c.floor.Add(maxAhead)) {
		c.floor = t
	}
	return c
}

func readDate(name string) (time.Time, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !private(fi) {
		return time.Time{}, fmt.Errorf("%q is not a file of ours", name)
	}
	text, err := io.ReadAll(io.LimitReader(f, 100))
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
}

// programDate is the date of this program.
func programDate() time.Time {
	date := written
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil && t.After(date) {
				date = t
			}
		}
	}
	return date
}

// today is the date to judge certificates by.
func (c *calendar) today() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.clock(); now.After(c.floor) {
		return now
	}
	return c.floor
}

// unset reports whether the system's clock shows less than what is certain.
func (c *calendar) unset() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clock().Before(c.floor)
}

// learn takes the date of a certificate that was found good: who signed it had
// that date.
func (c *calendar) learn(s tls.ConnectionState) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := s.PeerCertificates[0].NotBefore; t.After(c.floor) {
		c.floor, c.newer = t, true
	}
	return nil
}

// save keeps what was learned for a later boot. That it cannot is no error: it
// is learned again.
func (c *calendar) save() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.newer {
		return // certificates change a few times a year: so do the writes
	}
	f, err := renameio.NewPendingFile(c.name, renameio.WithTempDir(filepath.Dir(c.name)), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return
	}
	defer f.Cleanup()
	if _, err := io.WriteString(f, c.floor.UTC().Format(time.RFC3339)+"\n"); err == nil && f.CloseAtomicallyReplace() == nil {
		c.newer = false
	}
}

// tlsConfig believes roots, or the system's authorities if that is nil.
func (c *calendar) tlsConfig(roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		RootCAs:          roots,
		MinVersion:       tls.VersionTLS12,
		Time:             c.today,
		VerifyConnection: c.learn,
	}
}

// loadCA reads the certificates in PEM files. None is nil, the system's. Each
// file must hold one: an authority that somebody meant to name must not go
// missing silently.
func loadCA(files []string) (*x509.CertPool, error) {
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
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO does not block
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return fmt.Errorf("%q is not a regular file", name)
	}
	const limit = 4 << 20 // all authorities of a browser are 0.3 MB
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return err
	}
	if len(text) > limit {
		return fmt.Errorf("%q is larger than 4 MiB", name)
	}
	n := 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("certificate %d in %q is damaged: %w", n+1, name, err)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return fmt.Errorf("%q holds no certificate in PEM form", name)
	}
	return nil
}
