// Package calendar says which date it is to judge by, on devices that may have
// no clock: for certificates of servers and for bundles that expire. There is one
// judgement for both, so that neither believes what the other knows to be wrong.
package calendar

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/tope-ota/ota/bootcheck"
)

// FileName is a file in the spool folder: the newest date that a signature has
// proved here, in the form of RFC 3339.
const FileName = "newest-date"

// maxAhead is how far beyond its own date the program believes what that file
// says: a damaged one must not make everything expired for ever.
const maxAhead = 10 * 365 * 24 * time.Hour

// A Calendar says which date it is. Many devices have no clock that runs without
// power; they begin each boot in 1970 and may not reach a time server. The date is
// the latest of
//
//   - the system's clock,
//   - the date of this program, bootcheck.BuildDate,
//   - the newest date that is signed: the first day of a server's certificate
//     that was found good here, in this boot or in an earlier one. (Manifests hold
//     no date of their making, so that a build can be repeated; their not_after
//     says nothing about what day it is.)
//
// Unless somebody set the clock ahead, that is never later than the true date: so
// nothing that is good is taken for expired, and a device in 1970 still sees that
// what it is offered ended before its own program was made, or before the server
// got the certificate that it shows. What expired between that date and the true
// one is seen when the clock is set, and not before.
type Calendar struct {
	clock func() time.Time
	name  string // of the file
	mu    sync.Mutex
	floor time.Time // the latest of what is not the clock
	newer bool      // floor is later than the file says, and the file is to say so
	keep  bool      // what is learned
}

// Open reads what is kept in dir, the spool folder; nothing is written. No file,
// or one that others can have written, says nothing. clock is the system's; nil is
// the real one.
func Open(dir string, clock func() time.Time) *Calendar {
	if clock == nil {
		clock = time.Now
	}
	c := &Calendar{clock: clock, name: filepath.Join(dir, FileName), floor: bootcheck.BuildDate(), keep: true}
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

// private reports whether nobody but us can have written the file.
func private(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 == 0 &&
		int(st.Uid) == os.Geteuid() && st.Nlink == 1
}

// Today is the date to judge by.
func (c *Calendar) Today() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.clock(); now.After(c.floor) {
		return now
	}
	return c.floor
}

// Clock is what the system's clock shows.
func (c *Calendar) Clock() time.Time { return c.clock() }

// Unset reports whether the system's clock shows less than what is certain.
func (c *Calendar) Unset() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.clock().Before(c.floor)
}

// Learn takes a date on which somebody who is believed signed something: it is
// that day, or later.
func (c *Calendar) Learn(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.floor) {
		c.floor, c.newer = t, c.keep
	}
}

// Volatile makes Save keep nothing: for who only looks.
func (c *Calendar) Volatile() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep, c.newer = false, false
}

// Save keeps what was learned for a later boot, in the folder that Open was
// given. That it cannot is no error: it is learned again.
func (c *Calendar) Save() {
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
