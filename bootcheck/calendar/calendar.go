// Package calendar says by which date certificates and bundles are judged on a device
// that may have no clock: many begin each boot in 1970 and never reach a time server.
package calendar

import (
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/tope-ota/ota/bootcheck"
)

// FileName is a file in the spool folder: the newest date that a signature has
// proved here, in the form of RFC 3339.
const FileName = "newest-date"

// maxAhead is how far beyond its own date the program believes what that file
// says: a damaged one must not make everything expired for ever.
const maxAhead = 10 * 365 * 24 * time.Hour

// A Calendar is the latest of the system's clock, the date of this program, and the
// newest first day of a server's certificate that was found good here, in any boot.
// (Manifests hold no date of their making, so that a build can be repeated.) Unless
// the clock was set ahead, that is never later than the true date, so nothing good is
// taken for expired. What expired between the two is seen when the clock is set.
type Calendar struct {
	Clock func() time.Time // the system's
	name  string           // of the file; empty: nothing is kept
	mu    sync.Mutex
	floor time.Time // the latest of what is not the clock
	newer bool      // floor is later than the file says
}

// Open reads the date that is kept in dir and writes nothing. No file, or one that
// others can have written, says nothing. clock nil is the real one.
func Open(dir string, clock func() time.Time) *Calendar {
	c := &Calendar{Clock: clock, name: filepath.Join(dir, FileName), floor: bootcheck.BuildDate()}
	if clock == nil {
		c.Clock = time.Now
	}
	if text, err := bootcheck.ReadRegular(c.name, 100); err == nil && bootcheck.CheckOwner(c.name) == nil {
		t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
		if err == nil && t.After(c.floor) && t.Before(c.floor.Add(maxAhead)) {
			c.floor = t
		}
	}
	return c
}

// Today is the date to judge by.
func (c *Calendar) Today() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.Clock(); now.After(c.floor) {
		return now
	}
	return c.floor
}

// Unset reports whether the system's clock shows less than what is certain.
func (c *Calendar) Unset() bool { return c.Clock().Before(c.Today()) }

// Learn takes the date of a trusted signature: today is that day, or later.
func (c *Calendar) Learn(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.floor) {
		c.floor, c.newer = t, true
	}
}

// Volatile makes Save keep nothing, for a dry run.
func (c *Calendar) Volatile() { c.name = "" }

// Save keeps what was learned for a later boot. An error is ignored: the date is
// learned again. Certificates change a few times a year, and so does the file.
func (c *Calendar) Save() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newer && c.name != "" {
		err := bootcheck.ReplaceFile(c.name, []byte(c.floor.UTC().Format(time.RFC3339)+"\n"), 0o600, true)
		c.newer = err != nil
	}
}
